"""Goals in the DOT world, given as images:  python benchmarks/goal_dot.py runs/dot [actor.horizon=20 ...]

100 random pairs of a start (as the environment resets) and a goal position (uniform in [-1, 1]^2), 50 steps each, with
CEM as the run has it, or with the overrides that are given: on the true simulator, which is told the goal's position,
and on the learned model, which is given only the goal's image, as a picture's file (agents/objectives/goal.py).

Reached: the dot is within one pixel of the goal, 2 / side in the world's units, Euclidean, after the last of the 50
steps. Beside it: whether it is there throughout the last 10 steps, and whether it ever was. Writes
benchmarks/results/goal-dot.json, or what --out names.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from agents.agent import Agent  # noqa: E402
from agents.base import Objective  # noqa: E402
from agents.objectives import goal  # noqa: E402
from agents.planners import cem  # noqa: E402
from benchmarks.dot_oracle import Simulator, State  # noqa: E402
from benchmarks.record import hardware  # noqa: E402
from envs.suites import dot  # noqa: E402
from training.run_folder.trained import TrainedRun  # noqa: E402
from training.run_folder.versions import commit  # noqa: E402
from worldmodel.base import WorldModel, merge_time  # noqa: E402

STEPS, SETTLED = 50, 10


class Goals(Objective):
    """A goal for every row that is planned for: minus the distance of features to it, as Goal has it for one."""

    def __init__(self, goals: Tensor, first: int | None = None) -> None:
        super().__init__()
        self.goals, self.first = goals, first  # (N, F); how many of the features count

    def reward(self, model: WorldModel, path: Any, actions: Tensor) -> Tensor:
        horizon, rows = actions.shape[:2]
        here = model.features(merge_time(path)).float()[:, : self.first].view(horizon, rows, -1)
        there = self.goals.repeat_interleave(rows // len(self.goals), 0)  # (N*K, F)
        return -torch.linalg.vector_norm(here - there, dim=-1)


def pairs(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Starts (N, 4) and goal positions (N, 2)."""
    rng = np.random.default_rng(seed)
    return dot.reset(rng, count), rng.uniform(-1, 1, (count, 2))


def with_simulator(config: cem.Config, spec: Any, start: np.ndarray, goals: np.ndarray) -> np.ndarray:
    """The positions (STEPS, N, 2) of CEM on the true state's distance."""
    actor = cem.build(config, Simulator(), spec, Goals(torch.from_numpy(goals).float(), first=2))
    state, carry, path = start, actor.initial(len(start)), []
    for _ in range(STEPS):
        with torch.no_grad():
            here = State(torch.from_numpy(state), torch.zeros(len(state)))
            action, carry, _ = actor.act(here, carry, "evaluate")
        state, _ = dot.step(state, action.numpy())
        path.append(state[:, :2])
    return np.stack(path)


def with_model(
    agent: Agent, config: cem.Config, observe_steps: int, start: np.ndarray, goals: np.ndarray
) -> np.ndarray:
    """The positions (STEPS, N, 2) of CEM on the learned model, which sees images alone."""
    size = agent.spec.image_shape[1:]
    latents = []
    with tempfile.TemporaryDirectory() as folder, agent.autocast():
        for image in dot.draw(np.concatenate([goals, np.zeros_like(goals)], 1), size)[:, 0]:
            file = Path(folder) / "goal.png"
            Image.fromarray(image).save(file)
            one = goal.build(
                goal.Config(name="goal", image=str(file), observe_steps=observe_steps), agent.model, agent.spec
            )
            latents.append(one.to(agent.device).goal(agent.model))
    agent = agent.with_actor(cem.build(config, agent.model, agent.spec, Goals(torch.cat(latents))))
    state, memory, path = start, None, []
    for _ in range(STEPS):
        action, memory = agent.act(memory, dot.draw(state, size))
        state, _ = dot.step(state, action)
        path.append(state[:, :2])
    return np.stack(path)


def summary(path: np.ndarray, goals: np.ndarray, side: int) -> dict[str, float]:
    pixels = np.linalg.norm(path - goals, axis=-1) / (2 / side)  # (STEPS, N)
    near = pixels <= 1
    return {
        "reached": int(near[-1].sum()),
        "there_in_the_last_10_steps": int(near[-SETTLED:].all(0).sum()),
        "ever_there": int(near.any(0).sum()),
        "pairs": len(goals),
        "median_pixels_at_the_end": float(np.median(pixels[-1])),
        "mean_pixels_at_the_end": float(pixels[-1].mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="actor.key=value")
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--observe_steps", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "goal-dot.json")
    options = parser.parse_intermixed_args(sys.argv[1:])
    trained = TrainedRun(options.run, "cpu", options.seed)
    config, agent = trained.section(None, options.overrides), trained.agent
    start, goals = pairs(options.pairs, options.seed)
    side = agent.spec.image_shape[2]
    result: dict[str, Any] = {}
    for name in ("simulator", "model"):
        torch.manual_seed(options.seed)
        began = time.perf_counter()
        if name == "simulator":
            path = with_simulator(config, agent.spec, start, goals)
        else:
            path = with_model(agent, config, options.observe_steps, start, goals)
        result[name] = summary(path, goals, side) | {"seconds": time.perf_counter() - began}
        print(name, result[name], flush=True)
    info = trained.run.info
    result |= {
        "reached_means": "within one pixel (Euclidean) of the goal after the last of 50 steps",
        "command": f"python benchmarks/goal_dot.py {' '.join(sys.argv[1:])}",
        "commit": commit(),
        "hardware": hardware("cpu"),
        "precision": agent.precision,
        "trained_with": info["command"],
        "trained_at_commit": info["commit"],
        "checkpoint": trained.checkpoint.folder.name,
        "planner": config.model_dump(),
        "observe_steps": options.observe_steps,
        "side": side,
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
