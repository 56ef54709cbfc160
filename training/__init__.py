"""What happens around learning: config, runs, checkpoints, the loop. `training.train(...)` trains from Python."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from training.shadowing import refuse_shadows

if TYPE_CHECKING:
    from training.run_folder.run import Run

refuse_shadows()


def train(*overrides: str, callback: Callable[[Mapping[str, float]], Any] | None = None) -> "Run":
    """What `python train.py` does with these words, in a script or a notebook; the finished run.

        run = training.train("exp=quickstart", "seed=1", callback=print)
        agent = agents.load(run.folder)

    callback: gets the values of every report. Errors: worldmodel.base.ConfigError, training.run_folder.run.RunError,
    and what stopped it; training.collecting.rollout.Interrupted if that was a signal. Whatever stops it, the run is
    saved.
    """
    from training.configuration.command_line import parse
    from training.loop import loop, open_trainer
    from training.signals import SignalHandler

    with SignalHandler() as stop:
        trainer = open_trainer(parse(overrides), stop, callback)
        try:
            loop(trainer)
        finally:
            trainer.close()
    return trainer.run
