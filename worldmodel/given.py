"""What a run starts from, if not from nothing: recorded episodes, or another run's and its trained model."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from worldmodel import recorded
from worldmodel.base import Spec
from worldmodel.replay import Episode
from worldmodel.run import Run, RunError


class Given(NamedTuple):
    spec: Spec
    lengths: list[int]  # rows of the episodes
    episodes: Iterable[Episode]
    model: dict[str, Tensor] | None


def given(data: str | None, model_from: str | None) -> Given | None:
    """The episodes of a folder, or of a run whose model is taken too; both: that model and those episodes. Errors:
    RunError, RecordedError.
    """
    start = None
    if data is not None:
        try:
            episodes = recorded.read(Path(data))
        except recorded.RecordedError as error:
            raise recorded.RecordedError(f"data: {error}") from error
        start = Given(episodes.spec, episodes.lengths, episodes, None)
    if model_from is not None:
        run = Run.read(Path(model_from))
        trained = run.newest()
        if start and start.spec != run.spec:
            raise RunError(f"{data} holds {start.spec}, but {model_from} was trained on {run.spec}")
        lengths = [chunk.rows for chunk in trained.chunks]
        start = start or Given(run.spec, lengths, run.episodes(trained), None)
        start = start._replace(model=trained.tensors("model"))
    return start
