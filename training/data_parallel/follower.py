"""The other ranks: they do what rank 0 says, and write nothing."""

import contextlib
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.agent import Agent
from agents.optimizers import Diverged
from training import streams
from training.build import build_agent
from training.configuration.config import Config, check
from training.configuration.words import modules_named
from training.configuration.working_folder import use_working_folder
from training.data_parallel import shares
from training.data_parallel.channel import Channel, Message
from training.data_parallel.world import World
from training.reporting.progress import console
from training.signals import MACHINES, PEOPLE
from worldmodel.base import Batch, Spec
from worldmodel.replay.buffer import Replay
from worldmodel.replay.episodes import Episode
from worldmodel.replay.prefetch import prefetched
from worldmodel.replay.storage import Storage


def follow(world: World, channel: Channel, arguments: Sequence[str]) -> None:
    """Until rank 0 ends the run. Signals are rank 0's business, which saves first. Errors: ProcessLost; as start()."""
    for number in (*PEOPLE, *MACHINES):
        signal.signal(number, signal.SIG_IGN)
    console.quiet = True
    use_working_folder(modules_named(arguments))
    message = channel.receive()
    if message.word == "begin":
        Follower(world, channel, message).obey()


class Follower:
    def __init__(self, world: World, channel: Channel, begin: Message) -> None:
        values = begin.values
        self.world, self.channel = world, channel
        self.config: Config = check(values["config"])
        if self.config.agent.device != "cpu" and torch.cuda.is_available():
            torch.cuda.set_device(world.local_rank)
        torch.manual_seed(self.config.root.seed)
        spec = Spec(tuple(values["spec"]["image_shape"]), values["spec"]["action_dim"], values["spec"]["discrete"])
        self.agent: Agent = build_agent(self.config, spec)
        torch.set_num_threads(values["threads"])
        # A run's folder may be on rank 0's machine alone.
        folder = self.config.folder if self.config.folder.is_dir() else Path()
        storage = Storage(values["storage"], self.agent.device, folder)
        self.replay = Replay(self.config.replay, spec, storage=storage, **values["replay"])
        self.replay.begin[:] = self.replay.end[:] = values["begin"]  # the same numbers of rows as rank 0's
        if self.config.replay.context:
            self.replay.keep_states(self.agent.model.initial(1))
        shares.join_updates(self.agent.device)

    def obey(self) -> None:
        while (message := self.channel.receive()).word != "end":
            {
                "agent": self.restore,
                "rows": self.add,
                "context": lambda message: self.replay.restore_context(message.tensors),
                "learn": self.learn,
                "compare": lambda _: self.channel.exchange(shares.digest(self.agent)),
            }[message.word](message)

    def restore(self, message: Message) -> None:
        parts: dict[str, Any] = {"model": {}, "actor": {}, "optim": {}}
        for name, tensor in message.tensors.items():
            part, _, name = name.partition("/")
            parts[part][name] = tensor
        self.agent.restore(parts)

    def add(self, message: Message) -> None:
        episode = Episode(**{name: tensor.numpy() for name, tensor in message.tensors.items()})
        self.replay.add(episode, message.values["stream"], message.values["continuation"])

    def learn(self, message: Message) -> None:
        """Updates, each when rank 0 begins it."""
        values, seed = message.values, self.config.root.seed
        parts, updates = tuple(values["parts"]), range(*values["updates"])
        size, length = values["batch"]

        def draw(update: int) -> Batch:
            rng = np.random.default_rng([seed, streams.SAMPLE, update])
            return self.replay.sample(rng, size, length, (self.world.rank, self.world.size))

        with contextlib.closing(prefetched(draw, updates, self.replay.storage.prefetch)) as batches:
            for update, batch in zip(updates, batches, strict=True):
                if not self.channel.agreed():
                    return
                # A share has noise of its own, which needs no place in a checkpoint.
                noise = np.random.SeedSequence([seed, streams.RANK_NOISE, self.world.rank, update])
                torch.manual_seed(int(noise.generate_state(1, np.uint64)[0]))
                try:
                    with self.channel.naming_the_lost():
                        shares.learn(self.agent, self.replay, batch, parts)
                except Diverged:  # rank 0 says so
                    return
