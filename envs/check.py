"""Says what is wrong with an environment, and how to wrap it: `python -m envs.check <Gymnasium id> [--steps
200]`.

Ends with status 0 when agents here can use it, 1 when not. Lines start with "ok", "note" (worth knowing) or
"BAD"."""

import argparse
import sys
import time

import gymnasium
import numpy as np

from envs import pixels
from envs.checks import EnvError
from envs.suites import gym

ADVICE = {  # part of the guard's message: what to do
    "is not finite": "find what overflows or divides by zero; do not hide it with nan_to_num",
    "in size": "scale the reward, e.g. gymnasium.wrappers.TransformReward",
    "is not one real number": "return float(reward) from step()",
    "is not a bool": "return bool(terminated), bool(truncated) from step()",
    "its space promises": "make observation_space say what step() and reset() return (dtype, shape, keys)",
    "is outside its space": "correct the bounds of observation_space, or the values",
    "is not a uint8 array": "let render() with render_mode='rgb_array' return uint8 (Y, X, 3)",
    "no finite bounds": "gymnasium.wrappers.TransformAction with a bounded Box",
}


class Report:
    """Prints findings and remembers whether one was bad."""

    bad = False

    def ok(self, text: str) -> None:
        print(f"ok    {text}")

    def note(self, text: str) -> None:
        print(f"note  {text}")

    def wrong(self, text: str) -> None:
        self.bad = True
        print(f"BAD   {text}")
        for part, advice in ADVICE.items():
            if part in text:
                print(f"      -> {advice}")


def check(config: gym.Config, steps: int, report: Report) -> None:
    """Looks at one environment for `steps` decisions. Errors: EnvError, for what cannot be used at all."""
    raw = gym.make(config)
    try:
        spaces(raw, config, report)
        reuse(raw, report)
    finally:
        raw.close()
    env = gym.build(config)
    try:
        images, rewards, ends = play(env, steps, report)
        again, rewards_again, _ = play(env, min(steps, 50))
    finally:
        env.close()
    seen(images, rewards, ends, report)
    if again == images[: len(again)] and rewards_again == rewards[: len(rewards_again)]:
        report.ok("the same seed and actions give the same images and rewards")
    else:
        report.note("not reproducible: same seed and actions, another episode; use self.np_random for chance")


def spaces(env: gymnasium.Env, config: gym.Config, report: Report) -> None:
    """Where the image is, and what the actions are."""
    report.ok(f"observation {str(env.observation_space)[:150]}")
    key, box = pixels.find(env, config.image)
    if box is None:
        report.ok("image: none in the observation; rendered, once per decision")
    else:
        axes = pixels.layout(box, 1 if key else pixels.SMALLEST)
        report.ok(f"image: {'bare' if key is None else repr(key)}, {box.dtype} {box.shape}, axes {axes}")
    report.ok(f"action {env.action_space}")
    limit = config.time_limit or (env.spec and env.spec.max_episode_steps)
    if limit:
        report.ok(f"time limit {limit} simulator steps")
    else:
        report.note("no time limit: set env.time_limit if episodes may go on for ever")


def reuse(env: gymnasium.Env, report: Report) -> None:
    """Whether the environment writes each image into the same memory; harmless here, as it is copied."""
    try:
        first, _ = env.reset(seed=0)
        second = env.step(env.action_space.sample())[0]
    except Exception:
        return  # `play` will name it
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray) and np.shares_memory(first, second):
        report.note("the observation's buffer is reused; copied here, but others may be surprised")


def play(env: gymnasium.Env, steps: int, report: Report | None = None) -> tuple[list, list, list]:
    """Random actions -> images (as bytes), rewards, ends as (length, "terminated" or "truncated")."""
    env.action_space.seed(0)
    images, rewards, ends = [], [], []
    start, length = time.perf_counter(), 0
    image, _ = env.reset(seed=0)
    images.append(image.tobytes())
    for _ in range(steps):
        image, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        length += 1
        images.append(image.tobytes())
        rewards.append(float(reward))
        if terminated or truncated:
            ends.append((length, "terminated" if terminated else "truncated"))
            env.reset(seed=len(ends))
            length = 0
    if report:
        report.ok(
            f"{steps} decisions, {steps / (time.perf_counter() - start):.0f} per second, "
            f"agents see uint8 {env.observation_space.shape}"
        )
    return images, rewards, ends


def seen(images: list, rewards: list, ends: list, report: Report) -> None:
    """What the episodes were like."""
    values = np.array(rewards)
    report.ok(f"reward per decision {values.min():.4g} .. {values.max():.4g}, mean {values.mean():.4g}")
    if np.abs(values).max() > 100:
        report.note("large rewards: the reward head learns best around 1; consider TransformReward")
    if not values.any():
        report.note("random actions never met a reward: exploration will be hard")
    for kind in ("terminated", "truncated"):
        lengths = [length for length, how in ends if how == kind]
        if lengths:
            report.ok(f"{len(lengths)} episodes {kind}, after {min(lengths)} .. {max(lengths)} decisions")
    if not ends:
        report.note(f"no episode ended in {len(values)} decisions")
    if any(length == 1 for length, _ in ends):
        report.note("some episodes last one decision only")
    if len(set(images)) == 1:
        report.wrong("the image never changes")
    elif not any(map(any, images)):
        report.wrong("all images are black")


def main(arguments: list[str] | None = None) -> int:
    """The command line -> its exit status."""
    parser = argparse.ArgumentParser(prog="python -m envs.check", description=__doc__.splitlines()[0])
    parser.add_argument("id", help="a Gymnasium id, e.g. CarRacing-v3 or package:Name-v0")
    parser.add_argument("--steps", type=int, default=200, help="decisions to look at")
    parser.add_argument("--image", help="key of the image in a Dict observation")
    parser.add_argument("--repeat", type=int, default=1, help="action repeat")
    options = parser.parse_args(arguments)
    config = gym.Config(
        name="gym",
        id=options.id,
        image=options.image,
        kwargs={},
        size=(64, 64),
        gray=False,
        action_repeat=options.repeat,
        time_limit=None,
        num_envs=1,
        vectorization_mode="sync",
        timeout=60,
    )
    report = Report()
    try:
        check(config, options.steps, report)
    except EnvError as error:
        report.wrong(str(error))
    verdict = "cannot be used as it is" if report.bad else f"can be used: env=gym env.id={options.id}"
    print(f"{options.id}: {verdict}")
    return int(report.bad)


if __name__ == "__main__":
    sys.exit(main())
