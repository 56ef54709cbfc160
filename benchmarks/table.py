"""Control-suite tasks, PlaNet's six first, ours beside published scores:  python benchmarks/table.py

Reads benchmarks/results/*.json (benchmarks/record.py writes them), rewrites the table between the two marker comments
in README.md and draws benchmarks/results/planet.png and planet-hours.png (benchmarks/curves.py). With --check it writes
nothing and fails if the table is out of date.

A run counts if it was started with one of the RECIPES of benchmarks/scores.py on one of its TASKS. Its score is the
mean return of noise-free episodes: those of evaluate.py if they are of the final checkpoint, else the last evaluation
during training. If another actor played them, or changed settings, that stands beside the recipe. Over seeds a 95 %
t-interval is given. Runs stand where they ended; nothing is extrapolated. What others have published, and where, is in
published.json: beside a run stand their scores at the nearest env steps.
"""

import argparse
import math
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import curves  # noqa: E402
from benchmarks.scores import (  # noqa: E402
    EPISODES,
    OTHERS,
    PUBLISHED,
    RECIPES,
    TASKS,
    Result,
    TableError,
    interval,
    of,
    read,
)

BEGIN, END = "<!-- table.py: begin -->", "<!-- table.py: end -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the table is out of date")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    options = parser.parse_args()
    try:
        sys.exit(update(options.results, options.readme, options.check))
    except TableError as error:
        sys.exit(f"error: {error}")


def update(folder: Path, readme: Path, check: bool) -> int:
    """The exit code. Without a run there are no pictures, and no links to any."""
    if not folder.is_dir():
        raise TableError(f"{folder} is no folder: --results is where benchmarks/record.py writes")
    results, pictures = read(folder), [folder / name for name in curves.PICTURES]
    before = readme.read_text("utf8")
    after = laid_in(before, table(results), readme.name)
    if check:
        current = before == after and (all(picture.exists() for picture in pictures) or not results)
        print(f"{readme.name}: the table is {'up to date' if current else 'out of date: python benchmarks/table.py'}")
        return 0 if current else 1
    readme.write_text(after, "utf8")
    for picture in pictures:
        if results:
            curves.draw(picture, results)
        else:
            picture.unlink(missing_ok=True)
    print(f"{readme.name}: {len(results)} runs of {len({result.task for result in results})} tasks")
    return 0


# ---- the table ----


def table(results: list[Result]) -> str:
    """What stands between the markers."""
    head = ("task", "recipe", "ours", "seeds", "ended after", "training, per run", "hardware", "PlaNet, published",
            "others, published")  # fmt: skip
    rows = [head, ("---",) * len(head), *(cells for task in TASKS for cells in rows_of(results, task))]
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    text = [
        "Ours: the mean over seeds of the noise-free return at the end, +- half its 95 % t-interval over seeds.",
        "PlaNet's: Hafner et al. 2019, Table 1, after 1,000 episodes, the mean of 5 seeds x 10 trajectories. Others'",
        "scores are at the env steps nearest to ours; where they are from is in `benchmarks/published.json`.",
        "`benchmarks/many.sh` trains `planet_small` on processors, `benchmarks/gpu.sh` trains `planet` in pieces, and",
        "`python benchmarks/table.py` writes this table.",
    ]
    if not results:
        text.insert(0, "The six tasks are set up (`exp=planet_small env.task=...`) but no run was recorded yet.")
    names = ("planet.png", "planet-hours.png") if results else ()
    pictures = [line for name in names for line in ("", f"![returns](benchmarks/results/{name})")]
    return "\n".join([*lines, "", *text, *pictures])


def rows_of(results: list[Result], task: str) -> list[tuple[str, ...]]:
    """A row for every recipe that has runs; or of PlaNet's tasks one that says that there are none."""
    rows = [row(task, recipe, of(results, task, recipe)) for recipe in RECIPES if of(results, task, recipe)]
    if rows or task not in PUBLISHED:
        return rows
    return [(task, "", curves.NONE, "", "", "", "", str(PUBLISHED[task]), "")]


def row(task: str, recipe: str, runs: list[Result]) -> tuple[str, ...]:
    scores = [run.score for run in runs]
    half = interval(scores)
    ours = f"**{np.mean(scores):.0f}** " + ("(one seed: no interval)" if math.isnan(half) else f"+- {half:.0f}")
    settings = [f"`{word}`" for word in sorted({word for run in runs for word in run.settings})]
    settings += [f"evaluated with `{word}`" for word in sorted({word for run in runs for word in run.evaluated_with})]
    episodes = span(run.episodes for run in runs)
    if task in PUBLISHED and min(run.episodes for run in runs) < EPISODES:
        episodes += f" of {EPISODES:,}"
    lasted = duration(float(np.mean([run.seconds for run in runs])))
    processor = [run.cpu_seconds for run in runs if run.cpu_seconds is not None]
    if len(processor) == len(runs):
        lasted += f", {duration(float(np.mean(processor)))} of processor time"
    return (
        task,
        " ".join([recipe, *settings]),
        ours,
        str(len(runs)),
        f"{episodes} episodes, {span(run.steps for run in runs)} env steps",
        lasted,
        "; ".join(sorted({name for run in runs for name in run.hardware})),
        str(PUBLISHED.get(task, "")),
        others(task, float(np.mean([run.steps for run in runs]))) if task in PUBLISHED else "",
    )


def others(task: str, steps: float) -> str:
    """What other agents have at the nearest number of env steps that is known, by ratio."""
    known = sorted({int(there) for other in OTHERS for there in other["scores"]})
    nearest = min(known, key=lambda there: abs(math.log(max(steps, 1) / there)))
    told = [f"{other['agent']} {other['scores'][str(nearest)][task]}" for other in OTHERS]
    return f"at {nearest:,}: {', '.join(told)}"


def span(values: Iterable[int]) -> str:
    """ "500", or "300 to 500"."""
    known = sorted(set(values))
    return " to ".join(f"{value:,}" for value in ([known[0], known[-1]] if len(known) > 1 else known))


def duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def laid_in(text: str, block: str, name: str) -> str:
    """A README's text with this block between its markers."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise TableError(f"{name}: the table's place is between one line {BEGIN} and one line {END}")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{block}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    main()
