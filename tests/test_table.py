"""benchmarks/table.py: results that were made up, the README's table, and its intervals by hand."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks import table
from training.components import ROOT

README = f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n"


def recorded(
    seed: int = 0, task: str = "walker_walk", steps: int = 50_000, score: float = 300, **changes: Any
) -> dict[str, Any]:
    """What record.py writes of a run that was evaluated in the middle (100) and at its end."""
    return {
        "command": f"train.py exp=planet env=dmc ++env.task={task} ++seed={seed} ++run=mine",
        "seed": seed,
        "env": {"name": "dmc", "task": task},
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
    """A task's row."""
    lines = table.table(table.read(folder)).splitlines()
    return next([cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith(f"| {task} "))


def test_a_task_without_a_run_says_so(results: Path) -> None:
    for task, published in table.PUBLISHED.items():
        assert cells(results, task) == [task, "no run yet", "", "", "", "", str(published)]
    assert "have not been trained here yet" in table.table([])


def test_published_scores() -> None:
    """PlaNet's Table 1."""
    assert list(table.PUBLISHED.items()) == [
        ("cartpole_swingup", 821), ("reacher_easy", 832), ("cheetah_run", 662),
        ("finger_spin", 700), ("cup_catch", 930), ("walker_walk", 951),
    ]  # fmt: skip


def test_one_seed(results: Path) -> None:
    write(results, "one", recorded())
    assert cells(results) == [
        "walker_walk",
        "**300** (one seed: no interval)",
        "1",
        "50 of 1,000 episodes, 50,000 env steps",
        "30 min",
        "NVIDIA H100 80GB HBM3",
        "951",
    ]
    assert "have not been" not in table.table(table.read(results))


def test_three_seeds_by_hand(results: Path) -> None:
    """300, 360, 330: mean 330, standard deviation 30; t of 2 degrees of freedom 4.3027; 4.3027 * 30 / sqrt(3)."""
    write(results, "a", recorded(0, score=300))
    write(results, "b", recorded(1, score=360, steps=70_000, hardware=["NVIDIA H200", "NVIDIA H100 80GB HBM3"]))
    write(results, "c", recorded(2, score=330, training_seconds=9000.0))
    assert table.interval([300, 360, 330]) == pytest.approx(74.52, abs=0.01)
    assert cells(results)[1:6] == [
        "**330** +- 75",
        "3",
        "50 to 70 of 1,000 episodes, 50,000 to 70,000 env steps",
        "1 h 10 min",
        "NVIDIA H100 80GB HBM3; NVIDIA H200",
    ]


def test_intervals_of_one_and_two() -> None:
    """Two seeds d apart: 12.706 * (d / sqrt(2)) / sqrt(2)."""
    assert math.isnan(table.interval([5.0]))
    assert table.interval([0.0, 10.0]) == pytest.approx(12.706 * 5, abs=0.01)


def test_a_full_run_does_not_say_of_how_many(results: Path) -> None:
    write(results, "full", recorded(steps=1_000_000))
    assert cells(results)[3] == "1,000 episodes, 1,000,000 env steps"


def test_an_evaluation_counts_if_it_is_of_the_end(results: Path) -> None:
    late = {"return": 444.0, "env_steps": 50_000, "actor": "cem"}
    for evaluation, score in (
        (late, 444),
        ({**late, "env_steps": 40_000}, 300),  # the run went on afterwards
        ({**late, "actor": "shooting"}, 300),
        ({"return": 444.0, "actor": "cem"}, 300),  # from before evaluations knew how far the run was
    ):
        write(results, "run", recorded(evaluation=evaluation))
        assert table.read(results)[0].score == score


def test_names_and_settings(results: Path) -> None:
    """The suite's own name of a task; and what a run changed in the recipe stands beside its task."""
    command = "train.py exp=planet env=dmc ++env.task=ball_in_cup_catch ++agent.precision=fp32 ++train.steps=5"
    write(results, "cup", recorded(task="ball_in_cup_catch", command=command))
    assert cells(results, "cup_catch")[:2] == ["cup_catch `agent.precision=fp32`", "**300** (one seed: no interval)"]


@pytest.mark.parametrize("content", ['{"command": "train.py', "", '{"command": "train.py exp=planet"}', "\x00"])
def test_damage_names_the_file(results: Path, content: str) -> None:
    (results / "broken.json").write_text(content)
    with pytest.raises(table.TableError, match=r"broken\.json: damaged"):
        table.read(results)


def test_missing_pieces_are_damage(results: Path) -> None:
    for key in ("seed", "env", "curve", "counters", "training_seconds", "hardware"):
        content = recorded()
        del content[key]
        write(results, "piece", content)
        with pytest.raises(table.TableError, match=rf"piece\.json.*{key}"):
            table.read(results)
    write(results, "piece", recorded(curve=[]))
    with pytest.raises(table.TableError, match=r"piece\.json.*no evaluation"):
        table.read(results)


def test_a_seed_counts_once(results: Path) -> None:
    write(results, "first", recorded())
    write(results, "second", recorded())
    with pytest.raises(table.TableError, match=r"second\.json.*first\.json"):
        table.read(results)


def test_the_readme_is_rewritten_in_place(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme, picture = tmp_path / "README.md", results / "planet.png"
    readme.write_text(README)
    assert table.update(results, readme, check=True) == 1
    assert "out of date: python benchmarks/table.py" in capsys.readouterr().out
    assert readme.read_text() == README

    assert table.update(results, readme, check=False) == 0
    first = readme.read_text()
    assert first.startswith(f"before\n{table.BEGIN}\n| task |") and first.endswith(f"\n{table.END}\nafter\n")
    assert "planet.png" not in first and not picture.exists()
    assert table.update(results, readme, check=True) == 0

    write(results, "one", recorded())
    assert table.update(results, readme, check=True) == 1
    for _ in range(2):
        assert table.update(results, readme, check=False) == 0
        assert picture.read_bytes().startswith(b"\x89PNG")
    second = readme.read_text()
    assert "| **300** (one seed: no interval) |" in second
    assert "![returns](benchmarks/results/planet.png)" in second
    assert table.update(results, readme, check=True) == 0

    picture.unlink()  # the link would point nowhere
    assert table.update(results, readme, check=True) == 1


@pytest.mark.parametrize(
    "text",
    ["nothing", f"{table.BEGIN}\n", f"{table.END}\n{table.BEGIN}", f"{README}{table.BEGIN}\n{table.END}"],
)
def test_a_readme_without_the_place(results: Path, tmp_path: Path, text: str) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(table.TableError, match="between one line"):
        table.update(results, readme, check=False)
    assert readme.read_text() == text


def test_the_picture_averages_where_all_seeds_were(results: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Two seeds, one of which went on: no mean beyond the other's end."""
    write(results, "short", recorded(0, steps=50_000, score=200))
    write(
        results,
        "long",
        recorded(1, steps=60_000, curve=[{"step": n, "evaluate/return": n / 100} for n in (25000, 50000, 60000)]),
    )
    sheets = []
    made = table.figure

    def figure(*size: float) -> Any:
        sheets.append(made(*size))
        return sheets[-1]

    monkeypatch.setattr(table, "figure", figure)
    table.draw(tmp_path / "planet.png", table.read(results))
    panels = {axes.get_title().split(",")[0]: axes for axes in sheets[0].axes}
    assert list(panels) == list(table.PUBLISHED)
    lines = {line.get_label(): line for line in panels["walker_walk"].lines}
    assert lines["mean over seeds"].get_xydata().tolist() == [[25000, 175], [50000, 350]]
    assert set(lines["published, after 1,000 episodes"].get_ydata()) == {951}
    assert [text.get_text() for text in panels["cheetah_run"].texts] == ["no run yet"]
    assert not panels["walker_walk"].texts


def test_the_readme_of_this_project_is_up_to_date() -> None:
    """Else: python benchmarks/table.py."""
    assert table.update(ROOT / "benchmarks" / "results", ROOT / "README.md", check=True) == 0
