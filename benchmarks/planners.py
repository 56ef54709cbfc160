"""Planners by return per plan evaluation, on one trained model:  python benchmarks/planners.py runs/quickstart

Every planner plays the same noise-free episodes with every budget of candidates, and so many sequences as it imagines
for one decision are counted where the objective values them. CEM has warm starts; what is not named here is as in the
files configs/actor/cem_small.yaml and icem.yaml, but for the horizon, which is the run's own. Every finished line is
written to --json at once, and what stands there is not repeated.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from torch import Tensor  # noqa: E402

from agents.agent import Agent  # noqa: E402
from training.run_folder.trained import TrainedRun  # noqa: E402

BUDGETS = (16, 32, 64, 128, 256)  # candidates of an iteration


def settings(budget: int) -> dict[str, tuple[str, list[str]]]:
    """Name -> the file in configs/actor/ and overrides."""
    common = [f"actor.candidates={budget}", f"actor.elites={max(2, budget // 10)}"]
    wide = ["actor.init_std=1", "actor.noise_exponent=1"]
    return {
        f"cem 2x{budget}": ("cem_small", [*common, "actor.iterations=2"]),
        f"cem 3x{budget}": ("cem_small", [*common, "actor.iterations=3"]),
        f"icem 2x{budget}": ("icem", [*common, "actor.iterations=2"]),
        f"icem 3x{budget}": ("icem", [*common, "actor.iterations=3"]),
        f"icem 2x{budget}, std 1, exponent 1": ("icem", [*common, "actor.iterations=2", *wide]),
        f"icem 2x{budget}, mean": ("icem", [*common, "actor.iterations=2", "actor.choose=mean"]),
        f"icem 2x{budget}, mean, std 1, exponent 1": (
            "icem",
            [*common, "actor.iterations=2", *wide, "actor.choose=mean"],
        ),
    }


def count_evaluations(agent: Agent) -> list[int]:
    """From here on: the sequences (rows of environments times candidates) of every valuation."""
    objective, counted = agent.actor.objective, list[int]()
    plain = objective.reward  # type: ignore[union-attr]

    def reward(model: Any, path: Any, actions: Tensor) -> Tensor:
        counted.append(actions.shape[1])
        return plain(model, path, actions)

    objective.reward = reward  # type: ignore[union-attr,method-assign]
    return counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run's folder, or an agent's file")
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--budgets", type=int, nargs="*", default=BUDGETS)
    parser.add_argument("--only", default="", help="only planners whose name has this in it, such as 'icem 3x'")
    parser.add_argument("--json", type=Path, help="where results are written and taken from")
    options = parser.parse_args()
    known = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    trained = TrainedRun(options.run, "cpu", seed=0)
    horizon = trained.run.config["actor"]["horizon"]
    for budget in options.budgets:
        for name, (file, overrides) in settings(budget).items():
            if name in known or options.only not in name:
                continue
            agent, _ = trained.prepare_agent(file, 1, [*overrides, f"actor.horizon={horizon}"])
            counted = count_evaluations(agent)
            results, values = trained.evaluate(agent, options.episodes)
            decisions = sum(result.length for result in results)
            known[name] = {
                "evaluations_per_plan": sum(counted) / decisions,
                "return": values["evaluate/return"],
                "ci95": values.get("evaluate/ci95"),
                "returns": [result.episode_return for result in results],
            }
            line = known[name]
            print(f"{name:32} {line['evaluations_per_plan']:7.0f} evaluations a plan  return {line['return']:8.1f}")
            if options.json:
                temporary = options.json.with_suffix(".tmp")
                temporary.write_text(json.dumps(known, indent=1) + "\n")
                os.replace(temporary, options.json)


if __name__ == "__main__":
    main()
