"""One launch for a whole update or plan: what may be recorded, and that nothing but the speed changes by it."""

import contextlib
import copy
import gc
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import test_contract_actors
import tiny
import torch
from test_contract_actors import MODELS, make
from torch import Tensor
from torch.utils import _pytree as tree
from torch.utils._python_dispatch import TorchDispatchMode

from agents.agent import Agent
from agents.graphs import WARM_UP, Compiled, Graphed, GraphError, compile_steps, cuda_graph
from agents.planners.cem import CEM
from training.configuration import components
from training.configuration.components import find
from worldmodel.base import Spec, WorldModel

ACTORS = [name for name in test_contract_actors.ACTORS if name in components.names("actor")]  # one file of each
both = pytest.mark.parametrize("spec", [tiny.SPEC, tiny.DISCRETE], ids=["continuous", "discrete"])
PROCESSOR = torch.device("cpu")


# ---- what may be recorded: on the meta device tensors have no values, and none may come from elsewhere ----


class Watched(TorchDispatchMode):
    """Everything that is computed must be on the meta device."""

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), options: Any = None) -> Any:
        made = function(*given, **(options or {}))
        elsewhere = [a for a in tree.tree_leaves(made) if isinstance(a, Tensor) and a.device.type != "meta"]
        assert not elsewhere, f"{function} makes a tensor on another device, or moves one there"
        return made


def on_meta(name: str, spec: Spec, monkeypatch: pytest.MonkeyPatch) -> Agent:
    agent = make(name, spec)
    agent.model.to("meta")
    agent.actor.to("meta")
    agent.device, agent.generator = torch.device("meta"), None  # type: ignore[assignment]  # meta has none
    monkeypatch.setattr(torch, "autocast", lambda *given, **options: contextlib.nullcontext())  # it does not know meta
    return agent


