"""objective=goal: the goal is a picture's or an episode's last image, and planners go where it was taken."""

from pathlib import Path

import numpy as np
import pytest
import runs
import tiny
import torch
from PIL import Image
from torch import Tensor

from agents.imagination import evaluate_sequences
from agents.objectives import goal
from agents.planners import cem
from training.configuration.components import ROOT
from training.run_folder.trained import TrainedRun
from worldmodel.base import ConfigError, Spec
from worldmodel.networks.noise import common_random_numbers

SHAPE = (1, 16, 16)
LOOKS = 3


class Seen(tiny.Fake):
    """A point on a line, moved by its action; an image shows where it is: all pixels are 100 x. How often it looked."""

    looked = 0

    def __init__(self) -> None:
        super().__init__(lambda point, action: self.at(point.x + action))

    def observe(self, state: tiny.Point, action: Tensor, image: Tensor, first: Tensor) -> tiny.Point:
        assert bool(first.all()) == (self.looked % LOOKS == 0) and not action.any()
        self.looked += 1
        return self.at(image.float().mean((1, 2, 3))[:, None] / 100)


def objective(x: float) -> goal.Goal:
    return goal.Goal(np.full(SHAPE, round(100 * x), np.uint8), LOOKS, Spec(SHAPE, 1, False))


def saved(folder: Path, image: np.ndarray, name: str = "goal.png") -> Path:
    Image.fromarray(image).save(folder / name)
    return folder / name


def test_a_step_is_worth_minus_its_distance_and_the_goal_is_looked_at_as_often_as_asked() -> None:
    model = Seen()
    actions = torch.tensor([[[[1.0], [1.0]], [[-1.0], [0.5]]]])  # (N, K, H, A): 0 -> 1, 2 and 0 -> -1, -0.5
    value = evaluate_sequences(model, objective(1.5), model.initial(1), actions)
    assert value.tolist() == [[-1.0, -4.5]] and model.looked == LOOKS  # .5 + .5 and 2.5 + 2


def test_it_is_the_distance_of_features() -> None:
    class Plane(Seen):
        def features(self, state: tiny.Point) -> Tensor:
            return torch.cat([3 * state.x, 4 * state.x], 1)

    model = Plane()
    assert evaluate_sequences(model, objective(2), model.initial(1), torch.ones(1, 1, 1, 1)).item() == pytest.approx(-5)


def test_cem_goes_to_the_goal_and_stays() -> None:
    torch.manual_seed(0)
    model, x = Seen(), torch.tensor([[0.0], [2.0]])
    section = tiny.section("actor", "cem", candidates=200, elites=10, iterations=6, horizon=3)
    actor = cem.build(section, model, Spec(SHAPE, 1, False), objective(1.2))
    carry = actor.initial(2)
    for _ in range(6):
        action, carry, _ = actor.act(model.at(x), carry, "evaluate")
        x = x + action
    assert (x - 1.2).abs().max() < 0.1


def test_a_real_model_under_common_random_numbers_on_meta_and_without_gradient_to_the_goal() -> None:
    model, wanted = tiny.model(), goal.Goal(np.zeros(SHAPE, np.uint8), 2, tiny.SPEC)
    state = model.initial(1)
    with torch.no_grad(), common_random_numbers(5):
        assert evaluate_sequences(model, wanted, state, torch.zeros(1, 5, 3, 2)).shape == (1, 5)
    assert not wanted.goal(model).requires_grad
    model.to("meta")
    value = evaluate_sequences(model, wanted.to("meta"), model.initial(2), torch.zeros(2, 5, 3, 2, device="meta"))
    assert value.shape == (2, 5) and value.is_meta
    assert not wanted.state_dict()  # the image is given, not learned: no checkpoint holds it


