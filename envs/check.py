"""Says what is wrong with an environment, and how to wrap it: `python -m envs.check <Gymnasium id> [--steps 200]
[--kwargs '{"map": 3}'] [--size 64 64] [--gray] [--repeat 2] [--fit crop] [--image rgb] [--picture out.png]`.

Ends with status 0 when agents here can use it, 1 when not. Lines start with "ok", "note" (worth knowing) or "BAD".
--picture writes what the agent will see, enlarged: the first image, and some of those that follow."""

import argparse
import json
import shlex
import sys
import time

import cv2
import gymnasium
import numpy as np
import pydantic

from envs import diagnosis, isolation, pixels
from envs.errors import EnvError, told
from envs.suites import gym

SHOWN, SIDE = 4, 512  # images in the picture, and about as many pixels are the rows of each


class Report:
    """Prints findings and remembers whether one was bad."""

    bad = False

    def ok(self, text: str) -> None:
        print(f"ok    {text}")

    def note(self, text: str) -> None:
        print(f"note  {text}")

    def wrong(self, text: str, advice: str = "") -> None:
        self.bad = True
        print(f"BAD   {text}")
        if advice:
            print(f"      -> {advice}")


def check(config: gym.Config, steps: int, report: Report, picture: str | None = None) -> None:
    """Looks at one environment for `steps` decisions. Errors: EnvError, for what cannot be used at all."""
    raw = isolation.build(gym.make, config)
    try:
        spaces(raw, config, report)
        reuse(raw, report)
    finally:
        close(raw, report)
    env = isolation.build(gym.build, config)
    try:
        for note in env.metadata["notes"]:
            report.note(note.removeprefix(f"{config.label}: "))
        images, rewards, ends = play(env, steps, report)
        again, rewards_again, _ = play(env, min(steps, 50))
        others = [play(env, min(steps, 10), seed=seed)[:2] for seed in (1, 2)]
    finally:
        close(env, report)
    seen(images, rewards, ends, report)
    if np.array_equal(again, images[: len(again)]) and rewards_again == rewards[: len(rewards_again)]:
        report.ok("the same seed and actions give the same images and rewards")
    else:
        report.note("not reproducible: same seed and actions, another episode; use self.np_random for chance")
    if all(np.array_equal(other, images[: len(other)]) and r == rewards[: len(r)] for other, r in others):
        report.note("the seed changes nothing: with other seeds, the same actions give the same episode")
    if picture:
        draw(images, picture)
        report.ok(f"{picture}: what the agent sees, enlarged")


def close(env: gymnasium.Env, report: Report) -> None:
    """Closes it; that this fails is no fault in what was learned: training warns of it, too."""
    try:
        env.close()
    except (Exception, SystemExit) as error:
        report.note(f"close() failed: {told(error)}")


def spaces(env: gymnasium.Env, config: gym.Config, report: Report) -> None:
    """Where the image is, and what the actions are."""
    report.ok(f"observation {str(env.observation_space)[:150]}")
    found = pixels.find(env, config.image)
    if found.box is None:
        report.ok("image: rendered, once per decision")
    else:
        report.ok(f"image: {found.name}, {found.box.dtype} {found.box.shape}, axes {found.axes}")
    report.ok(f"action {env.action_space}")
    limit = config.time_limit or gym.limit_of(env)
    if limit:
        report.ok(f"time limit {limit} simulator steps")
    else:
        report.note(f"{diagnosis.NO_LIMIT}: set env.time_limit, or collect by steps: train.collect.unit=steps")


def reuse(env: gymnasium.Env, report: Report) -> None:
    """Whether the environment writes each image into the same memory; harmless here, as it is copied."""
    try:
        first, _ = env.reset(seed=0)
        second = env.step(env.action_space.sample())[0]
    except (Exception, SystemExit):
        return  # `play` will name it
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray) and np.shares_memory(first, second):
        report.note("the observation's buffer is reused; copied here, but others may be surprised")


def play(
    env: gymnasium.Env, steps: int, report: Report | None = None, seed: int = 0
) -> tuple[np.ndarray, list[float], list[tuple[int, str]]]:
    """Random actions -> images (T, C, Y, X), rewards, ends as (length, "terminated" or "truncated")."""
    env.action_space.seed(0)
    rewards, ends = [], []
    start, length = time.perf_counter(), 0
    images = [env.reset(seed=seed)[0]]
    for _ in range(steps):
        image, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        length += 1
        images.append(image)
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
    return np.stack(images), rewards, ends


def seen(images: np.ndarray, rewards: list[float], ends: list[tuple[int, str]], report: Report) -> None:
    """What the episodes were like."""
    values = np.array(rewards)
    report.ok(f"reward per decision {values.min():.4g} .. {values.max():.4g}, mean {values.mean():.4g}")
    problem = diagnosis.reward_problem(values)
    if problem:
        report.note(f"{problem}: scale them with gymnasium.wrappers.TransformReward, or set model.reward_divisor")
    elif np.abs(values).max() > 100:
        report.note("large rewards: the reward head learns best around 1; consider TransformReward")
    if not values.any():
        report.note("random actions never met a reward: exploration will be hard")
    for kind in ("terminated", "truncated"):
        lengths = [length for length, how in ends if how == kind]
        if lengths:
            report.ok(f"{len(lengths)} episodes {kind}, after {min(lengths)} .. {max(lengths)} decisions")
    if any(how == "terminated" for _, how in ends):
        report.note("episodes end in death: the model knows it with model.continue_weight=1 (where that is 0)")
    if not ends:
        report.note(f"no episode ended in {len(values)} decisions")
    if any(length == 1 for length, _ in ends):
        report.note("some episodes last one decision only")
    pictures = diagnosis.Pictures()
    pictures.see(images)
    problem = pictures.problem()
    if problem:
        report.wrong(problem, "look at it: --picture out.png; is it rendered in this thread, and without a screen?")


