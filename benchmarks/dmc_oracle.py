"""PlaNet's control-suite tasks under the same CEM with the true simulator:  python benchmarks/dmc_oracle.py

About what an agent with a perfect model can reach with a planner's budget. Candidates are rolled out by MuJoCo itself
(mujoco.rollout, states copied), with the action repeat of configs/env/dmc.yaml; the rewards are those of the suite,
vectorised, and compared with its own at every decision that is really taken. Every finished episode is written to
--json at once, and what stands there is not repeated, so that it can be interrupted.

What differs from the suite while planning: two rewards read the velocity sensor of a body, which MuJoCo computes before
a step and not after it; the plan therefore reads it one simulator step later.
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("MUJOCO_GL", "disabled")  # nothing is rendered

import mujoco  # noqa: E402
from dm_control import suite  # noqa: E402
from mujoco import rollout  # noqa: E402

from training.collecting.rollout import episode_seed  # noqa: E402
from training.streams import EVALUATE  # noqa: E402

TASKS = ("cartpole_swingup", "reacher_easy", "cheetah_run", "finger_spin", "cup_catch", "walker_walk")
LIMIT = 1000  # simulator steps
Reward = Callable[[Any, np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def gaussian(x: np.ndarray, margin: float) -> np.ndarray:
    """dm_control's tolerance to 0, 0.1 at the margin."""
    return np.exp(-0.5 * (x / margin * math.sqrt(-2 * math.log(0.1))) ** 2)


def cartpole_swingup(
    physics: Any, qpos: np.ndarray, qvel: np.ndarray, sensor: np.ndarray, control: np.ndarray
) -> np.ndarray:
    upright = (np.cos(qpos[..., 1]) + 1) / 2
    centered = (1 + gaussian(qpos[..., 0], 2)) / 2
    small_control = (4 + np.clip(1 - control[..., 0] ** 2, 0, 1)) / 5
    small_velocity = (1 + gaussian(qvel[..., 1], 5)) / 2
    return upright * centered * small_control * small_velocity


def reacher_easy(
    physics: Any, qpos: np.ndarray, qvel: np.ndarray, sensor: np.ndarray, control: np.ndarray
) -> np.ndarray:
    model = physics.named.model
    upper, lower = model.body_pos["hand", 0], model.body_pos["finger", 0] + model.geom_pos["finger", 0]
    first, second = qpos[..., 0], qpos[..., 0] + qpos[..., 1]
    x = upper * np.cos(first) + lower * np.cos(second) - model.geom_pos["target", 0]
    y = upper * np.sin(first) + lower * np.sin(second) - model.geom_pos["target", 1]
    return (np.hypot(x, y) <= model.geom_size[["target", "finger"], 0].sum()).astype(float)


def cheetah_run(
    physics: Any, qpos: np.ndarray, qvel: np.ndarray, sensor: np.ndarray, control: np.ndarray
) -> np.ndarray:
    return np.clip(sensor[..., velocity(physics)] / 10, 0, 1)


def finger_spin(
    physics: Any, qpos: np.ndarray, qvel: np.ndarray, sensor: np.ndarray, control: np.ndarray
) -> np.ndarray:
    return (qvel[..., 2] <= -15).astype(float)


def cup_catch(physics: Any, qpos: np.ndarray, qvel: np.ndarray, sensor: np.ndarray, control: np.ndarray) -> np.ndarray:
    model = physics.named.model
    free = model.site_size["target", [0, 2]] - model.geom_size["ball", 0]
    target = model.body_pos["cup"][[0, 2]] + model.site_pos["target"][[0, 2]]
    away = qpos[..., 2:4] + model.body_pos["ball"][[0, 2]] - qpos[..., 0:2] - target
    return (np.abs(away) < free).all(-1).astype(float)


def walker_walk(
    physics: Any, qpos: np.ndarray, qvel: np.ndarray, sensor: np.ndarray, control: np.ndarray
) -> np.ndarray:
    height = physics.named.model.body_pos["torso", 2] + qpos[..., 0]
    standing = np.where(height >= 1.2, 1.0, gaussian(np.maximum(1.2 - height, 0), 0.6))
    upright = (1 + np.cos(qpos[..., 2])) / 2
    speed = sensor[..., velocity(physics)]
    away = np.maximum(1 - speed, 0) / 0.5 * 0.5  # linear, 0.5 at the margin of 0.5
    move = np.clip(1 - away, 0, 1)
    return (3 * standing + upright) / 4 * (5 * move + 1) / 6


def velocity(physics: Any) -> int:
    """Where the horizontal velocity of the whole body stands among the sensors."""
    return int(physics.model.sensor("torso_subtreelinvel").adr[0])


