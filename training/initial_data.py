"""What a run may start from: recorded episodes, or those of another run and its trained model."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from training.run import Run, RunError
from worldmodel.base import Spec
from worldmodel.replay import recorded
from worldmodel.replay.episodes import Episode


class InitialData(NamedTuple):
    spec: Spec
    lengths: list[int]  # rows of the episodes
    episodes: Iterable[Episode]
    model: dict[str, Tensor] | None


def load(data: str | None, model_from: str | None, plugins: Sequence[str] = ()) -> InitialData | None:
    """The episodes of a folder, or of a run whose model is taken too; both: that model and those episodes. Errors:
    RunError, RecordedError.
    """
    found = None
    if data is not None:
        try:
            episodes = recorded.read(Path(data))
        except recorded.RecordedError as error:
            raise recorded.RecordedError(f"data: {error}") from error
        found = InitialData(episodes.spec, episodes.lengths, episodes, None)
    if model_from is not None:
        run = Run.read(Path(model_from))
        run.require_plugins(plugins)
        trained = run.newest()
        if found and found.spec != run.spec:
            raise RunError(f"{data} holds {found.spec}, but {model_from} was trained on {run.spec}")
        lengths = [chunk.rows for chunk in trained.chunks]
        found = found or InitialData(run.spec, lengths, run.episodes(trained), None)
        found = found._replace(model=trained.tensors("model"))
    return found
