"""Train an agent, or go on with one:  python train.py exp=quickstart seed=1 run=mine

The loop alternates: collect one episode in every environment, learn, report, evaluate, save. A run that exists is
resumed exactly where it was. This is the only file that knows all rooms, and the only one that imports hydra.
"""

import dataclasses
import math
import re
import sys
import time
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
from pydantic import Field

import agents
import envs
from agents import agent, evaluation
from agents.rollout import Interrupted, episode_seed, rollout
from worldmodel import pictures, replay
from worldmodel.base import Spec
from worldmodel.config import ROOT, ConfigError, Kinds, Section, check, nearest, part
from worldmodel.display import Bar, Stop, console
from worldmodel.replay import Replay
from worldmodel.run import Run, RunError, differences

COLLECT, EVALUATE, SAMPLE = 0, 1, 2  # streams of randomness
MAY_CHANGE = (
    "run",
    "runs",
    "salvage",
    "train.steps",
    "train.keep",
    "agent.device",
    "agent.threads",
)  # when a run is resumed


class Config(Section):
    steps: int = Field(ge=1)  # env steps, action repeat included
    seed_episodes: int = Field(ge=1)  # random ones, before the first update
    updates_per_episode: int = Field(ge=0)
    eval_every: int = Field(ge=1)  # episodes
    eval_episodes: int = Field(ge=1)
    save_every: int = Field(ge=1)  # episodes
    keep: int = Field(ge=2)  # checkpoints; one may be in the process of being written


class Top(Section):
    seed: int = Field(ge=0, lt=2**31)
    run: str = Field(pattern=r"^[\w,=+-][\w.,=+-]*$")  # a folder's name, never . or ..
    runs: str = Field(min_length=1)
    salvage: bool  # resume although replay chunks are damaged: continue without those episodes


KINDS: Kinds = {
    "train": Config,
    "replay": replay.Config,
    "agent": agent.Config,
    "env": "envs",
    "model": "worldmodel",
    "actor": "agents",
}


@dataclasses.dataclass
class Counters:
    """Where a run is. Counted separately, because people mean different things by a step."""

    env_steps: int = 0  # simulator steps, action repeat included: the x-axis of every curve
    agent_steps: int = 0  # decisions
    episodes: int = 0
    updates: int = 0
    evaluated: int = 0  # episodes at the last evaluation
    saved: int = 0  # episodes at the last save


