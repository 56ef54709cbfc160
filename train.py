"""Train an agent, or go on with one:  python train.py exp=quickstart seed=1 run=mine

The loop alternates: collect one episode in every environment, learn, report, evaluate, save; agents/schedule.py says
what is next. A run that exists is resumed exactly where it was. This is the only file that knows all rooms, and the
only one that imports hydra.
"""

import contextlib
import dataclasses
import hashlib
import math
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import hydra
import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field, field_validator

import agents
import envs
from agents import agent, evaluation, schedule
from agents.base import Actor
from agents.graphs import GraphError
from agents.overlap import Collector
from agents.rollout import Interrupted, Trial, episode_seed, rollout
from agents.schedule import Counters, Schedule
from worldmodel import pictures, recipe, recorded, replay, storage
from worldmodel.base import Batch, Spec
from worldmodel.config import ROOT, ConfigError, Kinds, Section, check, nearest
from worldmodel.display import Bar, Stop, console
from worldmodel.given import Given, given
from worldmodel.prefetch import prefetched
from worldmodel.replay import Episode, Replay
from worldmodel.run import Run, RunError, differences

COLLECT, EVALUATE, SAMPLE, PLAY = 0, 1, 2, 4  # streams of randomness; 3 is evaluate.py's
LONGEST_NAME = 200  # of a run; file systems take 255 bytes
HELD_OUT = "held_out"  # a folder of episodes that are never learned from, for runs without an environment
MAY_CHANGE = (
    "run",
    "runs",
    "salvage",
    "train.steps",
    "train.keep",
    "train.collect",
    "agent.device",
    "agent.compile",
    "agent.threads",
    "replay.storage",
    "replay.memory_gb",
)  # when a run is resumed


