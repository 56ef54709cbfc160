"""How fast, and how far from the machine's limit:  python benchmarks/speed.py --json out.json

Measures one update and one plan at PlaNet's published sizes; an update of World Models' V and of its M, and a
generation of its controller in the dream, at the published sizes for CarRacing; replay, rendering and memory. Each
stands beside its floor: operations over the matrix rate measured here, bytes over the copy rate measured here. "plain"
is the same mathematics in eager float32, of PlaNet written plainly (benchmarks/plain.py), of the others our own code.
It is measured in the same run, in turns, so that the ratio holds on a noisy machine. Times are medians.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import envs  # noqa: E402
from agents.agent import Agent  # noqa: E402
from agents.imagination import imagined_return  # noqa: E402
from benchmarks.measuring import beside, copy_rate, device_name, machine, matrix_rate, timed  # noqa: E402
from benchmarks.plain import Plain  # noqa: E402
from training import build  # noqa: E402
from training.configuration import command_line  # noqa: E402
from training.configuration.config import check_section  # noqa: E402
from worldmodel.base import Spec  # noqa: E402
from worldmodel.replay.buffer import Replay, ReplayConfig  # noqa: E402
from worldmodel.replay.episodes import Episode  # noqa: E402

SPEC = Spec((3, 64, 64), 6, False)
DRIVER = Spec((3, 64, 64), 3, False)  # CarRacing
DREAM = 1000  # steps
BATCH, LENGTH, EPISODE = 50, 50, 250


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--no-env", action="store_true", help="leave the rendering out: for machines without GL")
    options = parser.parse_args()
    figures = measure(options)
    width = max(len(name) for name in figures["figures"])
    print(f"{figures['machine']['processor']}, {figures['machine']['threads']} threads, torch {torch.__version__}")
    for name, row in figures["figures"].items():
        print(f"{name:{width}}  " + "  ".join(f"{key} {value:.4g}" for key, value in row.items()))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    ours, other = agent(options.device, "auto"), agent(options.device, "fp32")
    plain = Plain(other.model, other.actor, other.optimizers.configs["model"].max_grad_norm)
    rates = {"fp32": matrix_rate(ours.device, torch.float32), "bf16": matrix_rate(ours.device, torch.bfloat16)}
    copied = copy_rate()
    store = filled()
    rng = np.random.default_rng(0)
    batch = store.sample(rng)
    image = np.zeros((1, *SPEC.image_shape), np.uint8)
    figures: dict[str, dict[str, float]] = {
        "matrix rate": {"bf16_gflops": rates["bf16"] / 1e9, "fp32_gflops": rates["fp32"] / 1e9},
        "copy rate": {"gb_per_s": copied / 1e9},
    }
    here, look = batch.to(ours.device), torch.from_numpy(image).to(ours.device)

    def both(mine: Callable[[], Any], plainly: Callable[[], Any]) -> dict[str, float]:
        return beside(mine, plainly, ours.device, rates[ours.precision], options.repeats)

    figures[f"update {BATCH}x{LENGTH}"] = both(lambda: ours.learn(here), lambda: plain.update(here))
    for n in (1, 4, 16) if ours.device.type == "cuda" else (1, 4):
        many, looks = image.repeat(n, 0), look.expand(n, -1, -1, -1)
        figures[f"plan 12x10x1000, {n} env"] = both(
            lambda many=many: ours.act(None, many), lambda looks=looks: plain.act(looks)
        )
    size = sum(part.numel() * part.element_size() for part in batch[:5])
    seconds = timed(lambda: store.sample(rng), ours.device, 4 * options.repeats)
    figures["replay sample"] = {
        "seconds": seconds,
        "samples_per_s": BATCH / seconds,
        "floor_seconds": size / copied,
        "times_floor": seconds / (size / copied),
    }
    figures |= world_models(options, rates)
    if not options.no_env:
        figures["env frames, CarRacing-v3 at 64x64"] = {"frames_per_s": frames("car_racing")}
        figures["env frames, Pendulum-v1 at 64x64"] = {"frames_per_s": frames("gym")}
        figures["env frames, dmc cartpole_swingup"] = {"frames_per_s": frames("dmc", action_repeat=8)}
        slow = frames("dmc", action_repeat=8, shadows=True, multisampling=True)
        figures["... with shadows and multisampling"] = {"frames_per_s": slow}
    figures["peak memory"] = {"gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}
    if ours.device.type == "cuda":
        figures["peak memory"]["gpu_gb"] = torch.cuda.max_memory_allocated() / 1e9
    computed = {"device": device_name(options.device), "precision": ours.precision}
    return {"machine": machine() | computed, "figures": figures}


def agent(
    device: str, precision: str, model: str = "rssm", actor: str = "cem", spec: Spec = SPEC, compile: str = "auto"
) -> Agent:
    """PlaNet's agent with a six-dimensional action, or another one, as published."""
    words = ["env=gym", f"model={model}", f"actor={actor}"]
    words += [f"agent.device={device}", f"agent.precision={precision}", f"agent.compile={compile}"]
    torch.manual_seed(0)
    return build.build_agent(command_line.parse(words), spec)


