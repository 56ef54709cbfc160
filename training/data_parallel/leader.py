"""Rank 0: it trains as a process alone does, and has the others compute its updates with it.

It alone collects, evaluates, reports and writes the run's folder. Every row that comes into its replay is sent to the
others, so that all replays are the same; every batch is drawn by the same numbers everywhere, and each process takes
its share of it. Weights, moments and statistics stay equal to the bit, since all follow the same mean gradient.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from agents.optimizers import Diverged
from training.configuration.config import Config
from training.data_parallel import shares
from training.data_parallel.channel import Channel, ProcessLost
from training.data_parallel.world import ALONE, World
from training.reporting.progress import console
from training.schedule import StageProgress
from worldmodel.base import ConfigError
from worldmodel.replay.buffer import Replay
from worldmodel.replay.episodes import Episode

if TYPE_CHECKING:
    from training.trainer import Trainer


class RanksDiffer(RuntimeError):
    """Two processes have not learned the same."""


class Leader:
    """Without a channel it is alone, and nothing here does anything."""

    def __init__(self, world: World = ALONE, channel: Channel | None = None) -> None:
        self.world, self.channel = world, channel
        self.share = world.rank, world.size
        self.broken = False  # the others wait amid an update that this process has left

    def check(self, config: Config) -> None:
        """Errors: ConfigError, for what processes cannot do together."""
        if not self.channel:
            return
        size, lines = self.world.size, []
        for key, rows in batch_sizes(config).items():
            if rows % size:
                nearest = [count for count in (rows // size * size, -(-rows // size) * size) if count]
                lines.append(
                    f"{key}: {rows} sequences cannot be divided equally among {size} processes: choose "
                    f"{' or '.join(map(str, nearest))}"
                )
        cards = torch.cuda.device_count()
        if config.agent.device != "cpu" and 0 < cards < self.world.local_size:
            lines.append(
                f"agent.device: torchrun has started {self.world.local_size} processes on a machine with {cards} GPUs: "
                f"--nproc-per-node={cards}, or agent.device=cpu"
            )
        if lines:
            raise ConfigError(lines)

    def begin(self, trainer: "Trainer", config: Config) -> None:
        """The others become what this process is: config, agent, replay."""
        if not self.channel:
            return
        agent, replay = trainer.agent, trainer.replay
        console.print(f"{self.world.size} processes share every batch")
        self.channel.send(
            "begin",
            config=config.plain,
            spec=agent.spec._asdict(),
            threads=torch.get_num_threads(),
            storage=replay.storage.kind,
            replay={"rows": replay.capacity, "streams": replay.streams, "by_rows": replay.by_rows},
            begin=replay.begin.tolist(),
        )
        shares.join_updates(agent.device)
        parts = agent.tensors()
        tensors = {f"{part}/{name}": tensor for part, found in parts.items() for name, tensor in found.items()}
        self.channel.send("agent", tensors)
        for piece in list(replay.pieces):
            live = max(piece.begin, int(replay.begin[piece.stream]))
            continuation = piece.continuation or live > piece.begin
            self.rows(replay.rows(dataclasses.replace(piece, begin=live)), piece.stream, continuation)
        if replay.states:
            self.channel.send("context", replay.context())
        replay.added = self.rows

    def rows(self, episode: Episode, stream: int, continuation: bool) -> None:
        """The others take in what replay has taken in."""
        assert self.channel
        arrays = {name: torch.from_numpy(array) for name, array in episode.plain()._asdict().items()}
        self.channel.send("rows", arrays, stream=stream, continuation=continuation)

    @contextlib.contextmanager
    def learning(
        self, turn: StageProgress, updates: range, replay: Replay
    ) -> Iterator[Callable[[], contextlib.AbstractContextManager[None]]]:
        """Within it each update is computed together, in what this gives."""
        if not self.channel:
            yield contextlib.nullcontext
            return
        size = turn.stage.batch_size or replay.config.batch_size
        length = turn.stage.batch_length or replay.config.batch_length
        self.channel.send("learn", parts=turn.parts, updates=[updates.start, updates.stop], batch=[size, length])
        done = 0

        @contextlib.contextmanager
        def together() -> Iterator[None]:
            nonlocal done
            assert self.channel
            self.channel.agreed(True)
            done += 1
            try:
                with self.channel.naming_the_lost():
                    yield
            except Diverged:  # they leave, too
                done = len(updates)
                raise
            except BaseException:
                self.broken = True
                raise

        try:
            yield together
        finally:
            if not self.broken and done < len(updates):  # they wait for the next one
                self.channel.agreed(False)

    def compare(self, trainer: "Trainer") -> None:
        """Before a checkpoint is written. Errors: RanksDiffer. One that has ended cannot be asked: that is told."""
        if not self.channel or self.broken:
            return
        try:
            self.channel.send("compare")
            digests = self.channel.exchange(shares.digest(trainer.agent))
        except ProcessLost as error:
            console.print(f"warning: {error}; what is saved is rank 0's")
            return
        other = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
        if other:
            raise RanksDiffer(f"rank {other[0]} has not learned the same as rank 0: a fault of its GPU or its memory?")

    def end(self) -> None:
        """The others may go."""
        if self.channel and not self.broken:
            with contextlib.suppress(ProcessLost):
                self.channel.send("end")


def batch_sizes(config: Config) -> dict[str, int]:
    """Of every stage that learns, by its key."""
    found: dict[str, Any] = {}
    for name, stage in config.train.learn.stages.items():
        if stage.updates:
            key = "replay.batch_size" if stage.batch_size is None else f"train.learn.{name}.batch_size"
            found[key] = stage.batch_size or config.replay.batch_size
    return found