@both
@pytest.mark.parametrize("mode", ["evaluate", "explore"])
@pytest.mark.parametrize("name", [f"{actor} on {model}" for actor in ACTORS for model in MODELS])
def test_deciding_asks_for_no_value_and_makes_nothing_on_another_device(
    name: str, mode: Any, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = on_meta(name, spec, monkeypatch)
    image, starts = (
        torch.empty(2, *spec.image_shape, dtype=torch.uint8, device="meta"),
        torch.empty(2, device="meta").bool(),
    )
    before = agent.initial(2)
    with torch.no_grad(), Watched():
        memory = agent.decide(mode, before, image, starts)
    assert all(tensor.device.type == "meta" for tensor in tree.tree_leaves(memory))


@both
@pytest.mark.parametrize("name", MODELS)
def test_the_loss_and_its_gradient_ask_for_no_value(name: str, spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = on_meta(f"uniform on {name}", spec, monkeypatch)
    batch = tiny.batch(spec=spec).to(torch.device("meta"))
    for learning in agent.model.parts():
        with Watched():
            loss, _, metrics = agent.model.loss(batch, learning)
            loss.backward()
        assert all(value.device.type == "meta" for value in metrics.values())


# ---- that nothing changes: graphs, imitated on a processor ----


def imitated(agent: Agent) -> Callable[[Callable[[], Any]], tuple[Any, Callable[[], None]]]:
    """Records as a GPU does: recording executes nothing, and repeating writes into the same memory again."""

    def record(call: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        random = torch.get_rng_state()
        tensors = [value for group in agent.tensors().values() for value in group.values()]
        living = [*tensors, *agent.optimizers.skipped.values()]
        before = [value.clone() for value in living]
        results = call()
        torch.set_rng_state(random)
        with torch.no_grad():
            for value, old in zip(living, before, strict=True):
                value.copy_(old)

        def repeat() -> None:
            tree.tree_map(lambda place, value: place.copy_(value), results, call())

        return results, repeat

    return record


def life(agent: Agent, steps: int = WARM_UP + 3) -> list[Any]:
    """What an agent does, learns and becomes, in alternation."""
    torch.manual_seed(3)
    rng, memory, told = np.random.default_rng(0), None, []
    for number in range(steps):
        metrics = agent.learn(tiny.batch(seed=number))
        first = np.array([number == 4, False])
        image = rng.integers(0, 256, (2, *tiny.SPEC.image_shape), dtype=np.uint8)
        action, memory = agent.act(memory, image, first, "explore" if number % 2 == 1 else "evaluate")
        told += [action.copy(), {key: value.clone() for key, value in metrics.items()}]
    metrics = agent.learn(tiny.batch()._replace(reward=torch.full((3, 6), torch.nan)))
    told += [value for name, value in metrics.items() if name.endswith("/skipped")]
    return [*told, agent.optimizers.skipped, agent.tensors(), torch.get_rng_state()]


def same(one: Any, other: Any) -> bool:
    pairs = zip(tree.tree_leaves(one), tree.tree_leaves(other), strict=True)
    return all(np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True) for a, b in pairs)


@pytest.mark.parametrize("name", ["cem on rssm", "mppi on rssm", "evolution on mdnrnn", "repeated_random on rssm"])
def test_an_agent_that_is_recorded_lives_the_same_life(name: str) -> None:
    plain, recorded = (make(name, tiny.SPEC) for _ in range(2))
    recorded.update_graph.capture = recorded.act_graph.capture = imitated(recorded)
    assert same(life(plain), life(recorded))
    assert len(recorded.update_graph.graphs) == 1  # one kind of update
    assert len(recorded.act_graph.graphs) == 0  # acting was called as often with as without noise
    memory = None
    for _ in range(WARM_UP + 1):
        _, memory = recorded.act(memory, np.zeros((2, *tiny.SPEC.image_shape), np.uint8))
    assert len(recorded.act_graph.graphs) == 1


def test_every_key_and_shape_has_a_recording_of_its_own_after_the_warm_up() -> None:
    recorded: list[Any] = []

    def record(call: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        place = torch.zeros(())
        recorded.append(call)

        def repeat() -> None:
            place.copy_(call()[0])

        return (place,), repeat

    twice = Graphed(lambda key, pair: (key * pair[0].sum() + pair[1],), PROCESSOR, record)
    results, given = [], []
    for number in range(WARM_UP + 2):
        for key, length in ((1, 2), (10, 2), (1, 3)):
            given.append(torch.full((length,), float(number)))
            (result,) = twice(key, (given[-1], torch.tensor(0.5)))
            assert result == key * length * number + 0.5
            results.append(result)
        assert len(recorded) == (3 if number >= WARM_UP else 0)
    assert [float(value) for value in results[-6:]] == [6.5, 60.5, 9.5, 8.5, 80.5, 12.5]  # kept, not written over
    assert [float(value[0]) for value in given[::3]] == [*range(WARM_UP + 2)]  # and so is what was given
    twice.forget()
    twice(1, (torch.ones(2), torch.ones(())))
    assert len(recorded) == 3


def test_what_cannot_be_recorded_runs_as_it_is_after_one_warning() -> None:
    def refuse(call: Callable[[], Any]) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    add = Graphed(lambda key, x: x + 1, PROCESSOR, refuse)
    for number in range(WARM_UP):
        assert add("plan", torch.tensor(number)) == number + 1
    with pytest.warns(UserWarning, match="plan: no CUDA graph, it runs kernel by kernel: operation not permitted"):
        assert add("plan", torch.tensor(5)) == 6
    assert add("plan", torch.tensor(6)) == 7


def test_another_actor_and_restored_weights_are_recorded_anew() -> None:
    agent = make("cem on rssm", tiny.SPEC)
    other = agent.with_actor(make("uniform on rssm", tiny.SPEC).actor)
    assert other.act_graph is not agent.act_graph and other.act_graph.function == other.decide
    for recorded in (agent.act_graph, agent.update_graph):
        recorded.graphs["old"] = None
    agent.restore({name: dict(group) for name, group in agent.tensors().items()})
    assert not agent.act_graph.graphs and not agent.update_graph.graphs


def halved(model: WorldModel) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(0.5)


def pointed_elsewhere(model: WorldModel) -> None:
    vector = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    torch.nn.utils.vector_to_parameters(vector * 0.5, model.parameters())


def assigned(model: WorldModel) -> None:
    model.load_state_dict({name: value * 0.5 for name, value in model.state_dict().items()}, assign=True)


@pytest.mark.parametrize("change", [halved, pointed_elsewhere, assigned])
def test_whoever_changes_weights_by_whatever_means_gets_what_they_say(change: Callable[[WorldModel], None]) -> None:
    image = np.zeros((2, *tiny.SPEC.image_shape), np.uint8)
    fresh, plain, recorded = (make("cem on rssm", tiny.SPEC) for _ in range(3))
    recorded.act_graph.capture = imitated(recorded)
    change(fresh.model)
    told = []
    for agent in (fresh, plain, recorded):
        for _ in range(WARM_UP + 1):
            before, _ = agent.act(None, image)
        if agent is not fresh:
            change(agent.model)
        torch.manual_seed(5)
        action, _ = agent.act(None, image)
        told.append(action)
        assert agent is fresh or not np.array_equal(action, before)
    assert np.array_equal(told[0], told[1]) and np.array_equal(told[0], told[2])
    assert len(recorded.act_graph.graphs) == (1 if change is halved else 0)  # else forgotten


@pytest.mark.parametrize(("version", "kind"), [("2.11.0", GraphError), ("2.14.1", RuntimeError)])
def test_a_recording_that_fails_leaves_the_stream_as_it_was(
    version: str, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    streams: list[Any] = ["before"]

    @contextlib.contextmanager
    def graph(graph: Any, capture_error_mode: str) -> Iterator[None]:
        streams.append("recording")
        assert capture_error_mode == "thread_local" and not gc.isenabled()
        try:
            yield
        finally:
            raise RuntimeError("capture failed")  # as the library does, which then does not leave its stream

    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion(version))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: streams[-1])
    monkeypatch.setattr(torch.cuda, "set_stream", streams.append)

    def call() -> None:
        raise RuntimeError("operation not permitted")

    with pytest.raises(kind) as caught:
        cuda_graph(call)
    assert streams == ["before", "recording", "before"] and gc.isenabled()
    assert kind is RuntimeError or "operation not permitted" in str(caught.value)


@pytest.mark.filterwarnings("error:.*(no CUDA graph|not compiled)")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.parametrize("compiled", ["auto", "never"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", ["rssm", "dreamer_v3"])
def test_on_a_gpu_everything_is_recorded_and_learns(name: str, precision: str, compiled: str) -> None:
    torch.manual_seed(0)
    model = find("model", name).build(tiny.section("model", name), tiny.SPEC)
    actor = CEM(tiny.section("actor", "cem"), model, tiny.SPEC, tiny.REWARD)
    agent = Agent(tiny.agent_config(device="cuda", precision=precision, compile=compiled), model, actor, tiny.SPEC)
    losses, memory, images = [], None, np.zeros((2, *tiny.SPEC.image_shape), np.uint8)
    for _ in range(40):
        losses.append(float(agent.learn(tiny.batch())["model/loss"]))
        action, memory = agent.act(memory, images)
        assert np.isfinite(action).all()
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    kept = [*agent.update_graph.graphs.values(), *agent.act_graph.graphs.values()]
    assert len(kept) == (2 if compiled == "auto" else 0) and None not in kept
    values = [agent.act(memory, images)[1].info.predicted_return for _ in range(2)]
    assert not torch.equal(*values)  # a recording draws new random numbers every time


# ---- compiled steps ----


def test_what_cannot_be_compiled_runs_as_it_is_after_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: Any, **options: Any) -> Any:
        def fast(*inputs: Any) -> Any:
            raise torch._dynamo.exc.TorchDynamoException("no working C++ compiler\nand more")

        return fast

    monkeypatch.setattr(torch, "compile", broken)
    model = tiny.model()
    plain = copy.deepcopy(model)
    compile_steps(model)
    with pytest.warns(UserWarning, match="imagine: not compiled, it runs as it is: no working C"):
        assert same(*(imagined(who) for who in (model, plain)))
    assert same(*(imagined(who) for who in (model, plain)))  # without another warning


def imagined(model: WorldModel) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        return model.imagine(model.initial(3), torch.ones(3, 2))


def test_a_copy_of_a_compiled_model_computes_with_its_own_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    model = tiny.model()
    compile_steps(model)
    before = imagined(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    assert isinstance(vars(other)["imagine"], Compiled) and same(imagined(other), before)
    assert not same(imagined(model), before)
    assert other.state_dict().keys() == model.state_dict().keys()


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "compiled"))
    yield
    torch.compiler.reset()


def test_dreamer_v3_compiles_what_it_does_with_images_where_it_learns_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch has one shape. When it acts, each number of environments would be compiled anew, for little."""
    called = Counter[str]()

    def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        def counted(*given: Any) -> Any:
            called[function.__name__] += 1
            return function(*given)

        return counted

    monkeypatch.setattr(torch, "compile", compiled)
    model, batch = find("model", "dreamer_v3").build(tiny.section("model", "dreamer_v3"), tiny.SPEC), tiny.batch()
    compile_steps(model)
    with torch.no_grad():
        state = model.observe(model.initial(3), batch.action[:, 0], batch.image[:, 0], batch.first[:, 0])
        model.decode(state)
    assert called == {"obs_step": 1}
    model.loss(batch)
    norms = len(model.encoder.norms) + len(model.decoder.norms)
    assert called == {"obs_step": 1 + 6, "scale": 1, "norm_silu": norms, "image_error": 1}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rssm", "dreamer_v3"])
def test_compiling_changes_nothing_beyond_rounding(name: str, cache: None) -> None:
    """The same random numbers are drawn: after updates the losses, and the scores of plans, are the same."""
    agents = []
    for compiled in ("never", "always"):
        torch.manual_seed(0)
        section = tiny.section("model", name)
        model = find("model", name).build(section, tiny.SPEC)
        actor = CEM(tiny.section("actor", "cem"), model, tiny.SPEC, tiny.REWARD)
        agents.append(Agent(tiny.agent_config(compile=compiled), model, actor, tiny.SPEC))
    told = []
    for agent in agents:
        torch.manual_seed(1)
        losses = [agent.learn(tiny.batch(seed=number))["model/loss"] for number in range(5)]
        _, memory = agent.act(None, np.zeros((2, *tiny.SPEC.image_shape), np.uint8))
        told.append((torch.stack(losses), memory.info.predicted_return))
    for method in agents[1].model.step_methods:
        assert vars(agents[1].model)[method].fast is not None
    for plain, fast in zip(*told, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)
