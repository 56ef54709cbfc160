"""benchmarks/table.py: results that were made up, the README's table, and its intervals by hand."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import curves, record, scores, table
from training.configuration.components import ROOT

README = f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n"


def recorded(
    seed: int = 0, task: str = "walker_walk", steps: int = 50_000, score: float = 300, **changes: Any
) -> dict[str, Any]:
    """What record.py writes of a run that was evaluated in the middle (100) and at its end."""
    return {
        "command": f"train.py exp=planet env=dmc ++env.task={task} ++seed={seed} ++run=mine",
        "seed": seed,
        "env": {"name": "dmc", "task": task},
        "device": "cuda",
        "actor": "cem",
        "counters": {"env_steps": steps, "episodes": steps // 1000, "updates": 4500},
        "curve": [
            {"step": steps // 2, "collect/return": 90.0},
            {"step": steps // 2, "evaluate/return": 100.0, "evaluate/interval": 20.0},
            {"step": steps, "evaluate/return": score, "evaluate/interval": 20.0},
        ],
        "training_seconds": 1800.0,
        "hardware": ["NVIDIA H100 80GB HBM3"],
        **changes,
    }


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder with all that is no run of PlaNet, too."""
    folder = tmp_path / "results"
    folder.mkdir()
    write(folder, "quickstart", {"command": "train.py exp=quickstart", "seed": 0, "curve": []})
    write(folder, "other-task", recorded(task="hopper_hop"))
    write(folder, "gymnasium", recorded(env={"name": "gym", "id": "Pendulum-v1"}))
    write(folder, "offline", recorded(env=None))
    write(folder, "speed", {"machine": {"command": "python benchmarks/speed.py exp=planet"}, "figures": {}})
    write(folder, "kills", {"kills": 40, "commit": None})
    write(folder, "list", [1, 2])
    return folder


def write(folder: Path, name: str, content: Any) -> Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content))
    return path


def cells(folder: Path, task: str = "walker_walk") -> list[str]:
    """A task's first row."""
    return rows(folder, task)[0]


def rows(folder: Path, task: str = "walker_walk") -> list[list[str]]:
    lines = table.table(scores.read(folder)).splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith(f"| {task} ")]


def test_a_task_without_a_run_says_so(results: Path) -> None:
    for task, published in scores.PUBLISHED.items():
        assert cells(results, task) == [task, "", "no run yet", "", "", "", "", str(published), ""]
    assert "no run was recorded yet" in table.table([])


def test_a_task_of_which_planet_has_published_nothing(results: Path) -> None:
    """A row if there are runs, no panel."""
    assert rows(results, "cartpole_balance") == []
    write(results, "balance", recorded(task="cartpole_balance", score=900))
    assert cells(results, "cartpole_balance")[2:4] == ["**900** (one seed: no interval)", "1"]
    assert cells(results, "cartpole_balance")[-2:] == ["", ""]
    curves.draw(results / "planet.png", scores.read(results))


def test_published_scores() -> None:
    """PlaNet's Table 1; and all others for all tasks, at the same env steps."""
    assert list(scores.PUBLISHED.items()) == [
        ("cartpole_swingup", 821), ("reacher_easy", 832), ("cheetah_run", 662),
        ("finger_spin", 700), ("cup_catch", 930), ("walker_walk", 951),
    ]  # fmt: skip
    assert [other["agent"] for other in scores.OTHERS] == ["DreamerV3", "DrQ-v2", "CURL"]
    for other in scores.OTHERS:
        assert list(other["scores"]) == ["100000", "250000", "500000", "1000000"] and other["source"]
        for there in other["scores"].values():
            assert list(there) == list(scores.PUBLISHED) and all(0 < score < 1000 for score in there.values())


def test_one_seed(results: Path) -> None:
    write(results, "one", recorded())
    assert cells(results) == [
        "walker_walk",
        "planet",
        "**300** (one seed: no interval)",
        "1",
        "50 of 1,000 episodes, 50,000 env steps",
        "30 min",
        "NVIDIA H100 80GB HBM3",
        "951",
        "at 100,000: DreamerV3 602, DrQ-v2 170, CURL 516",
    ]
    assert "no run was recorded" not in table.table(scores.read(results))