def draw(images: np.ndarray, path: str) -> None:
    """Some images (T, C, Y, X) beside each other, enlarged pixel by pixel, with a gray margin. Errors: EnvError."""
    chosen = images[np.linspace(0, len(images) - 1, SHOWN).astype(int)]
    by = max(1, round(SIDE / images.shape[2]))
    large = chosen.repeat(by, 2).repeat(by, 3).transpose(0, 2, 3, 1)  # (N, Y, X, C)
    framed = np.pad(
        np.broadcast_to(large, (*large.shape[:3], 3)), ((0, 0), (8, 8), (8, 8), (0, 0)), constant_values=128
    )
    try:
        written = cv2.imwrite(path, cv2.cvtColor(np.concatenate(list(framed), axis=1), cv2.COLOR_RGB2BGR))
    except cv2.error as error:
        raise EnvError(f"--picture: {path}: {error.err or 'cannot be written'}; wanted: a name like out.png") from error
    if not written:
        raise EnvError(f"--picture: {path} cannot be written: is its folder there?")


def words(config: gym.Config) -> str:
    """What to type to train in it."""
    told = ["env=gym", f"env.id={config.id}"]
    told += [f"env.image={config.image}"] if config.image else []
    told += [f"env.kwargs={json.dumps(config.kwargs)}"] if config.kwargs else []
    told += [f"env.size=[{config.size[0]},{config.size[1]}]"] if config.size != (64, 64) else []
    told += ["env.gray=true"] if config.gray else []
    told += [f"env.action_repeat={config.action_repeat}"] if config.action_repeat > 1 else []
    told += [f"env.time_limit={config.time_limit}"] if config.time_limit else []
    told += [f"env.fit={config.fit}"] if config.fit != "stretch" else []
    told += [f"env.wrappers=[{','.join(config.wrappers)}]"] if config.wrappers else []
    return shlex.join(told)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m envs.check", description=str(__doc__).splitlines()[0])
    parser.add_argument("id", help="a Gymnasium id, e.g. CarRacing-v3 or package:Name-v0")
    parser.add_argument("--steps", type=int, default=200, help="decisions to look at")
    parser.add_argument("--image", help="the part of the observation that is the image: rgb, sensors/rgb, or render")
    parser.add_argument("--kwargs", default="{}", help="JSON: arguments of the environment itself")
    parser.add_argument("--size", type=int, nargs=2, default=(64, 64), metavar=("Y", "X"), help="pixels")
    parser.add_argument("--gray", action="store_true", help="one channel")
    parser.add_argument("--repeat", type=int, default=1, help="action repeat")
    parser.add_argument("--time-limit", type=int, help="simulator steps")
    parser.add_argument("--fit", choices=("stretch", "letterbox", "crop"), default="stretch")
    parser.add_argument("--wrappers", default="", help="your own, my_package:Wrap,my_package:Other")
    parser.add_argument("--picture", metavar="out.png", help="write what the agent will see, enlarged")
    options = parser.parse_args(arguments)
    try:
        options.kwargs = json.loads(options.kwargs)
        if not isinstance(options.kwargs, dict):
            raise ValueError("not a JSON object")
    except ValueError as error:
        parser.error(f"--kwargs: {error}; wanted: '{{\"name\": value}}'")
    if options.steps < 1:
        parser.error("--steps must be at least 1")
    return options


def main(arguments: list[str] | None = None) -> int:
    """The command line -> its exit status."""
    options = parse(arguments)
    try:
        config = gym.Config(
            name="gym",
            id=options.id,
            image=options.image,
            kwargs=options.kwargs,
            size=tuple(options.size),
            gray=options.gray,
            action_repeat=options.repeat,
            time_limit=options.time_limit,
            num_envs=1,
            vectorization_mode="sync",
            timeout=60,
            fit=options.fit,
            wrappers=[name for name in options.wrappers.split(",") if name],
        )
    except pydantic.ValidationError as error:
        for mistake in error.errors():
            print(f"error: --{'.'.join(map(str, mistake['loc']))}: {mistake['msg']}", file=sys.stderr)
        return 2
    report = Report()
    try:
        check(config, options.steps, report, options.picture)
    except (Exception, SystemExit) as error:  # others than EnvError come of its own code, outside reset and step
        report.wrong(str(error) if isinstance(error, EnvError) else told(error), getattr(error, "advice", ""))
    verdict = "cannot be used as it is" if report.bad else f"can be used: {words(config)}"
    print(f"{options.id}: {verdict}")
    return int(report.bad)


if __name__ == "__main__":
    sys.exit(main())