def episode(task: str, repeat: int, number: int, args: argparse.Namespace) -> tuple[float, float]:
    """The return of one episode, and the largest difference between our reward and the suite's at a decision."""
    reward_of: Reward = globals()[task]
    domain, name = ("ball_in_cup", "catch") if task == "cup_catch" else task.split("_")
    env = suite.load(domain, name, task_kwargs={"random": episode_seed(args.seed, EVALUATE, number)})
    env.reset()
    physics = env.physics
    model, work = physics.model.ptr, mujoco.MjData(physics.model.ptr)
    substeps = env._n_sub_steps
    low, high = env.action_spec().minimum, env.action_spec().maximum
    kind = mujoco.mjtState.mjSTATE_FULLPHYSICS
    size, nq, nv, nu = mujoco.mj_stateSize(model, kind), model.nq, model.nv, model.nu
    rng = np.random.default_rng([args.seed, number])
    horizon, candidates = args.horizon, args.candidates
    mean, total, worst = np.zeros((horizon, nu)), 0.0, 0.0
    steps = 0
    while steps < LIMIT:
        start = np.empty(size)
        mujoco.mj_getState(model, physics.data.ptr, start, kind)
        mean = np.concatenate([mean[1:], np.zeros((1, nu))]) if args.warm_start else np.zeros((horizon, nu))
        std = np.ones((horizon, nu))
        for _ in range(args.iterations):
            actions = np.clip(mean + std * rng.normal(size=(candidates, horizon, nu)), -1, 1)
            control = low + (actions + 1) / 2 * (high - low)
            control = control.repeat(repeat * substeps, 1)
            states, sensors = rollout.rollout(
                model, work, np.tile(start, (candidates, 1)), control, initial_warmstart=None, skip_checks=False
            )
            # The state after each simulator step of the suite; see the module's words on the sensors.
            after = slice(substeps - 1, None, substeps)
            states, held = states[:, after], control[:, after]
            late = np.minimum(np.arange(substeps, control.shape[1] + 1, substeps), control.shape[1] - 1)
            qpos, qvel = states[..., 1 : 1 + nq], states[..., 1 + nq : 1 + nq + nv]
            value = reward_of(physics, qpos, qvel, sensors[:, late], held).sum(1)
            elites = actions[np.argsort(-value)[: args.elites]]
            mean, std = elites.mean(0), np.sqrt(elites.var(0) + 1e-6)
        action = low + (np.clip(mean[0], -1, 1) + 1) / 2 * (high - low)
        for _ in range(min(repeat, LIMIT - steps)):
            step = env.step(action)
            total += step.reward
            steps += 1
            data = physics.data
            ours = float(
                reward_of(physics, data.qpos[None], data.qvel[None], data.sensordata[None], data.ctrl[None])[0]
            )
            worst = max(worst, abs(ours - step.reward))
    return total, worst


def main() -> None:
    parser = argparse.ArgumentParser(description="CEM with the true simulator on PlaNet's six tasks")
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--horizon", type=int, default=12)
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("--elites", type=int, default=20)
    parser.add_argument("--cold", dest="warm_start", action="store_false", help="each plan starts from nothing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where results are kept, and looked up before an episode is played")
    args = parser.parse_args()
    repeats = yaml.safe_load((ROOT / "configs" / "env" / "dmc.yaml").read_text())["action_repeats"]
    settings = {
        key: getattr(args, key) for key in ("horizon", "iterations", "candidates", "elites", "warm_start", "seed")
    }
    kept = (
        json.loads(args.json.read_text()) if args.json and args.json.exists() else {"settings": settings, "returns": {}}
    )
    if kept["settings"] != settings:
        sys.exit(f"{args.json} was made with {kept['settings']}, you ask for {settings}: choose another file")
    for task in args.tasks:
        returns = kept["returns"].setdefault(task, [])
        for number in range(len(returns), args.episodes):
            began = time.process_time()
            value, worst = episode(task, repeats[task], number, args)
            if worst > 1e-6:
                sys.exit(f"{task}: our reward differs from the suite's by {worst}")
            returns.append(round(value, 3))
            print(f"{task} episode {number}: {value:.1f}, {time.process_time() - began:.0f} s of CPU time", flush=True)
            if args.json:
                temporary = args.json.with_suffix(".tmp")
                temporary.write_text(json.dumps(kept, indent=2))
                temporary.replace(args.json)
        print(f"{task}: {np.mean(returns):.1f} over {len(returns)} episodes", flush=True)


if __name__ == "__main__":
    main()