class Top(Section):
    seed: int = Field(ge=0, lt=2**31)
    run: str = Field(pattern=r"^[\w,=+-][\w.,=+-]*$")  # a folder's name, never . or ..
    runs: str = Field(min_length=1)
    salvage: bool  # resume although replay chunks are damaged: continue without those episodes
    data: str | None  # a folder of recorded episodes to learn from
    model_from: str | None  # a run whose trained model and episodes are taken
    parts: dict[str, dict[str, Any]]  # the recipe's values for parts, the chosen ones and others

    @field_validator("parts")
    @classmethod
    def known(cls, values: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return recipe.known(values)


KINDS: Kinds = {
    "train": schedule.Config,
    "replay": replay.Settings,
    "agent": agent.Config,
    "env": "envs",
    "model": "worldmodel",
    "actor": "agents",
    "explorer": "agents",
}


class Training:
    """A run in progress."""

    def __init__(self, raw: dict[str, Any], checked: dict[str, Any], folder: Path, stop: Stop) -> None:
        self.config, self.seed, self.stop = checked["train"], checked["top"].seed, stop
        self.salvage = checked["top"].salvage
        resumed = Run.exists(folder)
        start = (
            None
            if resumed and any((folder / "checkpoints").glob("step-*"))
            else given(checked["top"].data, checked["top"].model_from)
        )
        self.envs = envs.vector(checked["env"]) if "env" in checked else None
        spec = Spec(self.envs.image, self.envs.action, self.envs.discrete) if self.envs else None
        if start and spec not in (None, start.spec):
            raise ValueError(f"the episodes are {start.spec}, the environment is {spec}: choose the one they came from")
        spec = spec or (start.spec if start else Run.read(folder).spec)
        torch.manual_seed(self.seed)
        self.agent = agents.build(checked, spec)
        if start and start.model is not None:
            self.take_over(start.model, raw)
        self.explorer = self.agent.with_actor(agents.build_actor(checked["explorer"], self.agent.model, spec))
        self.check_stages(checked["actor"], begun=bool(start or resumed))
        if start and self.envs is None and len(start.lengths) < 2:
            raise ValueError(
                "of recorded episodes at least two are needed, one of them is held out, to dream of: add some, or "
                "choose the environment that they came from, env=..."
            )
        resumed_rows = Run.read(folder).info.get("given_rows", 0) if resumed else 0
        # Episodes that end early have up to twice the rows: there is room for the most there can be. What memory there
        # is must not count here, for it would decide what is evicted, and so what is learned.
        rows = 2 * self.rows() + (sum(start.lengths) if start else resumed_rows)
        rows = min(rows, checked["replay"].capacity)
        self.room = storage.plan(checked["replay"], spec, rows, self.agent.device, folder)
        longest = math.ceil((self.envs.time_limit or 0) / self.envs.action_repeat) + 1 if self.envs else 0
        longest = max(longest, *start.lengths) if start and start.lengths else longest
        if longest > checked["replay"].capacity:
            raise ValueError(f"replay.capacity must hold an episode, which has up to {longest} rows: raise it")
        self.held_out: list[Episode] = []
        self.counters, self.sums, self.seconds = Counters(), {}, {}  # type: ignore[var-annotated]
        self.saved_at = time.monotonic()
        self.collector: Collector | None = None
        self.run = (Run.read(folder) if resumed else self.create(folder, raw, spec, start)).lock()
        try:
            self.replay = Replay(checked["replay"], spec, rows, self.room.place)
            if resumed:
                self.load()
            if start and not self.counters.updates:
                self.begin(start)
            elif self.envs is None:
                self.held_out = list(recorded.read(folder / HELD_OUT))
        except BaseException:
            self.close()
            raise
        self.schedule = Schedule(self.config, self.counters, given=len(self.replay) > 0)

    def create(self, folder: Path, raw: dict[str, Any], spec: Spec, start: Given | None) -> Run:
        return Run.create(folder, raw, spec, str(self.agent.device), sum(start.lengths) if start else 0)

    def take_over(self, trained: dict[str, torch.Tensor], raw: dict[str, Any]) -> None:
        """The weights of model_from. Errors: ConfigError, if they are those of another model than was asked for."""
        try:
            self.agent.model.load_state_dict(trained)
        except RuntimeError as error:
            source = Run.read(Path(raw["model_from"])).config["model"]
            lines = [
                f"model.{path}: {raw['model_from']} has {old!r}, you ask for {new!r}"
                for path, old, new in differences(source, raw["model"])
            ]
            raise ConfigError([*lines, "model_from: the trained model must stay as it is: leave these out"]) from error

    def check_stages(self, actor: Any, begun: bool) -> None:
        """Errors: ConfigError, if a stage names what this model does not have, or there is nothing to learn from.
        begun: whether there are episodes already.
        """
        known = [*self.agent.model.parts, "actor"]
        lines = [
            f"train.learn.{part}: this model has no part of that name; it has {', '.join(known)}{nearest(part, known)}"
            for part in self.config.learn
            if part not in known
        ]
        if self.envs is None and self.config.steps + self.config.seed_episodes > 0:
            lines.append(
                "train: steps and seed_episodes ask for episodes, but there is no environment: choose one, env=..., or "
                "set both to 0"
            )
        if self.envs is None and "actor" in self.config.learn and getattr(actor, "world", False):
            lines.append("actor.world: there is no environment to play in: choose one, env=..., or actor.world=false")
        stage = self.config.learn.get("actor")
        if stage and stage.updates and not self.agent.actor.learns:
            lines.append(
                f"train.learn.actor: {actor.name} has nothing to learn: choose actor=evolution, or set "
                "train.learn.actor.updates=0"
            )
        if stage and stage.learning_rate:
            lines.append("train.learn.actor.learning_rate: an actor has its own settings, actor.*: leave it out")
        if not begun and self.config.steps + self.config.seed_episodes == 0:
            lines.append(
                "train.seed_episodes: there is nothing to learn from: collect episodes, or name some by data=..., or a "
                "trained run by model_from=..."
            )
        lines += self.check_overlap(actor)
        if lines:
            raise ConfigError(lines)

    def check_overlap(self, actor: Any) -> list[str]:
        """What is wrong with train.collect=overlap, one line per mistake."""
        if self.config.collect == "sync":
            return []
        if self.envs is None:
            return ["train.collect: there is no environment to collect in: choose one, env=..., or train.collect=sync"]
        lines, config = [], self.envs.config
        if "actor" in self.config.learn and getattr(actor, "world", False):
            lines.append("actor.world: the environments are in use while it learns: use false, or train.collect=sync")
        if config.one_thread and not config.workers:
            lines.append(f"env.workers: {config.name} renders in one thread only: use true, or train.collect=sync")
        return lines

    def begin(self, start: Given) -> None:
        """Take over what was given. Without an environment the last episodes are held out, to dream of."""
        count = 0
        if self.envs is None:
            count = min(self.config.eval_episodes, max(1, len(start.lengths) // 10))
            (self.run.folder / HELD_OUT).mkdir(exist_ok=True)
        for number, episode in enumerate(start.episodes):
            if number < len(start.lengths) - count:
                self.replay.add(episode)
            else:
                self.held_out.append(episode)
                replay.write_chunk(self.run.folder / HELD_OUT / f"{number:06d}.npz", episode)
        console.print(f"begins with {len(self.replay):,} rows of {len(self.replay.chunks)} episodes")

    def close(self) -> None:
        if self.collector:
            self.collector.close()
        if self.envs:
            self.envs.close()
        self.run.close()

    def rows(self) -> int:
        """How many rows of replay the run will fill: one per decision and one more per episode of full length."""
        if self.envs is None:
            return 0
        repeat, limit = self.envs.action_repeat, self.envs.time_limit
        episode = math.ceil(limit / repeat) if limit else None
        steps = math.ceil(self.config.steps / repeat)
        extra = (self.config.seed_episodes + self.envs.count) * ((episode or 1000) + 1)
        return steps + extra + math.ceil(steps / episode if episode else steps)

    def loop(self) -> None:
        """Until enough env steps were lived through, and learned from."""
        plan = self.schedule
        with Bar(self.config.steps, self.counters.env_steps) as self.bar:
            while True:
                if plan.to_evaluate():
                    self.evaluate()
                elif plan.to_save((time.monotonic() - self.saved_at) / 60):
                    self.save()
                elif plan.due() > 0:
                    self.collect_ahead()
                    self.learn()
                    self.report()
                elif plan.enough():
                    return
                else:
                    self.collect()

    def collect(self) -> None:
        """One episode in every environment, all or nothing: if it is interrupted, a resumed run repeats it exactly."""
        counters = self.counters
        who = self.explorer if counters.episodes < self.config.seed_episodes else self.agent
        assert self.envs is not None
        seeds = [episode_seed(self.seed, COLLECT, counters.episodes + row) for row in range(self.envs.count)]
        with self.repeatable():
            ahead = self.collector.take() if self.collector else None
            trials, seconds = ahead or rollout(who.act, self.envs, seeds, explore=True, stop=self.stop)
        for trial in trials:
            self.replay.add(trial.episode)
        counters.agent_steps += sum(len(trial.predicted) for trial in trials)
        counters.env_steps += self.steps(trials)
        counters.episodes += len(trials)
        self.seconds |= {"collect": seconds.act + seconds.step, "render": seconds.render}
        if self.collector:
            self.seconds["waited"], self.collector.waited = self.collector.waited, 0.0
        values = evaluation.collected(trials)
        self.log(values)
        self.show(collected=f"return {values['collect/return']:.1f}")

    def collect_ahead(self) -> None:
        """train.collect=overlap: what the next round needs is collected beside this one."""
        counters, plan = self.counters, self.schedule
        if self.config.collect == "sync" or plan.enough() or (self.collector and self.collector.busy()):
            return
        assert self.envs is not None
        self.collector = self.collector or Collector(self.agent, self.envs, self.stop)
        count = self.envs.count
        first = range(counters.episodes, counters.episodes + count * plan.ahead(count), count)
        seeds = [[episode_seed(self.seed, COLLECT, number + row) for row in range(count)] for number in first]
        decisions = math.ceil((self.config.steps - counters.env_steps) / self.envs.action_repeat)
        self.collector.start(self.agent, seeds, decisions)

    def steps(self, trials: list[Trial]) -> int:
        """Simulator steps."""
        return sum(len(trial.predicted) for trial in trials) * (self.envs.action_repeat if self.envs else 1)

    @contextlib.contextmanager
    def repeatable(self, learner: torch.nn.Module | None = None) -> Iterator[None]:
        """What is interrupted inside is dropped, also what the learner learned, and repeated with the same random
        numbers after resuming.
        """
        before, played = self.agent.random_state(), self.counters.played
        known = {name: value.clone() for name, value in learner.state_dict().items()} if learner else {}
        try:
            yield
        except BaseException:
            self.agent.set_random_state(before)
            self.counters.played = played
            if learner:
                learner.load_state_dict(known)
            raise

    def play(self, actor: Actor, episodes: int, number: int) -> torch.Tensor:
        """The returns of an actor in the real environments; see agents.base.Play."""
        if self.envs is None:
            raise ValueError("the actor learns in the real environments, but there is none: set actor.world=false")
        seeds = [episode_seed(self.seed, PLAY, number * 1_000_000 + row) for row in range(episodes)]
        with self.agent.own_randomness(episode_seed(self.seed, PLAY, number)):
            player = self.agent.with_actor(actor)
            try:
                trials, _ = rollout(player.act, self.envs, seeds, explore=False, stop=self.stop)
            finally:
                player.deciding.forget()  # every candidate's would keep memory of the GPU
        self.counters.played += self.steps(trials)
        return torch.tensor([trial.score for trial in trials])

    def learn(self) -> None:
        """Updates of the part whose turn it is, up to the next report. Interrupted, it goes on after resuming."""
        began = time.perf_counter()
        part, stage, done = self.schedule.turn()
        updates = range(self.counters.updates, self.counters.updates + self.schedule.chunk())

        def draw(update: int) -> Batch:
            return self.replay.sample(np.random.default_rng([self.seed, SAMPLE, update]), stage.batch, stage.length)

        with contextlib.closing(prefetched(draw, updates, self.room.place.ahead)) as batches:
            for number, batch in enumerate(batches, done + 1):
                if self.stop():
                    raise Interrupted
                with self.repeatable(self.agent.actor if part == "actor" else None):  # models never stop amid an update
                    metrics = self.agent.learn(batch, part, stage.learning_rate, self.play)
                self.counters.updates += 1
                for name, value in (metrics | {"updates": torch.ones(())}).items():
                    self.sums[name] = self.sums.get(name, 0) + value.detach().float()
                if stage.updates > self.config.report_every or part == "actor":
                    self.bar.update(number, stage.updates, stage=part)
        # Reading them waits for a GPU, whose work belongs to the time that is taken.
        self.sums = {name: float(total) for name, total in self.sums.items()}
        self.seconds["learn"] = time.perf_counter() - began

    def report(self) -> None:
        """The means over the updates since the last report, and where the time went."""
        number = float(self.sums.pop("updates"))
        skipped = float(self.sums.pop("skipped", 0))
        part = self.schedule.turn(self.counters.updates - 1).part
        group = "learn" if part in ("model", "actor") else part
        values = {f"{group}/{name}": float(total) / max(1.0, number - skipped) for name, total in self.sums.items()}
        if part != "actor":
            values[f"{group}/skipped"] = skipped
        self.sums.clear()
        counts = {f"count/{name}": float(value) for name, value in dataclasses.asdict(self.counters).items()}
        rate = {"seconds/updates_per_second": number / self.seconds["learn"]}
        self.log(values | counts | rate | {f"seconds/{name}": value for name, value in self.seconds.items()})
        shown = [
            f"{name.partition('/')[2].removeprefix('loss_')} {value:.2f}"
            for name, value in values.items()
            if "/loss" in name or (part == "actor" and name.endswith(("incumbent", "population_mean")))
        ]
        label = "" if part == "model" else f"{part}: "
        self.show(learned=f"{label}{', '.join(shown)}, {rate['seconds/updates_per_second']:.1f} updates/s")

    def evaluate(self) -> None:
        """Noise-free episodes, their dreams, and the pictures in the run's folder."""
        counters, folder = self.counters, self.run.folder
        values: dict[str, float] = {}
        episodes = self.held_out
        if self.envs:
            if self.collector:
                self.collector.wait()  # for the environments
            seeds = [episode_seed(self.seed, EVALUATE, number) for number in range(self.config.eval_episodes)]
            trials, values = evaluation.evaluate(self.agent, self.envs, seeds, self.seed, self.stop)
            episodes = [trial.episode for trial in trials]
        for temperature in self.config.temperatures:
            film, errors = evaluation.dreams(self.agent, episodes, self.seed, temperature)
            animation = pictures.gif(pictures.dream_frames(film))
            name = "dream" if temperature == 1 else f"dream-temperature-{temperature:g}"
            for board, x in zip(self.run.writers(), (counters.env_steps, counters.updates), strict=True):
                pictures.show(board, name, animation, x)
            (folder / f"{name}.gif").write_bytes(animation)
            values |= errors if temperature == 1 else {}
        self.log(values)
        pictures.curves(folder, self.run.history())
        counters.evaluated, counters.evaluated_updates = counters.episodes, counters.updates
        counters.evaluations += 1
        said = f"{values['evaluate/return']:.1f}" if self.envs else f"dreams of {len(episodes)} held-out episodes"
        console.print(f"{counters.env_steps:>9,} env steps  evaluation {said}")

    def log(self, values: dict[str, float]) -> None:
        self.run.log(self.counters.env_steps, self.counters.updates, values)

    def show(self, **newest: str) -> None:
        """A line that stays, and the bar."""
        counters, text = self.counters, ", ".join(newest.values())
        if counters.episodes < self.config.seed_episodes and not self.config.steps:
            self.bar.update(counters.episodes, self.config.seed_episodes, **newest)
        elif self.config.steps:
            self.bar.update(counters.env_steps, self.config.steps, **newest)
        counted = f"{counters.env_steps:>9,} env steps {counters.episodes:>5} episodes {counters.updates:>7} updates"
        console.print(f"{counted}  {text}")

    # ---- what a checkpoint holds ----

    def save(self) -> None:
        self.counters.saved, self.counters.saved_updates = self.counters.episodes, self.counters.updates
        self.saved_at = time.monotonic()
        self.counters.saved_evaluations = self.counters.evaluations
        name = "step-{env_steps:08d}-{updates:08d}-{evaluations:04d}".format(**dataclasses.asdict(self.counters))
        tensors = self.agent.tensors() | {"rng": self.agent.random_state()}
        sums = {key: float(value) for key, value in self.sums.items()}
        state = {"counters": dataclasses.asdict(self.counters), "sums": sums}
        self.run.save(name, tensors, state, self.replay, self.config.keep)

    def load(self) -> None:
        """Continue from the newest checkpoint that is complete, its replay included."""
        damage = ""
        for checkpoint in self.run.verified(console.print):
            try:
                self.replay.load(self.run.replay, checkpoint.chunks, console.print if self.salvage else None)
            except replay.DamagedChunk as error:
                damage = str(error)
                console.print(f"{checkpoint.folder.name} cannot be resumed exactly: {error}")
                self.replay.clear()
                continue
            self.agent.restore({name: checkpoint.tensors(name) for name in ("model", "actor", "optim")})
            self.agent.set_random_state(checkpoint.tensors("rng"))
            self.counters = Counters(**checkpoint.state["counters"])
            self.sums = {key: torch.tensor(value) for key, value in checkpoint.state["sums"].items()}
            self.run.rewind(checkpoint.state["metrics_bytes"], self.counters.env_steps, self.counters.updates)
            console.print(f"resumed from {checkpoint.folder.name}")
            return
        if damage:
            raise RunError(
                f"{damage}; to continue without the damaged episodes: "
                f"python train.py run={self.run.folder.name} salvage=true"
            )
        if any(".tmp-" not in path.name for path in self.run.checkpoints.glob("step-*")):
            raise RunError(
                f"no checkpoint in {self.run.checkpoints} is complete: "
                "restore one from a copy, or train under another name"
            )
        self.run.rewind(0, -1, -1)
        console.print("no checkpoint yet: starting from the beginning")


# ---- the command line ----


def strict(arguments: list[str]) -> list[str]:
    """Overrides as Hydra should read them: plain ones are forced in, so that our check sees, and lists, all."""
    lines, forced = [], []
    keys = [argument.partition("=")[0] for argument in arguments]
    if "data" in keys and "exp" not in keys:
        arguments = [*arguments, "exp=offline"]
    several = any(word in arguments for word in ("-m", "--multirun"))
    for argument in arguments:
        if argument.startswith("-"):
            forced.append(argument)
            continue
        try:
            if OverridesParser.create().parse_override(argument).is_sweep_override() and not several:
                lines.append(f"{argument}: several values are a sweep, which needs -m: python train.py -m {argument}")
        except HydraException as error:
            lines.append(f"{argument}: not of the form key=value ({str(error).splitlines()[0]})")
            continue
        key, equals, value = argument.partition("=")
        if key == "explorer":
            lines.append(f"{argument}: who collects the random episodes is chosen with actor@explorer={value}")
        group = key.partition("@")[0]  # actor@explorer=held takes a file of configs/actor for the section explorer
        choices = (
            sorted(path.stem for path in (ROOT / "configs" / group).glob("*.yaml")) if group.isidentifier() else []
        )
        if choices:
            wrong = [name for name in value.split(",") if name not in choices]
            lines += [
                f"{key}: there is no {name!r}; choose from {', '.join(choices)}{nearest(name, choices)}"
                for name in wrong
            ]
        plain = equals and re.match(r"[A-Za-z]", argument) and not choices and not key.startswith("hydra")
        forced.append(f"++{argument}" if plain else argument)
    if lines:
        raise ConfigError(lines)
    return forced


def compose(composed: DictConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """The config as plain values, and checked. A run that exists brings its own, on which the command line is laid."""
    overrides = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    task = [str(override).lstrip("+") for override in overrides]  # type: ignore[union-attr]
    try:
        plain: dict[str, Any] = OmegaConf.to_container(composed, resolve=False)  # type: ignore[assignment]
        recipe.fit(plain, HydraConfig.get().runtime.choices["env"], [override.partition("=")[0] for override in task])
        raw: dict[str, Any] = OmegaConf.to_container(OmegaConf.create(plain), resolve=True)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise ConfigError([f"{error.full_key or 'config'}: {str(error).splitlines()[0]}"]) from error
    words = [override for override in task if not override.startswith(("run=", "runs=", "exp=", "salvage="))]
    name = raw["run"]
    if name is None:
        name = re.sub(r"[^\w.,=+-]", "_", "-".join([HydraConfig.get().runtime.choices["exp"], *words]))
        if len(name) > LONGEST_NAME:  # the same overrides give the same name, for it is how a run is found again
            name = f"{name[: LONGEST_NAME - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    elif len(str(name)) > LONGEST_NAME:
        raise ConfigError([f"run: the name has {len(str(name))} letters; choose one of at most {LONGEST_NAME}"])
    raw["run"] = name
    folder = Path(str(raw["runs"])) / str(name)
    chosen = [override.partition("=")[0] for override in task]
    if raw["model_from"] is not None:
        source = Run.read(folder if Run.exists(folder) else Path(str(raw["model_from"]))).config
        taken = {key: source[key] for key in ("model", "env") if key not in chosen}
        raw["parts"] = source.get("parts", {}) | raw["parts"]
        raw = recipe.laid_on(raw | taken, raw, [key for key in chosen if key.partition(".")[0] in taken])
    elif raw["data"] is not None and "env" not in chosen:
        raw["env"] = None  # recorded episodes need no environment
    if Run.exists(folder):
        stored = Run.read(folder).config
        if not any(override.startswith("exp=") for override in task):
            keys = [word.partition("=")[0].rpartition("@")[2] for word in [*words, "run=", "runs=", "salvage="]]
            raw = recipe.laid_on(stored, raw, keys)  # actor@explorer=held changed the section explorer
        changed = [
            f"{path}: the run has {old!r}, you ask for {new!r}"
            for path, old, new in differences(stored, raw)
            if path not in MAY_CHANGE
        ]
        if changed:
            hint = (
                f"to go on with the run as it is: python train.py run={raw['run']}; or choose another name with run=..."
            )
            raise ConfigError([*changed, hint])
    absent = {"env"} if raw["env"] is None else set()
    kinds = {key: kind for key, kind in KINDS.items() if key not in absent}
    return raw, check({key: value for key, value in raw.items() if key not in absent}, kinds, Top)


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(composed: DictConfig) -> None:
    try:
        raw, checked = compose(composed)
    except (ConfigError, RunError) as error:
        fail(error, 2)
    wrong = checked["model"].fits(checked["env"].size) if "env" in checked else None
    if wrong:
        fail(ConfigError([f"model.depths: {wrong}"]), 2)
    with Stop() as stop:
        run(raw, checked, stop)


def run(raw: dict[str, Any], checked: dict[str, Any], stop: Stop) -> None:
    """Train, and leave with everything saved, however it ends."""
    folder = Path(checked["top"].runs) / checked["top"].run
    try:
        training = Training(raw, checked, folder, stop)
    except (envs.EnvError, RunError, MemoryError, ValueError, OSError) as error:
        fail(error, 2 if isinstance(error, ConfigError) else 1)
    device = f"{training.agent.device} in {training.agent.precision}, {torch.get_num_threads()} CPU threads"
    size = sum(weight.numel() for weight in training.agent.model.parameters())
    console.rule(f"{folder}: training on {device}")
    console.print(f"{size:,} parameters. {training.room}")
    try:
        training.loop()
        hint = f". Next: python evaluate.py {folder} --episodes 20 --seed 0 --video" if training.envs else ""
        console.print(f"finished{hint}")
    except Interrupted:
        keep(training)
        console.print(f"stopped and saved. To go on: python train.py run={folder.name}")
        sys.exit(stop.exit_code)
    except envs.EnvError as error:
        keep(training)
        fail(error, 1)
    except GraphError as error:
        keep(training)
        fail(f"{error}; saved. To go on without graphs: python train.py run={folder.name} agent.compile=never", 1)
    except agent.Diverged as error:
        fail(f"{error}; the last good checkpoint is kept: python train.py run={folder.name} resumes from it", 1)
    except OSError as error:
        fail(error, 1)
    finally:
        training.close()


def keep(training: Training) -> None:
    """Save on the way out."""
    try:
        training.save()
    except OSError as error:
        fail(error, 1)


def fail(error: object, code: int) -> NoReturn:
    for line in str(error).splitlines():
        print(f"error: {line}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    try:
        sys.argv[1:] = strict(sys.argv[1:])
    except ConfigError as error:
        fail(error, 2)
    main()