def test_a_recipe_has_a_row_of_its_own_and_processor_time_where_it_was_logged(results: Path) -> None:
    write(results, "planet", recorded())
    command = "train.py exp=planet_small env.task=walker_walk seed=0 agent.threads=1"
    small = recorded(command=command, device="cpu", steps=400_000, score=700, cpu_seconds=5400.0)
    write(results, "small", small)
    first, second = rows(results)
    assert first[1:3] == ["planet_small", "**700** (one seed: no interval)"] and second[1] == "planet"
    assert first[5] == "30 min, 1 h 30 min of processor time" and second[5] == "30 min"
    assert first[-1] == "at 500,000: DreamerV3 941, DrQ-v2 695, CURL 751"


def test_what_an_evaluation_changed_is_said_where_its_score_counts(results: Path) -> None:
    evaluation = {"env_steps": 50_000, "actor": "cem", "return": 765.0, "overrides": ["actor.candidates=400"]}
    path = write(results, "mine", recorded(evaluation=evaluation))
    assert cells(results)[1:3] == ["planet evaluated with `actor.candidates=400`", "**765** (one seed: no interval)"]
    path.write_text(json.dumps(recorded(evaluation=evaluation | {"env_steps": 40_000})))  # of an earlier checkpoint
    assert cells(results)[1] == "planet"
    path.write_text(json.dumps(recorded(evaluation=evaluation | {"actor": "mppi_control"})))
    told = "planet evaluated with `--actor mppi_control` evaluated with `actor.candidates=400`"
    assert cells(results)[1:3] == [told, "**765** (one seed: no interval)"]


def test_others_stand_at_the_nearest_env_steps() -> None:
    for steps, told in ((1, 100_000), (150_000, 100_000), (170_000, 250_000), (600_000, 500_000), (9e9, 1_000_000)):
        assert table.others("cup_catch", steps).startswith(f"at {told:,}: DreamerV3")


def test_three_seeds_by_hand(results: Path) -> None:
    """300, 360, 330: mean 330, standard deviation 30; t of 2 degrees of freedom 4.3027; 4.3027 * 30 / sqrt(3)."""
    write(results, "a", recorded(0, score=300))
    write(results, "b", recorded(1, score=360, steps=70_000, hardware=["NVIDIA H200", "NVIDIA H100 80GB HBM3"]))
    write(results, "c", recorded(2, score=330, training_seconds=9000.0))
    assert scores.interval([300, 360, 330]) == pytest.approx(74.52, abs=0.01)
    assert cells(results)[2:7] == [
        "**330** +- 75",
        "3",
        "50 to 70 of 1,000 episodes, 50,000 to 70,000 env steps",
        "1 h 10 min",
        "NVIDIA H100 80GB HBM3; NVIDIA H200",
    ]


def test_intervals_of_one_and_two() -> None:
    """Two seeds d apart: 12.706 * (d / sqrt(2)) / sqrt(2)."""
    assert math.isnan(scores.interval([5.0]))
    assert scores.interval([0.0, 10.0]) == pytest.approx(12.706 * 5, abs=0.01)


def test_a_full_run_does_not_say_of_how_many(results: Path) -> None:
    write(results, "full", recorded(steps=1_000_000))
    assert cells(results)[4] == "1,000 episodes, 1,000,000 env steps"


def test_an_evaluation_counts_if_it_is_of_the_end(results: Path) -> None:
    late = {"return": 444.0, "env_steps": 50_000, "actor": "cem"}
    for evaluation, score in (
        (late, 444),
        ({**late, "env_steps": 40_000}, 300),  # the run went on afterwards
        ({**late, "actor": "shooting"}, 444),
        ({"return": 444.0, "actor": "cem"}, 300),  # from before evaluations knew how far the run was
    ):
        write(results, "run", recorded(evaluation=evaluation))
        assert scores.read(results)[0].score == score