def test_a_picture_is_brought_to_the_shape(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    assert (goal.read_image(saved(tmp_path, image), SHAPE) == image).all()
    assert (goal.read_image(saved(tmp_path, image), (3, 16, 16)) == image).all()
    large = saved(tmp_path, image.repeat(3, 0).repeat(2, 1))  # averaged areas give back each pixel
    assert (goal.read_image(large, SHAPE)[0] == image).all()
    colours = np.zeros((16, 16, 4), np.uint8)
    colours[..., 0], colours[..., 3] = 200, 7  # red, all but transparent
    assert (goal.read_image(saved(tmp_path, colours), (3, 16, 16))[:, 0, 0] == [200, 0, 0]).all()
    assert (goal.read_image(saved(tmp_path, colours), SHAPE) == 60).all()  # 0.299 * 200
    assert goal.read_image(saved(tmp_path, image[:4, :4]), SHAPE).shape == SHAPE


@pytest.mark.parametrize("layout", ["T Y X", "T Y X C", "T C Y X"])
def test_an_episode_gives_its_last_image(tmp_path: Path, layout: str) -> None:
    image = tiny.episode(3).image  # (T, 1, Y, X)
    last = image[-1]
    if layout == "T Y X":
        image = image[:, 0]
    elif layout == "T Y X C":
        image = image.transpose(0, 2, 3, 1)
    np.savez(tmp_path / "e.npz", image=image)
    assert (goal.read_image(tmp_path / "e.npz", SHAPE) == last).all()


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    (tmp_path / "a.npz").write_text("no archive")
    np.savez(tmp_path / "b.npz", action=np.zeros(3))
    np.savez(tmp_path / "c.npz", image=np.zeros((3, 16, 16)))
    np.savez(tmp_path / "d.npz", image=np.array([None]))
    np.savez(tmp_path / "e.npz", image=np.zeros((3, 4, 16, 16), np.uint8))
    Image.fromarray(np.zeros((16, 16), np.int32)).save(tmp_path / "f.tiff")
    np.savez_compressed(tmp_path / "h.npz", image=np.zeros((1 << 16, 64, 66), np.uint8))  # 300 KB
    for name, wanted in (
        ("a.png", "holds no image"), ("a.npz", "holds no image"), ("b.npz", "no array 'image'"),
        ("c.npz", "float64"), ("d.npz", "holds no image"), ("e.npz", "4, 16, 16"), ("f.tiff", "mode I"),
        ("g.png", "there is no file"), ("h.npz", "would unpack to more than 268,435,456 bytes"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=wanted) as error:
            goal.read_image(tmp_path / name, SHAPE)
        assert len(error.value.lines) == 1 and error.value.lines[0].startswith("objective.image: ")


def test_without_an_image_nothing_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"objective: there is no goal: objective\.image="):
        runs.composed(*runs.TINY, "objective=goal", "run=r", f"runs={tmp_path}")
    assert runs.go(tmp_path, "objective=goal", f"objective.image={ROOT / 'README.md'}") == 2
    assert "README.md holds no image" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_training_and_a_trained_run_take_a_goal(tmp_path: Path) -> None:
    picture = saved(tmp_path, np.zeros((8, 8), np.uint8), "a goal, (1)=x.png")
    assert runs.go(tmp_path, "objective=goal", f"objective.image={picture}") == 0
    assert not runs.logged(tmp_path / "r", "collect/planned") and runs.logged(tmp_path / "r", "collect/return")
    trained = TrainedRun(tmp_path / "r", "cpu", 0)
    episode = next((tmp_path / "r" / "replay").glob("*.npz"))
    agent, _ = trained.prepare_agent(None, 1, [f"objective.image={episode}", "actor.horizon=2"])
    assert isinstance(agent.actor, cem.CEM) and agent.actor.config.horizon == 2
    before, now = trained.agent.actor.objective, agent.actor.objective
    assert isinstance(before, goal.Goal) and isinstance(now, goal.Goal) and now.image.any() and not before.image.any()
    assert "evaluate/planned_return" not in trained.evaluate(agent, 1)[1]
    agent, _ = trained.prepare_agent(None, 1, ["objective=reward"])
    assert "evaluate/planned_return" in trained.evaluate(agent, 1)[1]
    for words, wanted in (
        (["objective=gaol"], "objective: 'gaol' is not one of .*did you mean 'goal'"),
        (["objective.observe_steps=0"], "objective.observe_steps: "),
        (["objective.imag=x"], "objective.imag: there is no such key; did you mean 'image'"),
        (["objective"], "objective: here only actor and objective can be changed"),
    ):
        with pytest.raises(ConfigError, match=wanted):
            trained.prepare_agent(None, 1, words)
