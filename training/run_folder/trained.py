"""A trained run or agent's file, to be evaluated: its newest checkpoint, and actors on its model."""

import functools
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import envs
from agents.agent import Agent
from agents.loaded import check_tensors
from training import closing, evaluation, streams
from training.build import build_actor, load_trained
from training.collecting.rollout import EpisodeResult, episode_seed
from training.configuration import config, hints
from training.configuration.command_line import component_section
from training.configuration.plain import read_json
from training.configuration.resolve import overlay
from training.reporting.progress import ProgressBar, console
from training.run_folder.agent_file import StoredAgent
from training.run_folder.checkpoint import Checkpoint
from training.run_folder.run import Run, RunError
from training.run_folder.versions import commit
from worldmodel import files
from worldmodel.base import ConfigError
from worldmodel.replay import storage
from worldmodel.replay.buffer import Replay

LARGEST_EVALUATION = 16 << 20  # bytes of evaluation.json, which lists every return


class TrainedRun:
    """What a run's newest checkpoint holds. All results are of this checkpoint, also while training
    continues. needs_env: refuse a run without an environment. Errors: RunError, ConfigError.
    """

    def __init__(
        self, folder: Path, device: str, seed: int, plugins: Sequence[str] = (), needs_env: bool = True
    ) -> None:
        self.seed, self.plugins = seed, list(plugins)
        self.run, self.checkpoint, self.state, self.agent = load_trained(folder, device, plugins)
        self.recorded = self.checkpoint.evaluation if isinstance(self.checkpoint, StoredAgent) else None
        if needs_env and self.agent.env is None:
            raise RunError(
                f"{folder} was trained on recorded episodes, without an environment: to evaluate it, train with "
                "data=... env=..., or build your own loop with agents.load"
            )

    def actor_name(self, word: str | None) -> str | None:
        """What `--actor` says: `actor_critic` is the run's own actor, whatever the version of Dreamer."""
        if word != "actor_critic":
            return word
        own: str = self.run.config["actor"]["name"]
        if self.agent.actor.discount is None:
            raise ConfigError([f"--actor actor_critic: this run's own actor is {own}, which has no critic"])
        return own

    def section(self, name: str | None, overrides: Sequence[str] = (), **changes: Any) -> Any:
        """The checked config of an actor: the run's own, or the file of that name; with overrides actor.key=value."""
        groups = ("actor", "explorer")
        plain = self.overridden("actor", groups, name, [word for word in overrides if not of_objective(word)])
        return config.check_section("actor", {"actor": plain | changes}, self.plugins)

    def objective(self, overrides: Sequence[str] = ()) -> Any:
        """The checked config of the objective: the run's own, or objective=<name>; with objective.key=value."""
        words = [word for word in overrides if of_objective(word)]
        names = [word.partition("=")[2] for word in words if word.startswith("objective=")]
        words = [word for word in words if not word.startswith("objective=")]
        plain = self.overridden("objective", ("objective",), names[-1] if names else None, words)
        return config.check_section("objective", {"objective": plain}, self.plugins)

    def overridden(self, section: str, groups: Sequence[str], name: str | None, overrides: Sequence[str]) -> Any:
        """The plain values of a section, or of the file of that name in these groups; with section.key=value."""
        wrong = [word for word in overrides if not word.startswith(f"{section}.") or "=" not in word]
        if wrong:
            hint = "actor.key=value, objective=name, objective.key=value"
            raise ConfigError([f"{word}: here only actor and objective can be changed: {hint}" for word in wrong])
        own = self.run.config[section]
        other = name not in (None, own["name"])
        plain = component_section(groups, str(name), plugins=self.plugins) if other else own
        asked = component_section((section,), own["name"], overrides, self.plugins) if overrides else {}
        keys = [word.partition("=")[0] for word in overrides]
        return overlay({section: plain}, {section: asked}, keys, (section,))[section]

    def prepare_agent(
        self, name: str | None, generations: int, overrides: Sequence[str] = (), **changes: Any
    ) -> tuple[Agent, float]:
        """An agent with this actor on the trained model, and the seconds that it learned: the run's own actor is as
        trained; another one that learns, or one that learns for another objective, does so now, in dreams that start
        from the run's episodes.
        """
        section, own = self.section(name, overrides, **changes), self.run.config["actor"]
        objective = self.objective(overrides)
        same = objective == self.objective()
        actor = build_actor(section, objective, self.agent.model, self.agent.spec, self.plugins, self.agent.actor)
        agent = self.agent.with_actor(actor)
        if section.name == own["name"] and same and not changes:
            trained = self.agent.actor.state_dict()
            try:
                check_tensors("actor", actor, trained)
            except ValueError as error:
                raise ConfigError([f"{name or 'actor'}: the run's trained actor does not fit it: {error}"]) from error
            actor.load_state_dict(trained)
            return agent, 0.0
        if not actor.learns:
            return agent, 0.0
        if actor.has_loss:
            raise ConfigError([f"--actor: {section.name} learns by gradient, beside the model: train a run with it"])
        if getattr(section, "evaluate_in", "model") == "env":  # what learns here does so in dreams
            return self.prepare_agent(name, generations, overrides, **changes | {"evaluate_in": "model"})
        began = time.perf_counter()
        torch.manual_seed(self.seed)
        with ProgressBar(generations, 0) as bar:

            def progress(done: int, text: str) -> None:
                bar.update(done, generations, text=text)

            evaluation.train_in_imagination(agent, self.replay, generations, self.seed, progress)
        return agent, time.perf_counter() - began

    @functools.cached_property
    def replay(self) -> Replay:
        """The episodes that the run collected."""
        if not self.checkpoint.chunks:
            raise RunError("what learns in dreams starts from the episodes of a run, and an agent's file has none")
        section = config.check_section("replay", self.run.config)
        rows = sum(chunk.rows for chunk in self.checkpoint.chunks)
        streams = 1 + max((chunk.stream for chunk in self.checkpoint.chunks), default=0)
        memory_gb, spec = section.memory_gb, self.run.spec
        # Wherever it fits: this may be another machine.
        plan = storage.plan("auto", memory_gb, spec, rows * streams, self.agent.device, self.run.folder)
        collected = Replay(section, self.run.spec, rows * streams, plan.storage, streams)
        collected.load(self.run.replay, self.checkpoint.chunks)
        return collected

    def results_folder(self) -> Path:
        """Where results are written: the run's folder; of an agent's file a folder beside it, made now. Errors:
        RunError, if nothing can be written there.
        """
        if self.recorded is None:
            if not os.access(self.run.folder, os.W_OK):
                file = hints.command("export.py", str(self.run.folder), "mine.agent")
                raise RunError(
                    f"{self.run.folder} cannot be written to, and results are kept there: evaluate a copy of it, or "
                    f"its agent as a file of yours: {file}"
                )
            return self.run.folder
        folder = self.run.folder.with_name(f"{self.run.folder.stem}-evaluated")
        folder.mkdir(exist_ok=True)
        return folder

    def episode_seed(self, number: int) -> int:
        return episode_seed(self.seed, streams.EVALUATE, number)

    def evaluate(self, agent: Agent, episodes: int) -> tuple[list[EpisodeResult], dict[str, float]]:
        """Noise-free episodes in the run's environment."""
        seeds = [self.episode_seed(number) for number in range(episodes)]
        env = self.agent.env
        env = env.model_copy(update={"num_envs": min(env.num_envs, episodes)})  # idle ones would be planned for, too
        vector = envs.vector(env, self.run.config["train"]["max_failures"], console.print)
        try:
            return evaluation.evaluate(agent, vector, seeds, self.seed)
        finally:
            closing.close(vector)

    def result(
        self, name: str | None, agent: Agent, results: Sequence[EpisodeResult], values: dict[str, float]
    ) -> dict[str, Any]:
        """What is written of an evaluation."""
        counters = self.state["counters"]
        return {
            "return": values["evaluate/return"],
            "ci95": values.get("evaluate/ci95"),  # half-width of the 95 % interval
            "returns": [result.episode_return for result in results],
            "episodes": len(results),
            "seed": self.seed,
            "actor": name or self.run.config["actor"]["name"],
            "checkpoint": self.checkpoint.folder.name,
            "env_steps": counters["env_steps"] + counters.get("fitness_env_steps", 0),
            "milliseconds_per_action": values["evaluate/act_ms"],
            "planned_return": values.get("evaluate/planned_return"),
            "obtained_return": values.get("evaluate/obtained_return"),
            "value": values.get("evaluate/value"),  # of the critic, if there is one; and the discounted return
            "value_obtained": values.get("evaluate/value_obtained"),
            "device": str(agent.device),
            "precision": agent.precision,
            "commit": commit(),
        }


def recorded_evaluation(run: Run, checkpoint: Checkpoint, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What evaluate.py wrote of a run's own actor on this checkpoint, with these changes. Errors: RunError, if it did
    not.
    """
    path, command = run.folder / "evaluation.json", run.evaluation("--episodes", "10", *overrides)
    try:
        found: dict[str, Any] = read_json(files.read(path, LARGEST_EVALUATION), LARGEST_EVALUATION)
        own = found["checkpoint"] == checkpoint.folder.name and found["actor"] == run.config["actor"]["name"]
    except FileNotFoundError:
        raise RunError(f"{run.folder} was not evaluated yet: {command}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} cannot be read ({error}): {command}") from error
    if not own or found.get("overrides", []) != list(overrides):
        raise RunError(f"{path} is of another checkpoint, or of an actor that was changed otherwise: {command}")
    return found


def of_objective(word: str) -> bool:
    """Whether an override is of the objective."""
    return word.partition("=")[0].partition(".")[0] == "objective"
