"""What a run may start from: recorded episodes, or those of another run and its trained model."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from training.configuration import hints
from training.configuration.config import Config, RootConfig, check_section
from training.configuration.plain import differences, shown
from training.reporting.progress import console
from training.run_folder.checkpoint import Checkpoint
from training.run_folder.run import Run, RunError
from worldmodel import files
from worldmodel.base import ConfigError, Spec
from worldmodel.replay import evidence, recorded
from worldmodel.replay.episodes import Episode, by_episode

# Keys of an environment that say how it is run, and not what is to be done in it.
NOT_THE_TASK = ("num_envs", "vectorization_mode", "timeout", "time_limit")


class InitialData(NamedTuple):
    spec: Spec
    lengths: list[int]  # rows of the episodes
    episodes: Iterable[Episode]
    model: dict[str, Tensor] | None


def load(config: Config) -> InitialData | None:
    """The episodes of a folder, or of a run whose model is taken too; both: that model and those episodes. A run that
    was trained in another environment gives its model alone: one replay would hold the rewards of two tasks. Errors:
    RunError, RecordedError.
    """
    root, found = config.root, None
    if root.data is not None:
        found = recordings(Path(root.data), root)
    if root.model_from is not None:
        run = Run.read(Path(root.model_from))
        run.require_plugins(root.plugins)
        trained = run.newest()
        if found and found.spec != run.spec:
            raise RunError(f"{root.data} holds {found.spec}, but {root.model_from} was trained on {run.spec}"
                           f"{resizing(found.spec, run.spec)}")  # fmt: skip
        other = [] if found else other_task(run, config)
        if other and not root.keep_episodes:
            count = len(by_episode(trained.chunks))
            console.print(
                f"{root.model_from} was trained in another environment ({'; '.join(other[:3])}): its model is taken, "
                f"its {count} episodes are left out; keep_episodes=true takes them, too", markup=False,
            )  # fmt: skip
            found = InitialData(run.spec, [], [], None)
        found = found or of_run(run, trained)
        found = found._replace(model=trained.tensors("model"))
    return found


def other_task(run: Run, config: Config) -> list[str]:
    """In what the environment differs from that in which a run was trained; nothing, if there is none now."""
    if config.env is None:
        return []
    if run.config.get("env") is None:
        return ["its episodes were recorded, and their environment is not known"]
    before = check_section("env", run.config, config.root.plugins).model_dump()
    return [
        f"env.{path}: {shown(old)} there, {shown(new)} here"
        for path, old, new in differences(before, config.env.model_dump())
        if path not in NOT_THE_TASK
    ]


def of_run(run: Run, trained: Checkpoint) -> InitialData:
    """The episodes in a run's replay."""
    lengths = [sum(chunk.rows for chunk in pieces) for pieces in by_episode(trained.chunks)]
    return InitialData(run.spec, lengths, run.episodes(trained), None)


def recordings(folder: Path, root: RootConfig) -> InitialData:
    """The episodes of a folder. A run's are those of its newest checkpoint, as it has them; with other images its files
    are read, whose pieces of episodes are episodes of their own. Errors: RecordedError, RunError.
    """
    options = recorded.Options(root.data_layout, root.data_size, root.data_gray)
    if options == recorded.AS_RECORDED and (folder / "run.json").is_file():
        run = Run.read(folder)
        newest = run.newest()
        console.print(f"{folder} is a run: its episodes are those of {newest.folder.name}", markup=False)
        return of_run(run, newest)
    try:
        episodes = recorded.read(folder, options)
    except recorded.RecordedError as error:
        raise recorded.RecordedError(f"data: {error}") from error
    for line in episodes.found:  # how they are read, and why
        console.print(line, markup=False)
    told = evidence.gather(episodes)
    if told is not None and told.verdict == "follows":
        look = hints.command("-m worldmodel.replay.check", str(folder))
        said = f"the pictures speak against that: {told}. Look at them: {look}"
        console.print(said, markup=False)
    return InitialData(episodes.spec, episodes.lengths, episodes, None)


def spread(lengths: Sequence[int], streams: int) -> list[int]:
    """The stream of replay that each episode goes into: that with the fewest rows so far."""
    rows, found = [0] * streams, []
    for length in lengths:
        found.append(rows.index(min(rows)))
        rows[found[-1]] += length
    return found


def rows_taken(lengths: Sequence[int], streams: int) -> int:
    """What replay must hold so that they all stay: its streams are of one size."""
    rows = [0] * streams
    for stream, length in zip(spread(lengths, streams), lengths, strict=True):
        rows[stream] += length
    return streams * max(rows)


def resizing(have: Spec, wanted: Spec) -> str:
    """What to type so that recordings have the images of an environment or of a model, if that is all that differs."""
    if have._replace(image_shape=wanted.image_shape) != wanted:
        return ""
    c, y, x = wanted.image_shape
    words = [f"data_size=[{y},{x}]"] * (have.image_shape[1:] != (y, x)) + ["data_gray=true"] * (c < have.image_shape[0])
    return f": add {' '.join(words)}" if words and c <= have.image_shape[0] else ""


def check_images(config: Config, spec: Spec) -> None:
    """Errors: ConfigError, if the model cannot read images of the recordings' size."""
    wrong = config.model.image_size_error(spec.image_shape[1:])
    if wrong:
        raise ConfigError([f"data_size: {wrong}; or resize the recordings, as data_size=[64,64]"])


def end_unlearned(config: Config, count: int, episodes: int) -> None:
    """Say so if episodes end for good, and the model has a head for that which is not built."""
    if count and getattr(config.model, "continue_weight", None) == 0:
        said = f"{count} of {episodes} episodes end in a terminal, which is not learned: add model.continue_weight=1"
        console.print(said)


def validation(run: Run) -> list[Episode]:
    """The episodes that a run without an environment has kept. File by file: what else is in the folder is not looked
    at. Errors: RecordedError.
    """
    names = [name for name in files.entries(run.validation) if name.endswith(".npz")]
    options = recorded.Options("worldmodel")
    return [episode for name in names for episode in recorded.read(run.validation / name, options)]
