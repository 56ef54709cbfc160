"""Tells what a folder of recordings holds, and how it would be read:  python -m worldmodel.replay.check <folder>

Episodes, sizes, actions, rewards, terminals, and whether the pictures agree with the rows that actions were given.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from worldmodel.replay import evidence
from worldmodel.replay.layouts import LAYOUTS
from worldmodel.replay.npz import RecordedError
from worldmodel.replay.recorded import Options, Recordings, read


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m worldmodel.replay.check", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--layout", choices=sorted(LAYOUTS), help="as data_layout=; left out: by the marks in the files"
    )
    parser.add_argument("--size", type=side, nargs=2, metavar=("Y", "X"), help="as data_size=")
    parser.add_argument("--gray", action="store_true", help="as data_gray=true")
    asked = parser.parse_args(arguments)
    try:
        found = read(asked.folder, Options(asked.layout, asked.size, asked.gray))
        for name, said in report(found):
            print(f"{name:<10} {said}")
    except (RecordedError, OSError) as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 1
    words = [f"data={asked.folder}", "exp=offline"]
    words += [f"data_layout={asked.layout}"] * (asked.layout is not None)
    words += [f"data_size=[{asked.size[0]},{asked.size[1]}]"] if asked.size else []
    entry = os.path.relpath(Path(__file__).resolve().parents[2] / "train.py")  # from where this was typed
    print(f"{'to learn':<10} {shlex.join(['python', entry, *words, *['data_gray=true'] * asked.gray])}")
    return 0


def side(text: str) -> int:
    """Pixels, as many as data_size may have."""
    if not (text.isdigit() and 4 <= int(text) <= 1024):
        raise argparse.ArgumentTypeError(f"{text}: 4 to 1024 pixels")
    return int(text)


def report(found: Recordings) -> Iterator[tuple[str, str]]:
    """A line for each thing that one wants to know; the images are read once."""
    for number, line in enumerate(found.found):
        yield ("layout" if number == 0 else ""), line
    counts = np.array(found.lengths) - 1
    yield "episodes", f"{len(counts)} of {counts.min()} to {counts.max()} actions, {counts.sum():,} in all"
    sums = Sums(found.spec.action_dim)
    told = evidence.gather(sums.watch(found))
    for _ in sums.rest:  # what the evidence did not need
        pass
    c, y, x = found.spec.image_shape
    frozen = f"; {sums.frozen:.0%} of them are as the one before" if sums.frozen > 0.01 else ""
    yield "images", f"{y} x {x}, {c} channel{'s' * (c > 1)}, {sums.darkest} to {sums.brightest}{frozen}"
    yield "actions", sums.actions(found.spec.discrete)
    yield "rewards", sums.rewards()
    yield "terminals", f"{sums.terminals} of {len(counts)} episodes end in one; the others were cut"
    if told is None:
        yield "alignment", "too few rows to look at"
        return
    agrees = {
        "led": "as it is read",
        "follows": "NOT as it is read: actions seem to be taken at the image that they are given to",
        "earlier": f"perhaps NOT as it is read: the change before tells {told.before:.2f}. Actions were given a row "
        "too late, were held, or were chosen by what was seen",
    }
    yield "alignment", f"{told}: {agrees.get(told.verdict, 'that leaves it open')}"


class Sums:
    """Gathers what is to be told while episodes pass by."""

    def __init__(self, actions: int) -> None:
        self.low, self.high, self.total = np.full(actions, np.inf), np.full(actions, -np.inf), np.zeros(actions)
        self.returns: list[float] = []
        self.reward_range, self.zeros, self.rows, self.same = [np.inf, -np.inf], 0, 0, 0
        self.darkest, self.brightest, self.terminals = 255, 0, 0

    def watch(self, found: Recordings) -> Iterator:
        self.rest = self.passing(found)
        return self.rest

    def passing(self, found: Recordings) -> Iterator:
        for episode in found:
            action, reward = episode.action[1:], episode.reward[1:]
            self.low, self.high = np.minimum(self.low, action.min(0)), np.maximum(self.high, action.max(0))
            self.total += action.sum(0)
            self.returns.append(float(reward.sum()))
            self.reward_range = [min(self.reward_range[0], reward.min()), max(self.reward_range[1], reward.max())]
            self.zeros += int((reward == 0).sum())
            self.rows += len(reward)
            self.same += int((episode.image[1:] == episode.image[:-1]).all((1, 2, 3)).sum())
            self.darkest = min(self.darkest, int(episode.image.min()))
            self.brightest = max(self.brightest, int(episode.image.max()))
            self.terminals += int(episode.terminal[-1])
            yield episode

    @property
    def frozen(self) -> float:
        return self.same / self.rows

    def actions(self, discrete: bool) -> str:
        if discrete:
            shares = ", ".join(f"{share:.0%}" for share in self.total / self.rows)
            return f"discrete, one of {len(self.total)}, chosen in {shares}"
        spans = ", ".join(f"{low:.2g}..{high:.2g}" for low, high in zip(self.low, self.high))
        return f"{len(self.total)} number{'s' * (len(self.total) > 1)}, in {spans}"

    def rewards(self) -> str:
        low, high = self.reward_range
        sums = f"{np.mean(self.returns):.4g} +- {np.std(self.returns):.3g}"
        return f"{low:.3g} to {high:.3g}, {self.zeros / self.rows:.0%} are 0; an episode's sum is {sums}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