def test_names_and_settings(results: Path) -> None:
    """The suite's own name of a task; and what a run changed in the recipe stands beside its task."""
    command = "train.py exp=planet env=dmc ++env.task=ball_in_cup_catch ++agent.precision=fp32 ++train.steps=5"
    write(results, "cup", recorded(task="ball_in_cup_catch", command=command))
    assert cells(results, "cup_catch")[:2] == ["cup_catch", "planet `agent.precision=fp32`"]


@pytest.mark.parametrize("content", ['{"command": "train.py', "", '{"command": "train.py exp=planet"}', "\x00"])
def test_damage_names_the_file(results: Path, content: str) -> None:
    (results / "broken.json").write_text(content)
    with pytest.raises(scores.TableError, match=r"broken\.json: damaged"):
        scores.read(results)


def test_missing_pieces_are_damage(results: Path) -> None:
    for key in ("seed", "env", "curve", "counters", "training_seconds", "hardware"):
        content = recorded()
        del content[key]
        write(results, "piece", content)
        with pytest.raises(scores.TableError, match=rf"piece\.json.*{key}"):
            scores.read(results)
    write(results, "piece", recorded(curve=[]))
    with pytest.raises(scores.TableError, match=r"piece\.json.*no evaluation"):
        scores.read(results)


def test_a_seed_counts_once(results: Path) -> None:
    write(results, "first", recorded())
    write(results, "second", recorded())
    with pytest.raises(scores.TableError, match=r"second\.json.*first\.json"):
        scores.read(results)


def test_the_readme_is_rewritten_in_place(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme, pictures = tmp_path / "README.md", [results / name for name in ("planet.png", "planet-hours.png")]
    readme.write_text(README)
    assert table.update(results, readme, check=True) == 1
    assert "out of date: python benchmarks/table.py" in capsys.readouterr().out
    assert readme.read_text() == README

    assert table.update(results, readme, check=False) == 0
    first = readme.read_text()
    assert first.startswith(f"before\n{table.BEGIN}\n| task |") and first.endswith(f"\n{table.END}\nafter\n")
    assert "planet.png" not in first and not any(picture.exists() for picture in pictures)
    assert table.update(results, readme, check=True) == 0

    write(results, "one", recorded())
    assert table.update(results, readme, check=True) == 1
    for _ in range(2):
        assert table.update(results, readme, check=False) == 0
        assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)
    second = readme.read_text()
    assert "| **300** (one seed: no interval) |" in second
    assert all(f"![returns](benchmarks/results/{picture.name})" in second for picture in pictures)
    assert table.update(results, readme, check=True) == 0

    pictures[1].unlink()  # the link would point nowhere
    assert table.update(results, readme, check=True) == 1


@pytest.mark.parametrize(
    "text",
    ["nothing", f"{table.BEGIN}\n", f"{table.END}\n{table.BEGIN}", f"{README}{table.BEGIN}\n{table.END}"],
)
def test_a_readme_without_the_place(results: Path, tmp_path: Path, text: str) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(scores.TableError, match="between one line"):
        table.update(results, readme, check=False)
    assert readme.read_text() == text


