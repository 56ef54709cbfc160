"""The quickstart's pendulum under CEM with the true simulator:  python benchmarks/pendulum_oracle.py

Prints the mean return over the 20 episodes of evaluate.py --seed 0, with the quickstart's action repeat: about what an
agent with a perfect model can reach. The equations are Gymnasium's Pendulum-v1.
"""

import sys
from pathlib import Path

import gymnasium
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from training.collecting.rollout import episode_seed  # noqa: E402
from training.streams import EVALUATE  # noqa: E402

EPISODES, DECISIONS, REPEAT = 20, 100, 2
HORIZON, ITERATIONS, CANDIDATES, ELITES = 20, 5, 500, 50


def step(angle: np.ndarray, speed: np.ndarray, torque: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One simulator step of 0.05 s: angle, speed, reward; torque in [-2, 2]."""
    upright = (angle + np.pi) % (2 * np.pi) - np.pi
    reward = -(upright**2 + 0.1 * speed**2 + 0.001 * torque**2)
    speed = np.clip(speed + (15 * np.sin(angle) + 3 * torque) * 0.05, -8, 8)
    return angle + speed * 0.05, speed, reward


def decide(angle: np.ndarray, speed: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One decision: the action in [-1, 1] is held for REPEAT steps, rewards are summed."""
    total = np.zeros_like(angle)
    for _ in range(REPEAT):
        angle, speed, reward = step(angle, speed, 2 * np.clip(action, -1, 1))
        total = total + reward
    return angle, speed, total


def episode(seed: int, rng: np.random.Generator) -> float:
    """The return of one episode, replanned at every decision from the last plan."""
    world = gymnasium.make("Pendulum-v1")
    world.reset(seed=seed)
    angle, speed = (np.array(value) for value in world.unwrapped.state)  # type: ignore[attr-defined]
    mean, total = np.zeros(HORIZON), 0.0
    for _ in range(DECISIONS):
        mean, std = np.append(mean[1:], 0), np.ones(HORIZON)
        for _ in range(ITERATIONS):
            actions = np.clip(mean + std * rng.normal(size=(CANDIDATES, HORIZON)), -1, 1)
            imagined = np.full(CANDIDATES, angle), np.full(CANDIDATES, speed)
            value = np.zeros(CANDIDATES)
            for t in range(HORIZON):
                *imagined, reward = decide(*imagined, actions[:, t])  # type: ignore[assignment]
                value += reward
            elites = actions[np.argsort(value)[-ELITES:]]
            mean, std = elites.mean(0), elites.std(0)
        angle, speed, reward = decide(angle, speed, mean[0])
        total += float(reward)
    return total


def main() -> None:
    rng = np.random.default_rng(0)
    returns = [episode(episode_seed(0, EVALUATE, number), rng) for number in range(EPISODES)]
    print(f"CEM with the true simulator: {np.mean(returns):.1f} over {EPISODES} episodes")


if __name__ == "__main__":
    main()
