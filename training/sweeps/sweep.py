"""A sweep, through Hydra: its sweeper makes the members of the words, its launcher trains them."""

import re
import signal
import traceback
from collections.abc import Callable, Sequence

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobStatus
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from training.configuration.command_line import SWEEP, as_hydra_reads, check_words, misfit, parse
from training.configuration.components import CONFIGS
from training.configuration.words import as_typed, modules_named, with_home
from training.configuration.working_folder import use_working_folder
from training.reporting.progress import console
from training.run_folder.run import RunError
from training.sweeps import table
from training.sweeps.members import (
    FAILED,
    FINISHED,
    NOT_BEGUN,
    SIGNALLED,
    STOPPED,
    WAS_DONE,
    Result,
    is_done,
    mark_done,
    member_of,
    score,
    train,
)
from worldmodel.base import ConfigError

LAUNCHER = "hydra/launcher"


def sweep(arguments: Sequence[str], run: Callable[[Sequence[str]], int]) -> int:
    """Run every member of a sweep; one that fails does not stop the others, a signal does. The first exit code that is
    not 0. Errors: ConfigError, before any has begun.
    """
    use_working_folder(modules_named(arguments))
    check_words(arguments, sweep=True)
    given = [word for word in arguments if word not in SWEEP]
    template = next((word.partition("=")[2] for word in given if word.lstrip("+").startswith("run=")), None)
    if template is not None and "{" not in template:
        raise ConfigError([
            "run: the members of a sweep cannot share a name: leave it out, each makes its own; or name the keys in "
            "which they differ, as run={exp}-seed{seed}"
        ])  # fmt: skip
    given = [word for word in given if not word.lstrip("+").startswith("run=")]
    if not given:
        raise ConfigError(["-m: a sweep is over values of keys, as -m seed=0,1,2"])
    launcher = next((word.partition("=")[2] for word in given if word.startswith(f"{LAUNCHER}=")), "basic")
    task = InTurn(template, run) if launcher == "basic" else InProcesses(template)
    words = [as_hydra_reads(with_home(word)) for word in given]
    try:
        check_members(template, [word for word in words if not word.startswith("hydra")])
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3", job_name="train"):
            returned = GlobalHydra.instance().hydra.multirun("train", task, words)  # type: ignore[union-attr]
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError([misfit(error, words)]) from error
    jobs = [job for batch in returned for job in batch]
    return table.show([job.return_value for job in jobs if job.status == JobStatus.COMPLETED])


def check_members(template: str | None, words: Sequence[str]) -> None:
    """Tell the mistakes of some members now, and not when their turn comes. words: as Hydra reads them. Errors:
    ConfigError, if none could begin, or two would have one name; HydraException.
    """
    overrides = OverridesParser.create().parse_overrides(list(words))
    check_template(template, overrides)
    (chosen,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)  # as Hydra will make them
    members, wrong = [member_of(as_typed(one), template) for one in chosen], 0
    mistakes: dict[str, None] = {}
    for member in members:
        try:
            parse(member.words)
        except ConfigError as error:
            mistakes |= dict.fromkeys(error.lines)
            wrong += 1
        except RunError:
            pass  # of its folder, or of a run that an earlier member makes: told when its turn comes
    if wrong == len(members):
        raise ConfigError(list(mistakes))
    if wrong:
        console.print(f"warning: {wrong} of {len(members)} runs of the sweep cannot begin, the others do:")
        for line in mistakes:
            console.print(f"  {line}")


def check_template(template: str | None, overrides: Sequence[Override]) -> None:
    """Errors: ConfigError, if two members would have one name, or it names what is not there."""
    if template is None:
        return
    given = {f"{{{one.key_or_group}}}": one.is_sweep_override() for one in overrides}
    missing = [key for key, differs in given.items() if differs and key not in template]
    unknown = [key for key in re.findall(r"\{[\w./@-]+\}", template) if key not in given]
    lines = [f"run: the name has no {' and no '.join(missing)}, in which the members differ"] if missing else []
    lines += [f"run: {key} is none of the keys that are given: {', '.join(given)}" for key in unknown]
    if lines:
        raise ConfigError(lines)


def words_now() -> list[str]:
    """Of the member whose turn it is."""
    return as_typed(HydraConfig.get().overrides.task)


class InTurn:
    """One after the other, in this process."""

    def __init__(self, template: str | None, run: Callable[[Sequence[str]], int]) -> None:
        self.template, self.run, self.stopped = template, run, False

    def __call__(self, _: DictConfig) -> Result:
        member = member_of(words_now(), self.template)
        if self.stopped:
            return Result(member, NOT_BEGUN, 0)
        if is_done(member):
            return Result(member, WAS_DONE, 0, score(member.folder))
        code = exit_code(self.run, member.words)
        self.stopped = code >= SIGNALLED
        if code == 0 and member.folder.is_dir():
            mark_done(member)
        state = FINISHED if code == 0 else STOPPED if self.stopped else FAILED
        return Result(member, state, code, score(member.folder))


class InProcesses:
    """As Hydra's other launchers run them, each in its own process, perhaps on another machine."""

    def __init__(self, template: str | None) -> None:
        self.template = template

    def __call__(self, _: DictConfig) -> Result:
        return train(member_of(words_now(), self.template), alone=False)


def exit_code(run: Callable[[Sequence[str]], int], words: Sequence[str]) -> int:
    """Of one member, whatever it raises: the next ones are not its business."""
    try:
        return run(words)
    except KeyboardInterrupt:
        return SIGNALLED + signal.SIGINT
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except Exception:
        traceback.print_exc()
        return 1