@pytest.fixture
def sheets(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are drawn."""
    drawn, made = [], curves.figure

    def figure(*size: float) -> Any:
        drawn.append(made(*size))
        return drawn[-1]

    monkeypatch.setattr(curves, "figure", figure)
    return drawn


def panels(sheet: Any) -> dict[str, Any]:
    return {axes.get_title().split(",")[0]: axes for axes in sheet.axes}


def test_the_picture_averages_where_all_seeds_were(results: Path, tmp_path: Path, sheets: list[Any]) -> None:
    """Two seeds, one of which went on: no mean beyond the other's end."""
    write(results, "short", recorded(0, steps=50_000, score=200))
    curve = [{"step": n, "evaluate/return": n / 100} for n in (25000, 50000, 60000)]
    write(results, "long", recorded(1, steps=60_000, curve=curve))
    curves.draw(tmp_path / "planet.png", scores.read(results))
    six = panels(sheets[0])
    assert list(six) == list(scores.PUBLISHED)
    lines = {line.get_label(): line for line in six["walker_walk"].lines}
    mean = lines["planet, interquartile mean and 95 % bootstrap interval"]
    assert mean.get_xydata().tolist() == [[25000, 175], [50000, 350]]
    assert set(lines["PlaNet, after 1,000 episodes"].get_ydata()) == {951}
    assert [text.get_text() for text in six["cheetah_run"].texts] == ["no run yet"]
    assert not six["walker_walk"].texts


def test_the_words_below_lie_within_the_picture(results: Path, tmp_path: Path, sheets: list[Any]) -> None:
    """Of all recipes, each with seeds that are averaged."""
    for recipe in scores.RECIPES:
        for seed in (0, 1):
            command = f"train.py exp={recipe} env=dmc ++env.task=walker_walk ++seed={seed}"
            write(results, f"{recipe}{seed}", recorded(seed, command=command))
    curves.draw(tmp_path / "planet.png", scores.read(results))
    words, picture = sheets[0].legends[0].get_window_extent(), sheets[0].bbox
    assert len(sheets[0].legends[0].texts) == 1 + 2 * len(scores.RECIPES)
    assert picture.x0 < words.x0 < words.x1 < picture.x1 and picture.y0 < words.y0


def test_over_hours_seeds_are_compared_between_their_evaluations(
    results: Path, tmp_path: Path, sheets: list[Any]
) -> None:
    """The processor's hours of one that is trained on it. At 2 hours one seed has 200, the other 300."""
    for seed, speed in ((0, 1), (1, 2)):
        curve = [
            {"step": 1000 * n, "evaluate/return": 100.0 * n, "hours": 99.0, "cpu_hours": n / (1 + seed / 2)}
            for n in (speed, 3 * speed)
        ]
        write(results, f"s{seed}", recorded(seed, curve=curve, device="cpu"))
    write(results, "old", recorded(2, device="cpu"))  # without times: it is not in this picture
    curves.draw(tmp_path / "planet-hours.png", scores.read(results))
    lines = panels(sheets[0])["walker_walk"].lines
    singles = [line.get_xydata().tolist() for line in lines[1:3]]
    assert singles == [[[1, 100], [3, 300]], [[4 / 3, 200], [4, 600]]]
    hours, mean = lines[3].get_xydata().T
    assert (hours[0], hours[-1]) == (pytest.approx(4 / 3), 3) and len(lines) == 4
    assert mean[-1] == pytest.approx((300 + 450) / 2)


def test_interquartile_means_and_their_intervals() -> None:
    """Of four the middle two; three are too few to cut any off. Equal seeds leave no doubt."""
    assert curves.iqm(np.array([[0.0], [10.0], [20.0], [999.0]])).tolist() == [15.0]
    assert curves.iqm(np.array([[0.0], [10.0], [50.0]])).tolist() == [20.0]
    low, high = curves.interval(np.array([[5.0, 1.0], [5.0, 2.0], [5.0, 6.0]]))
    assert (low[0], high[0]) == (5.0, 5.0) and 1.0 <= low[1] < 3.0 < high[1] <= 6.0


def test_times_are_summed_up_to_every_evaluation() -> None:
    clock = {"seconds/wall_clock": 3600.0, "seconds/cpu": 1800.0}
    logged = [{"step": 1.0, **clock}, {"step": 1.0, "evaluate/return": 5.0}, {"step": 2.0, **clock},
              {"step": 2.0, "evaluate/return": 6.0}]  # fmt: skip
    rows, seconds = record.timed(logged)
    assert [(row["hours"], row["cpu_hours"]) for row in rows if "evaluate/return" in row] == [(1, 0.5), (2, 1)]
    assert seconds == 3600 and "hours" not in rows[0]
    assert record.timed([{"step": 1.0, "evaluate/return": 5.0}]) == ([{"step": 1.0, "evaluate/return": 5.0}], None)


def test_the_readme_of_this_project_is_up_to_date() -> None:
    """Else: python benchmarks/table.py."""
    assert table.update(ROOT / "benchmarks" / "results", ROOT / "README.md", check=True) == 0


def test_a_folder_that_is_not_there_is_no_empty_table(tmp_path: Path) -> None:
    with pytest.raises(scores.TableError, match="nowhere is no folder"):
        table.update(tmp_path / "nowhere", tmp_path / "README.md", check=False)
