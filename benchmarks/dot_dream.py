"""Is a controller evolved in the dream as good as one evolved in the world?  python benchmarks/dot_dream.py runs/dot1

For a run of `exp=worldmodels_dot`. All controllers are the run's tiny one, trained by the same CMA-ES and scored in
the world over the same episodes:

    dream       evolved in the dream of the run's model
    world       evolved in the true simulator, looking at its pictures through the run's V and M
    z alone     evolved in the dream, but blind to the LSTM's memory: a single picture shows no velocity
    untrained   evolved in the dream of the run's V with an M that has learned nothing
    random      uniformly random actions

Prints the table and writes dot_dream.json into the run's folder. Share: of the way from random to world.
"""

import argparse
import json
import math
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from agents.agent import Agent  # noqa: E402
from agents.imagination import imagined_return  # noqa: E402
from envs.suites import dot  # noqa: E402
from training.build import build_actor  # noqa: E402
from training.configuration import config  # noqa: E402
from training.configuration.components import find  # noqa: E402
from training.evaluation import train_in_imagination  # noqa: E402
from training.reporting.progress import console  # noqa: E402
from training.run_folder.trained import TrainedRun  # noqa: E402
from training.run_folder.versions import commit  # noqa: E402
from worldmodel.base import Batch, Spec, WorldModel, tree_map  # noqa: E402

EPISODES, STEPS, STARTS = 100, 50, 64


