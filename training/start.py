"""Starting a run and resuming one: two functions that can be read one after the other. Both give a Trainer."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

import envs
from agents.agent import Agent
from agents.loaded import check_tensors
from envs import Vector
from training import closing
from training.build import build_actor, build_agent
from training.checks import check_learning
from training.collecting import initial_data
from training.collecting.initial_data import InitialData, check_images, end_unlearned, resizing, rows_taken, spread
from training.configuration.config import Config
from training.configuration.resolve import model_differences
from training.data_parallel.world import world
from training.distributed.refuse import refuse, refuse_unsplit, uses_processes
from training.preflight import collects_steps, plan_replay, replay_streams
from training.reporting.progress import console
from training.run_folder import checkpoint as checkpoints
from training.run_folder.run import Run, RunError, refusing
from training.schedule import Counters
from training.threads import use_threads
from training.trainer import Trainer
from worldmodel import files
from worldmodel.base import Spec
from worldmodel.replay.buffer import Replay
from worldmodel.replay.episodes import DamagedChunk, write_chunk
from worldmodel.replay.storage import StoragePlan

Callback = Callable[[Mapping[str, float]], Any]


def start(config: Config, stop: Callable[[], bool], callback: Callback | None = None) -> Trainer:
    """A new run. Errors: ConfigError, ValueError, MemoryError, RunError, envs.EnvError, OSError."""
    refuse(config)
    console.print(f"{config.folder} is a new run: {config.recipe}")
    initial = initial_data.load(config)
    vector = open_envs(config)
    run = None
    try:
        spec = agreed_spec(vector, initial)
        if initial and initial.model is None:
            check_images(config, spec)
        agent, explorer = build_agents(config, spec)
        check_learning(config, agent, has_data=bool(initial and initial.lengths))
        refuse_unsplit(config, agent)
        if initial and initial.model is not None:
            take_model(agent, initial.model, config)
        lengths = initial.lengths if initial else []
        if initial and vector is None and len(lengths) < 2:
            raise ValueError(
                "of recorded episodes at least two are needed, one of them is kept for validation, to dream of: add "
                "some, or choose the environment that they came from, env=..."
            )
        rows = rows_taken(lengths, replay_streams(config, vector))
        plan = plan_replay(config, spec, vector, rows, max(lengths, default=0), (agent, explorer))
        threads = use_threads(config.agent.threads, agent.num_model_parameters())
        run = Run.create(config.folder, config.plain, spec, str(agent.device), rows, threads, agent.precision)
        replay = build_replay(config, spec, vector, plan, agent)  # which may be a file in the run's folder
        trainer = trainer_of(config)(config, run, vector, agent, explorer, replay, stop, callback)
        if initial:
            add_initial_data(trainer, initial, config)
        trainer.use_counters(Counters(), has_data=len(replay) > 0)
        trainer.reporter.begin(config.plain)
        return trainer
    except BaseException:
        closing.close(vector, run)
        raise


def resume(config: Config, stop: Callable[[], bool], callback: Callback | None = None) -> Trainer:
    """Go on with a run from its newest checkpoint that is complete, its replay included. Errors: as start."""
    refuse(config)
    run = Run.read(config.folder).lock()
    vector = None
    try:
        run.require_plugins(config.root.plugins)
        vector = open_envs(config)
        if vector and spec_of(vector) != run.spec:
            raise ValueError(f"the environment is {spec_of(vector)} now; the run was trained on {run.spec}")
        agent, explorer = build_agents(config, run.spec)
        use_threads(config.agent.threads, agent.num_model_parameters(), run.info.get("threads"))
        tell_processes(run)
        check_learning(config, agent, has_data=True)
        refuse_unsplit(config, agent)
        rows = run.info.get("initial_rows", run.info.get("given_rows", 0))
        replay = build_replay(
            config, run.spec, vector, plan_replay(config, run.spec, vector, rows, 0, (agent, explorer)), agent
        )
        trainer = trainer_of(config)(config, run, vector, agent, explorer, replay, stop, callback)
        if not load_checkpoint(trainer, config.root.skip_damaged):
            refuse_lost_checkpoints(run)
            run.metrics.rewind(0, {}, -1)
            console.print("no checkpoint yet: starting from the beginning")
            initial = initial_data.load(config)
            if initial and initial.model is not None:
                take_model(agent, initial.model, config)
            if initial:
                add_initial_data(trainer, initial, config)
            trainer.use_counters(Counters(), has_data=len(replay) > 0)
        elif vector is None:
            trainer.validation = initial_data.validation(run)
        trainer.reporter.begin(config.plain)
        return trainer
    except BaseException:
        closing.close(vector, run)
        raise


# ---- the steps ----


def trainer_of(config: Config) -> type[Trainer]:
    """Who trains: this process, or several."""
    if not uses_processes(config):
        return Trainer
    from training.distributed.trainer import DistributedTrainer  # which needs this file

    return DistributedTrainer


def refuse_lost_checkpoints(run: Run) -> None:
    """Errors: RunError. Every run has this folder from its first moment on."""
    if not run.checkpoints.exists():
        raise RunError(
            f"{run.checkpoints} is gone: put it back from a copy to go on; or choose another run=... to begin anew"
        )


def tell_processes(run: Run) -> None:
    """Each draws noise of its own: with other ones a run goes on, but not as it would have."""
    before, now = run.info.get("processes", 1), world().size
    if before != now:
        console.print(f"begun by {before} processes, now {now} learn: it goes on, but not equal to the bit")


def open_envs(config: Config, tell: Callable[[str], Any] = console.print) -> Vector | None:
    return envs.vector(config.env, config.train.max_failures, tell) if config.env else None


def spec_of(vector: Vector) -> Spec:
    return Spec(vector.image_shape, vector.action_dim, vector.discrete)


def agreed_spec(vector: Vector | None, initial: InitialData | None) -> Spec:
    """Of the environment and of the episodes that one starts with."""
    if vector is None and initial is None:
        raise ValueError("there is neither an environment nor recorded episodes: choose env=... or data=...")
    spec = spec_of(vector) if vector else None
    if initial and spec and spec != initial.spec:
        hint = resizing(initial.spec, spec) or ": choose the one they came from"
        raise ValueError(f"the episodes are {initial.spec}, the environment is {spec}{hint}")
    return spec or initial.spec  # type: ignore[union-attr]


def build_agents(config: Config, spec: Spec) -> tuple[Agent, Agent]:
    """The agent, and the one that explores on the same model."""
    torch.manual_seed(config.root.seed)
    agent = build_agent(config, spec)
    explorer = build_actor(config.explorer, config.objective, agent.model, spec, config.root.plugins)
    return agent, agent.with_actor(explorer)


def build_replay(config: Config, spec: Spec, vector: Vector | None, plan: StoragePlan, agent: Agent) -> Replay:
    """An empty one."""
    by_steps = collects_steps(config, vector)
    replay = Replay(config.replay, spec, plan.rows, plan.storage, replay_streams(config, vector), by_steps)
    if config.replay.context:
        replay.keep_states(agent.model.initial(1))
    return replay


def take_model(agent: Agent, weights: dict[str, torch.Tensor], config: Config) -> None:
    """The weights of model_from. Errors: ConfigError, if they are those of another model than was asked for; RunError,
    if they are none.
    """
    try:
        check_tensors("model", agent.model, weights)
        agent.model.load_state_dict(weights)
    except (ValueError, RuntimeError) as error:
        differences = model_differences(config)
        raise differences or RunError(f"{config.root.model_from}: its model cannot be taken: {error}") from error


def add_initial_data(trainer: Trainer, initial: InitialData, config: Config) -> None:
    """Fill replay. Without an environment the last episodes are kept for validation, to dream of."""
    count, run, ended = 0, trainer.run, 0
    if trainer.envs is None:
        count = min(trainer.config.eval_episodes, max(1, len(initial.lengths) // 10))
        files.make_folder(run.validation)
    lengths = initial.lengths[: len(initial.lengths) - count]
    where = spread(lengths, trainer.replay.streams)
    for number, episode in enumerate(initial.episodes):
        ended += int(episode.terminal[-1])
        if number < len(lengths):
            trainer.replay.add(episode, where[number])
        else:
            trainer.validation.append(episode)
            write_chunk(run.validation / f"{number:06d}.npz", episode)
    over = sum(lengths) - len(trainer.replay)
    lost = f"; {over:,} older rows are not kept: replay.capacity" if over else ""
    console.print(f"begins with {len(trainer.replay):,} rows of {len(lengths)} episodes{lost}")
    end_unlearned(config, ended, len(initial.lengths))


def load_checkpoint(trainer: Trainer, skip_damaged: bool) -> bool:
    """Whether there was one. Errors: RunError, if there are only damaged ones."""
    run, damage = trainer.run, ""
    for checkpoint in run.verified(console.print):
        try:
            trainer.replay.load(run.replay, checkpoint.chunks, console.print if skip_damaged else None)
        except DamagedChunk as error:
            damage = str(error)
            console.print(f"{checkpoint.folder.name} cannot be resumed exactly: {error}")
            trainer.replay.clear()
            run.rotation.torn.add(checkpoint.folder.name)
            continue
        for line in run.edited(checkpoint):
            console.print(f"warning: {line}")
        with refusing(f"{run.folder}: {checkpoint.folder.name}"):
            trainer.load(checkpoint)
            known = not trainer.replay.states or trainer.replay.restore_context(checkpoint.tensors("context"))
        if not known:
            console.print(
                "the stored states are of other rows: sequences begin in none until they are learned from again"
            )
        console.print(f"resumed from {checkpoint.folder.name}")
        return True
    if damage:
        raise RunError(f"{damage}; to continue without the damaged episodes: {run.command('skip_damaged=true')}")
    if any(checkpoints.NAME.fullmatch(name) for name in files.entries(run.checkpoints)):
        raise RunError(
            f"no checkpoint in {run.checkpoints} is complete: restore one from a copy, or train under another name"
        )
    return False