def world_models(options: argparse.Namespace, rates: dict[str, float]) -> dict[str, dict[str, float]]:
    """V, M and C at the sizes published for CarRacing. A generation is 64 candidates x 16 dreams x 1000 steps, and the
    mean_solution's judgement beside it; its operations are counted over a few steps, for each step is like the others.
    """
    ours = agent(options.device, "auto", "mdnrnn", "evolution", DRIVER)
    plain = agent(options.device, "fp32", "mdnrnn", "evolution", DRIVER, compile="never")
    store, rng, rate = filled(DRIVER), np.random.default_rng(0), rates[ours.precision]
    pictures, sequences = store.sample(rng, 100, 2), store.sample(rng, 16, 64)

    def both(job: Callable[[Agent], Any]) -> dict[str, float]:
        return beside(lambda: job(ours), lambda: job(plain), ours.device, rate, options.repeats)

    found = {
        "V update, 200 pictures": both(lambda a: a.learn(pictures, ("vision",))),
        "M update, 16x64": both(lambda a: a.learn(sequences, ("memory",))),
    }
    config = ours.actor.config
    rows = config.population * config.rollouts
    start = ours.model.initial(rows)
    weights = torch.zeros(config.population, ours.actor.controller.size, device=ours.device)

    def dream(who: Agent, steps: int) -> None:
        policy = who.actor.controller.policy(weights)
        with who.autocast():
            model, objective = who.model, who.actor.objective
            imagined_return(model, objective, start, lambda state: policy(model.features(state)), steps)

    dreamt = both(lambda a: dream(a, 20))
    found["dream of 1024 rows, 20 steps"] = dreamt | {"frames_per_s": rows * 20 / dreamt["seconds"]}
    if ours.device.type == "cuda":
        ours.learn(sequences, ("actor",))  # what is compiled in the first one is not the generation's time
    seconds = timed(lambda: ours.learn(sequences, ("actor",)), ours.device, 1)
    floor = dreamt["floor_seconds"] * (DREAM / 20) * (1 + config.eval_rollouts / rows)
    found[f"generation, {config.population}x{config.rollouts}x{DREAM}"] = {
        "seconds": seconds,
        "generations_per_minute": 60 / seconds,
        "floor_seconds": floor,
        "times_floor": seconds / floor,
    }
    return found


def filled(spec: Spec = SPEC) -> Replay:
    """A replay of random episodes, larger than the processor's caches."""
    rng = np.random.default_rng(0)
    rows = 10 * (EPISODE + 1)
    config = ReplayConfig(
        batch_size=BATCH, batch_length=LENGTH, capacity=rows, storage="memory", memory_gb=None, context=False
    )
    store = Replay(config, spec)
    for _ in range(10):
        shape = (EPISODE + 1, *spec.image_shape)
        store.add(
            Episode(
                rng.integers(256, size=shape, dtype=np.uint8),
                rng.uniform(-1, 1, (EPISODE + 1, spec.action_dim)).astype(np.float32),
                rng.normal(size=EPISODE + 1).astype(np.float32),
                np.zeros(EPISODE + 1, bool),
            )
        )
    return store


def frames(name: str, **changes: Any) -> float:
    """Rendered frames per second of one environment, simulation included."""
    section = yaml.safe_load((ROOT / f"configs/env/{name}.yaml").read_text()) | changes
    world = envs.vector(check_section("env", {"env": section}))
    world.reset({0: 0})
    actions = np.zeros((1, world.action_dim), np.float32)
    world.step(actions)
    began = time.perf_counter()
    for _ in range(100):
        world.step(actions)
    seconds = time.perf_counter() - began
    world.close()
    return 100 / seconds


if __name__ == "__main__":
    main()