class Lived(WorldModel):
    """The DOT world itself as a world model: it imagines by asking the simulator, and by looking at what that draws
    with a model's eyes. Its features are the model's.
    """

    def __init__(self, model: WorldModel, size: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.size = model, size
        self.State: Any = namedtuple("State", ["dot", "gained", *type(model.initial(1))._fields])

    def begin(self, rng: np.random.Generator, n: int) -> Any:
        """States (n, ...) at the first row of fresh episodes."""
        return self.look(dot.reset(rng, n), np.zeros(n), self.model.initial(n), torch.zeros(n, 2), True)

    def look(self, truth: np.ndarray, gained: np.ndarray, state: Any, action: Tensor, first: bool) -> Any:
        image = torch.from_numpy(dot.draw(truth, self.size))
        seen = self.model.observe(state, action, image, torch.full((len(truth),), first))
        return self.State(torch.from_numpy(truth), torch.from_numpy(gained).float(), *seen)

    def imagine(self, state: Any, action: Tensor, temperature: float = 1.0) -> Any:
        moved, reward = dot.step(state.dot.numpy(), action.double().numpy())
        return self.look(moved, reward, self.inner(state), action, False)

    def inner(self, state: Any) -> Any:
        return type(self.model.initial(1))(*state[2:])

    def features(self, state: Any) -> Tensor:
        return self.model.features(self.inner(state))

    def reward(self, state: Any) -> Tensor:
        return state.gained  # type: ignore[no-any-return]

    def continues(self, state: Any) -> Tensor:
        return torch.ones_like(state.gained)

    def initial(self, n: int) -> Any:
        return self.State(torch.zeros(n, 4, dtype=torch.float64), torch.zeros(n), *self.model.initial(n))

    def observe(self, state: Any, action: Tensor, image: Tensor, first: Tensor) -> Any:
        raise NotImplementedError("it is its own world")

    def decode(self, state: Any) -> Tensor:
        return self.model.decode(self.inner(state))

    def loss(self, batch: Batch, part: str = "model") -> Any:
        raise NotImplementedError("there is nothing to learn")


def no_end(spec: Spec) -> Batch:
    """What an actor that learns in dreams reads of a batch beside the states: none of its (B, 1) rows is terminal."""
    rows = torch.zeros(STARTS, 1)
    image = torch.zeros(STARTS, 1, *spec.image_shape, dtype=torch.uint8)
    return Batch(image, torch.zeros(STARTS, 1, spec.action_dim), rows, rows.bool(), rows.bool())


class Comparison:
    def __init__(self, folder: Path, generations: int | None, seed: int) -> None:
        self.trained = TrainedRun(folder, "cpu", seed)
        self.agent, self.run, self.seed = self.trained.agent, self.trained.run, seed
        stages = self.run.config["train"]["learn"]
        self.generations = generations or stages["actor"]["updates"]
        self.size = tuple(self.agent.spec.image_shape[1:])

    def controller(self, model: WorldModel, **changes: Any) -> Agent:
        """The run's controller, untrained, on a model."""
        torch.manual_seed(self.seed)
        section = self.trained.section("evolution", **changes)
        objective = config.check_section("objective", self.run.config)
        agent = self.agent.with_actor(build_actor(section, objective, model, self.agent.spec))
        agent.model = model
        return agent

    def dreamt(self, model: WorldModel, **changes: Any) -> list[float]:
        agent = self.controller(model, **changes)
        train_in_imagination(agent, self.trained.replay, self.generations, self.seed, lambda *_: None)
        return self.scores(agent)

    def lived(self) -> list[float]:
        """Evolved in the world."""
        world = Lived(self.agent.model, self.size)
        agent, rng = self.controller(world), np.random.default_rng([self.seed, 1])
        for _ in range(self.generations):
            with torch.no_grad(), agent.autocast():
                start = tree_map(lambda a: a[:, None], world.begin(rng, STARTS))  # (B, 1, ...)
                batch = no_end(self.agent.spec)
                agent.actor.learn(batch, start)
        return self.scores(agent, world)

    @torch.no_grad()
    def scores(self, agent: Agent | None, world: Lived | None = None) -> list[float]:
        """The returns in the world over the same EPISODES starts; None acts at random."""
        world = world or Lived(agent.model if agent else self.agent.model, self.size)
        torch.manual_seed(self.seed)

        def act(state: Any) -> Tensor:
            if agent is None:
                return torch.rand(EPISODES, 2) * 2 - 1
            inner = state if agent.model is world else world.inner(state)
            return agent.actor.act(inner, agent.actor.initial(EPISODES), "evaluate")[0]

        with self.agent.autocast():
            start = world.begin(np.random.default_rng(7), EPISODES)
            return imagined_return(world, self.agent.actor.objective, start, act, STEPS).tolist()

    def untrained(self) -> WorldModel:
        """The run's V with a fresh M."""
        torch.manual_seed(self.seed + 1)
        section = config.check_section("model", self.run.config)
        model: WorldModel = find("model", section.name).build(section, self.agent.spec)
        model.vision.load_state_dict(self.agent.model.vision.state_dict())  # type: ignore[union-attr, operator, arg-type]
        return model

    def report(self) -> dict[str, Any]:
        found = {
            "dream": self.dreamt(self.agent.model),
            "world": self.lived(),
            "z alone": self.dreamt(self.agent.model, num_features=self.run.config["model"]["latent"]),
            "untrained": self.dreamt(self.untrained()),
            "random": self.scores(None),
        }
        low, high = (float(np.mean(found[name])) for name in ("random", "world"))
        rows = {}
        for name, scores in found.items():
            error = float(np.std(scores, ddof=1)) / math.sqrt(EPISODES)
            apart = math.hypot(error, float(np.std(found["random"], ddof=1)) / math.sqrt(EPISODES))
            mean = float(np.mean(scores))
            rows[name] = {
                "return": mean,
                "standard_error": error,
                "share": (mean - low) / (high - low),
                "sigmas_above_random": (mean - low) / apart,
            }
        return {
            "rows": rows,
            "generations": self.generations,
            "episodes": EPISODES,
            "seed": self.seed,
            "commit": commit(),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description="Controllers evolved in the dream and in the world of DOT.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--generations", type=int, help="by default as the run's own")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    result = Comparison(options.run, options.generations, options.seed).report()
    (options.run / "dot_dream.json").write_text(json.dumps(result, indent=2))
    for name, row in result["rows"].items():
        console.print(
            f"{name:10} {row['return']:7.2f} +- {row['standard_error']:.2f}   share {row['share']:6.1%}   "
            f"{row['sigmas_above_random']:5.1f} sigmas above random"
        )


if __name__ == "__main__":
    main()
