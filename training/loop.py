"""The loop of a run, on one page."""

from collections.abc import Callable, Mapping
from typing import Any

from agents.optimizers import Diverged
from training.configuration.config import Config
from training.data_parallel.channel import ProcessLost
from training.data_parallel.leader import Leader, RanksDiffer
from training.run_folder.run import Run
from training.start import resume, start
from training.trainer import Trainer


def open_trainer(
    config: Config,
    stop: Callable[[], bool],
    callback: Callable[[Mapping[str, float]], Any] | None = None,
    leader: Leader | None = None,
) -> Trainer:
    """Build or resume. leader: of processes that learn together. Errors: as start() and resume(); ProcessLost."""
    leader = leader or Leader()
    leader.check(config)
    trainer = (resume if Run.exists(config.folder) else start)(config, stop, callback)
    trainer.leader = leader
    try:
        leader.begin(trainer, config)
    except BaseException:
        trainer.close()
        raise
    return trainer


def loop(trainer: Trainer) -> None:
    """Until enough env steps were collected, and learned from. Whatever ends it, the run is saved first; unless it has
    diverged, or a process that learns with it was lost amid an update: then the last good checkpoint is kept.
    """
    schedule = trainer.schedule
    try:
        with trainer.reporter.bar:
            while True:
                if schedule.should_evaluate():
                    trainer.evaluate()
                elif schedule.should_save(trainer.minutes_since_save()):
                    trainer.save()
                elif schedule.updates_due() > 0:
                    trainer.learn()
                    if schedule.should_report():
                        trainer.reporter.report()
                elif schedule.collecting_done():
                    return
                else:
                    trainer.collect()
    except (Diverged, ProcessLost, RanksDiffer):
        raise
    except BaseException:
        trainer.save()
        raise