class Training:
    """A run in progress."""

    def __init__(self, raw: dict[str, Any], checked: dict[str, Any], folder: Path, stop: Stop) -> None:
        self.config, self.seed, self.stop = checked["train"], checked["top"].seed, stop
        self.salvage = checked["top"].salvage
        self.envs = envs.vector(checked["env"])
        spec = Spec(self.envs.image, self.envs.action, self.envs.discrete)
        torch.manual_seed(self.seed)
        self.agent = agents.build(checked, spec)
        self.random = self.agent.with_actor(part("agents", "uniform").Uniform(self.agent.model, spec))
        self.memory = replay.plan_memory(checked["replay"], spec, self.rows())
        if not self.memory.enough:
            raise MemoryError(f"{self.memory}: lower replay.capacity or train.steps, or use smaller images")
        longest = math.ceil((self.envs.time_limit or 0) / self.envs.action_repeat) + 1
        if longest > checked["replay"].capacity:
            raise ValueError(f"replay.capacity must hold an episode, which has up to {longest} rows: raise it")
        # Episodes that end early have more rows than planned: make room for the most there can be, if it fits.
        room = min(2 * self.rows(), self.memory.available // replay.row_bytes(spec))
        self.replay = Replay(checked["replay"], spec, room)
        self.counters, self.sums, self.seconds = Counters(), {}, {}  # type: ignore[var-annotated]
        resumed = Run.exists(folder)
        self.run = (Run.read(folder) if resumed else Run.create(folder, raw, spec, str(self.agent.device))).lock()
        if resumed:
            try:
                self.load()
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        self.envs.close()
        self.run.close()

    def rows(self) -> int:
        """How many rows of replay the run will fill: one per decision and one more per episode of full length."""
        repeat, limit = self.envs.action_repeat, self.envs.time_limit
        episode = math.ceil(limit / repeat) if limit else None
        steps = math.ceil(self.config.steps / repeat)
        extra = (self.config.seed_episodes + self.envs.count) * ((episode or 1000) + 1)
        return steps + extra + math.ceil(steps / episode if episode else steps)

    def loop(self) -> None:
        """Until enough env steps were lived through, and learned from. What is next is told by the counters alone, so
        that a run that was interrupted anywhere, in an evaluation too, goes on with just that."""
        with Bar(self.config.steps, self.counters.env_steps) as self.bar:
            while True:
                enough = self.counters.env_steps >= self.config.steps
                if self.due():
                    self.learn()
                    self.report()
                elif self.since("evaluated") >= (1 if enough else self.config.eval_every):
                    self.evaluate()
                elif self.since("saved") >= (1 if enough else self.config.save_every):
                    self.save()
                elif enough:
                    return
                else:
                    self.collect()

    def since(self, what: str) -> int:
        return self.counters.episodes - int(getattr(self.counters, what))

    def due(self) -> int:
        """Updates owed: `updates_per_episode` for every episode, counting the random ones as one."""
        learned_from = max(0, self.counters.episodes - self.config.seed_episodes + 1)
        return learned_from * self.config.updates_per_episode - self.counters.updates

    def collect(self) -> None:
        """One episode in every environment, all or nothing: if it is interrupted, a resumed run repeats it exactly."""
        counters, before = self.counters, self.agent.random_state()
        who = self.random if counters.episodes < self.config.seed_episodes else self.agent
        seeds = [episode_seed(self.seed, COLLECT, counters.episodes + row) for row in range(self.envs.count)]
        try:
            trials, seconds = rollout(who.act, self.envs, seeds, explore=True, stop=self.stop)
        except BaseException:
            self.agent.set_random_state(before)
            raise
        for trial in trials:
            self.replay.add(trial.episode)
            counters.agent_steps += len(trial.predicted)
            counters.env_steps += len(trial.predicted) * self.envs.action_repeat
        counters.episodes += len(trials)
        self.seconds |= {"collect": seconds.act + seconds.step, "render": seconds.render}
        values = evaluation.collected(trials)
        self.run.log(counters.env_steps, values)
        self.show(collected=f"return {values['collect/return']:.1f}")

    def learn(self) -> None:
        """The updates owed. Interrupted between two of them, it goes on after resuming."""
        began = time.perf_counter()
        for _ in range(self.due()):
            if self.stop():
                raise Interrupted
            batch = self.replay.sample(np.random.default_rng([self.seed, SAMPLE, self.counters.updates]))
            metrics = self.agent.learn(batch)
            self.counters.updates += 1
            for name, value in (metrics | {"updates": torch.ones(())}).items():
                self.sums[name] = self.sums.get(name, 0) + value.detach().float()
        self.seconds["learn"] = time.perf_counter() - began

    def report(self) -> None:
        """The means over the updates since the last report, and where the time went."""
        number = float(self.sums.pop("updates"))
        skipped = float(self.sums.pop("skipped", 0))
        values = {f"learn/{name}": float(total) / (number - skipped) for name, total in self.sums.items()}
        values["learn/skipped"] = skipped
        self.sums.clear()
        counts = {f"count/{name}": float(value) for name, value in dataclasses.asdict(self.counters).items()}
        rate = {"seconds/updates_per_second": number / self.seconds["learn"]}
        self.run.log(
            self.counters.env_steps,
            values | counts | rate | {f"seconds/{name}": value for name, value in self.seconds.items()},
        )
        losses = [f"{name[6:]} {value:.2f}" for name, value in values.items() if name.startswith("learn/loss")]
        self.show(learned=f"{', '.join(losses)}, {rate['seconds/updates_per_second']:.1f} updates/s")

    def evaluate(self) -> None:
        """Noise-free episodes, their dreams, and the pictures in the run's folder."""
        counters = self.counters
        seeds = [episode_seed(self.seed, EVALUATE, number) for number in range(self.config.eval_episodes)]
        trials, values = evaluation.evaluate(self.agent, self.envs, seeds, self.seed, self.stop)
        film, errors = evaluation.dreams(self.agent, trials, self.seed)
        self.run.log(counters.env_steps, values | errors)
        animation = pictures.gif(pictures.dream_frames(film))
        pictures.show(self.run.writer, "dream", animation, counters.env_steps)
        (self.run.folder / "dream.gif").write_bytes(animation)
        pictures.curve(self.run.folder / "curve.png", self.run.history(), self.run.folder.name)
        counters.evaluated = counters.episodes
        console.print(f"{counters.env_steps:>9,} env steps  evaluation {values['evaluate/return']:.1f}")

    def show(self, **newest: str) -> None:
        """A line that stays, and the bar."""
        counters, text = self.counters, ", ".join(newest.values())
        self.bar.update(counters.env_steps, **newest)
        counted = f"{counters.env_steps:>9,} env steps {counters.episodes:>5} episodes {counters.updates:>7} updates"
        console.print(f"{counted}  {text}")

    # ---- what a checkpoint holds ----

    def save(self) -> None:
        self.counters.saved = self.counters.episodes
        name = f"step-{self.counters.env_steps:08d}-{self.counters.updates:08d}"
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
                self.replay = Replay(self.replay.config, self.replay.spec, self.replay.capacity)
                continue
            self.agent.restore({name: checkpoint.tensors(name) for name in ("model", "actor", "optim")})
            self.agent.set_random_state(checkpoint.tensors("rng"))
            self.counters = Counters(**checkpoint.state["counters"])
            self.sums = {key: torch.tensor(value) for key, value in checkpoint.state["sums"].items()}
            self.run.rewind(checkpoint.state["metrics_bytes"], self.counters.env_steps)
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
        self.run.rewind(0, -1)
        console.print("no checkpoint yet: starting from the beginning")


# ---- the command line ----


def strict(arguments: list[str]) -> list[str]:
    """Overrides as Hydra should read them: plain ones are forced in, so that our check sees, and lists, all."""
    lines, forced = [], []
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
        choices = sorted(path.stem for path in (ROOT / "configs" / key).glob("*.yaml")) if key.isidentifier() else []
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
        fit(composed, [override.partition("=")[0] for override in task])
        raw: dict[str, Any] = OmegaConf.to_container(composed, resolve=True)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise ConfigError([f"{error.full_key or 'config'}: {str(error).splitlines()[0]}"]) from error
    words = [override for override in task if not override.startswith(("run=", "runs=", "exp=", "salvage="))]
    if raw["run"] is None:
        raw["run"] = re.sub(r"[^\w.,=+-]", "_", "-".join([HydraConfig.get().runtime.choices["exp"], *words]))
    folder = Path(str(raw["runs"])) / str(raw["run"])
    if Run.exists(folder):
        stored = Run.read(folder).config
        if not any(override.startswith("exp=") for override in task):
            raw = laid_on(stored, raw, [word.partition("=")[0] for word in [*words, "run=", "runs=", "salvage="]])
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
    return raw, check(raw, KINDS, Top)


def fit(composed: DictConfig, given: list[str]) -> None:
    """Give the chosen parts the recipe's values for them (its section `parts`), where the command line gave none."""
    OmegaConf.set_struct(composed, False)
    recipe = composed.pop("parts", {}) if isinstance(composed.get("parts"), DictConfig) else {}
    for section in ("env", "model", "actor"):
        chosen = composed.get(section)
        if isinstance(chosen, DictConfig):
            chosen.update(
                {k: v for k, v in recipe.get(chosen.get("name"), {}).items() if f"{section}.{k}" not in given}
            )


def laid_on(stored: dict[str, Any], composed: dict[str, Any], keys: list[str]) -> dict[str, Any]:
    """The stored config with the composed values of some dotted keys."""
    result = OmegaConf.create(stored)
    for key in keys:
        OmegaConf.update(result, key, OmegaConf.select(OmegaConf.create(composed), key), merge=False, force_add=True)
    return OmegaConf.to_container(result)  # type: ignore[return-value]


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(composed: DictConfig) -> None:
    try:
        raw, checked = compose(composed)
    except (ConfigError, RunError) as error:
        fail(error, 2)
    wrong = checked["model"].fits(checked["env"].size)
    if wrong:
        fail(ConfigError([f"model.depths: {wrong}"]), 2)
    with Stop() as stop:
        run(raw, checked, stop)


def run(raw: dict[str, Any], checked: dict[str, Any], stop: Stop) -> None:
    """Train, and leave with everything saved, however it ends."""
    folder = Path(checked["top"].runs) / checked["top"].run
    try:
        training = Training(raw, checked, folder, stop)
    except (envs.EnvError, RunError, MemoryError, ValueError) as error:
        fail(error, 1)
    device = f"{training.agent.device} in {training.agent.precision}, {torch.get_num_threads()} CPU threads"
    size = sum(weight.numel() for weight in training.agent.model.parameters())
    console.rule(f"{folder}: training on {device}")
    console.print(f"{size:,} parameters. {training.memory}")
    try:
        training.loop()
        console.print(f"finished. Next: python evaluate.py {folder} --episodes 20 --seed 0 --video")
    except Interrupted:
        keep(training)
        console.print(f"stopped and saved. To go on: python train.py run={folder.name}")
        sys.exit(stop.exit_code)
    except envs.EnvError as error:
        keep(training)
        fail(error, 1)
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
