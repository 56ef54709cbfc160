"""Draw which room imports which:  python benchmarks/import_graph.py

Reads the imports of all files with ast (nothing is imported or executed) and draws two pictures side by side into
docs/import_graph.png: the rooms, with the number of imports between them, and the files, in the order of their rooms.
Also prints the table of rooms. The same files give the same picture.
"""

import argparse
import ast
from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
TOP = ("train", "evaluate", "export", "play", "viewer", "training", "agents", "worldmodel", "envs")
ENTRIES = "train.py, evaluate.py, export.py, play.py"
PLACES = {  # rooms, and where they are drawn: x, y
    ENTRIES: (2.0, 6.2),
    "viewer": (3.9, 5.6),
    "training": (2.5, 4.8),
    "training/doctor": (0.6, 5.2),
    "agents": (1.25, 3.1),
    "agents/explorers": (-0.3, 4.5),
    "agents/planners": (-0.3, 3.4),
    "agents/objectives": (-0.05, 2.3),
    "agents/controllers": (-0.45, 1.3),
    "worldmodel": (2.1, 1.1),
    "worldmodel/replay": (3.5, 1.9),
    "worldmodel/models": (2.1, -0.4),
    "worldmodel/networks": (0.6, -0.4),
    "envs": (4.5, 4.1),
    "envs/suites": (4.5, 2.6),
}
BEND = 0.07
COLOURS = {
    ENTRIES: "#555555",
    "viewer": "#c51b8a",
    "training": "#8856a7",
    "agents": "#2b8cbe",
    "worldmodel": "#31a354",
    "envs": "#d95f0e",
}


def modules() -> dict[str, Path]:
    """Dotted name -> file, of all files in the rooms that are not empty; packages by the name of their folder."""
    paths = [path for top in TOP for path in [ROOT / f"{top}.py", *sorted((ROOT / top).rglob("*.py"))]]
    found = [path for path in paths if path.exists() and path.stat().st_size]
    dotted = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in found}
    return {name.removesuffix(".__init__"): path for name, path in dotted.items()}


def imports(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of ours that a file imports, wherever in it: `from a import b` is a.b if that is a module, else a."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {full if full in known else node.module for full in names}
    return (found & set(known)) - {name}


def room(name: str, known: dict[str, Path]) -> str:
    """The room of a module: its folder. Errors: SystemExit for a new one."""
    folder = known[name].relative_to(ROOT).parent.as_posix()
    place = ENTRIES if folder == "." else folder
    if place.startswith("training/") and place not in PLACES:
        return "training"  # its rooms are the columns' business: seven boxes more would hide the others
    if place not in PLACES:
        raise SystemExit(f"{place} is a new room: give it a place in PLACES")
    return place


def colour(place: str) -> str:
    return COLOURS[place if place == ENTRIES else place.split("/")[0]]


def draw_rooms(axes: Any, between: Counter[tuple[str, str]], files: Counter[str]) -> None:
    """Boxes with the number of files in each room, arrows with the number of imports."""
    for (here, there), count in sorted(between.items()):
        (x, y), (u, v) = PLACES[here], PLACES[there]
        shrink = 26 if abs(v - y) > 0.6 * abs(u - x) else 36  # boxes are wider than high
        axes.annotate(
            "", (u, v), (x, y), zorder=1,
            arrowprops={"arrowstyle": "-|>", "color": colour(here), "alpha": 0.75, "lw": 0.5 + 0.25 * count**0.6,
                        "shrinkA": 22, "shrinkB": shrink, "connectionstyle": f"arc3,rad={BEND}"},
        )  # fmt: skip
        # The arrow is a quadratic curve; the number stands some way along it.
        s = 0.3 if here == ENTRIES else 0.42
        bend = ((x + u) / 2 + BEND * (v - y), (y + v) / 2 - BEND * (u - x))
        at = [(1 - s) ** 2 * a + 2 * s * (1 - s) * b + s**2 * c for a, b, c in zip((x, y), bend, (u, v), strict=True)]
        box = {"boxstyle": "round,pad=0.12", "fc": "white", "ec": "none", "alpha": 0.85}
        axes.text(*at, str(count), fontsize=8, color=colour(here), ha="center", va="center", bbox=box, zorder=2)
    for place, (x, y) in PLACES.items():
        text = place.replace("/", "/\n").replace(", ", "\n") + (f"\n{files[place]} files" if place != ENTRIES else "")
        box = {"boxstyle": "round,pad=0.45", "fc": colour(place), "ec": "white"}
        axes.text(x, y, text, color="white", fontsize=8.5, ha="center", va="center", bbox=box, zorder=3)
    axes.set(xlim=(-0.8, 5.0), ylim=(-0.9, 6.7), aspect="equal")
    axes.set_title("Rooms. A -> B: how often files of A import files of B", fontsize=11)
    axes.axis("off")


def draw_files(axes: Any, edges: list[tuple[str, str]], known: dict[str, Path]) -> None:
    """A matrix: the row imports the column."""
    order = sorted(known, key=lambda name: (list(PLACES).index(room(name, known)), name))
    number = {name: i for i, name in enumerate(order)}
    for here, there in edges:
        axes.plot(number[there], number[here], "s", color=colour(room(here, known)), markersize=4)
    borders = [i - 0.5 for i in range(1, len(order)) if room(order[i], known) != room(order[i - 1], known)]
    for border in borders:
        axes.axhline(border, color="0.85", lw=0.7, zorder=0)
        axes.axvline(border, color="0.85", lw=0.7, zorder=0)
    names = [str(known[name].relative_to(ROOT)).removesuffix("/__init__.py") for name in order]
    short = [name if "/" not in name else name.rpartition("/")[2] for name in names]
    axes.set_xticks(range(len(order)), short, rotation=90, fontsize=5.6)
    axes.set_yticks(range(len(order)), names, fontsize=5.6)
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        for label, name in zip(labels, order, strict=True):
            label.set_color(colour(room(name, known)))
    axes.set(xlim=(-0.5, len(order) - 0.5), ylim=(len(order) - 0.5, -0.5))
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_title("Files: the row imports the column", fontsize=11, pad=8)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the import graph of the rooms.")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "import_graph.png")
    output = parser.parse_args().output
    known = modules()
    edges = [(name, other) for name, path in known.items() for other in sorted(imports(name, path, known))]
    between = Counter((room(a, known), room(b, known)) for a, b in edges if room(a, known) != room(b, known))
    sheet = Figure(figsize=(18, 10), dpi=140, layout="constrained")
    rooms, files = sheet.subplots(1, 2, width_ratios=(0.82, 1))
    draw_rooms(rooms, between, Counter(room(name, known) for name in known))
    draw_files(files, edges, known)
    sheet.savefig(output, metadata={"Software": None})
    for (here, there), count in sorted(between.items()):
        print(f"{here:21} -> {there:20} {count:3}")
    print(f"{len(known)} modules, {len(edges)} imports: {output}")


if __name__ == "__main__":
    main()
