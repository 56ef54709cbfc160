"""Dreams of all agents in pretrained/, and the page that shows them:  python benchmarks/gallery.py [pendulum ...]

Writes docs/gallery.md, from what the files say of themselves, and docs/gallery/<name>.png, for all agents or those
that are named: each acts in its environment without noise, and its model dreams the same episodes with its eyes closed.
--check compares the page with the files and draws nothing.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import envs  # noqa: E402
from training import evaluation  # noqa: E402
from training.reporting import films  # noqa: E402
from training.run_folder import agent_file  # noqa: E402
from training.run_folder.trained import TrainedRun  # noqa: E402
from worldmodel import files  # noqa: E402

AGENTS, PAGE, PICTURES = ROOT / "pretrained", ROOT / "docs" / "gallery.md", ROOT / "docs" / "gallery"
SEED = 7  # of the episodes; agents were scored on others
SMALLER = ((2, 1), (1, 1), (1, 2), (1, 4))  # episodes, and every so many of the frames, until the film is small enough
LARGEST = 1_500_000  # bytes of a film
HEAD = """# Gallery

Open-loop dreams of the agents in [pretrained/](../pretrained/README.md): what the environment showed, what the model
makes of each image, what it dreams from the actions alone, and how far that is from what happened. While the margin is
green it gets the images; when it turns red it has closed its eyes. The episodes are the agent's own, from starts on
which it was not scored. A dream that comes near an unstable point may fall to the other side.

`python benchmarks/gallery.py` writes this page and its pictures. Play with any of them:
`python play.py pretrained/pendulum.agent`.
"""


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("names", nargs="*", help="of agents; none: all")
    parser.add_argument("--check", action="store_true", help="whether the page is that of the files")
    options = parser.parse_args()
    agents = sorted(AGENTS.glob("*.agent"))
    if options.check:
        lacking = problems(agents)
        print("\n".join(lacking) or f"{PAGE.name} is up to date")
        return int(bool(lacking))
    PICTURES.mkdir(exist_ok=True)
    for path in agents:
        if not options.names or path.stem in options.names:
            draw(path)
    for picture in set(PICTURES.glob("*.png")) - {picture_of(path) for path in agents}:
        picture.unlink()  # of an agent that is gone
    files.write(PAGE, page(agents).encode())
    return 0


def problems(agents: list[Path]) -> list[str]:
    """What is not as this program would write it."""
    written = PAGE.read_text("utf8") if PAGE.exists() else ""
    found = [f"{path.stem} has no picture" for path in agents if not picture_of(path).exists()]
    found += [f"{PAGE.name} is of other agents"] if written != page(agents) else []
    return [f"{text}: python benchmarks/gallery.py" for text in found]


def picture_of(agent: Path) -> Path:
    return PICTURES / f"{agent.stem}.png"


def page(agents: list[Path]) -> str:
    return "\n".join([HEAD, *(section(path.stem, *agent_file.read(path)) for path in agents)])


def section(name: str, run: Any, stored: Any) -> str:
    """What is said of one agent."""
    config, score = run.config, stored.evaluation
    env = config["env"]
    world = env.get("task") or env.get("id") or env["name"]
    image = " x ".join(str(side) for side in run.spec.image_shape[1:])
    interval = f" +- {score['ci95']:.1f}" if score.get("ci95") is not None else ""
    parts = f"{config['model']['name']} and {config['actor']['name']}"
    return (
        f"## {name}\n\n`{world}`, {image} {'gray' if run.spec.image_shape[0] == 1 else 'RGB'}; {parts}; "
        f"{stored.state['counters']['env_steps']:,} env steps; return {score['return']:.1f}{interval} over "
        f"{score['episodes']} episodes.\n\n![the dream of {name}](gallery/{name}.png)\n"
    )


def draw(path: Path) -> None:
    """Its picture. An environment that is not installed, or cannot be drawn here, is told and left as it was."""
    try:
        trained = TrainedRun(path, "cpu", SEED)
        results, _ = trained.evaluate(trained.agent, SMALLER[0][0])
    except envs.EnvError as error:
        print(f"{path.stem}: left out: {error}", file=sys.stderr)
        return
    for episodes, every in SMALLER:
        dream, _ = evaluation.dreams(trained.agent, [result.episode for result in results[:episodes]], SEED)
        content = films.png(films.dream_frames(dream)[::every], films.MILLISECONDS * every)
        if len(content) <= LARGEST:
            break
    files.write(picture_of(path), content)
    print(f"{picture_of(path).relative_to(ROOT)}: {len(content) / 1e3:.0f} KB")


if __name__ == "__main__":
    sys.exit(main())
