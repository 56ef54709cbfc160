"""Hydra's side of training/sweeps/side_by_side.py. Every program with Hydra imports this file: nothing else is loaded
before a sweep asks for it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

HERE = "hydra_plugins.worldmodel_launchers.launchers"


@dataclass
class LocalConf:
    _target_: str = f"{HERE}.LocalLauncher"
    jobs: int | None = None  # at a time; None: one a GPU, or one a core
    episodes: int = 0  # of an evaluation at each one's end


@dataclass
class RayConf:
    _target_: str = f"{HERE}.RayLauncher"
    jobs: int | None = None  # at a time; None: as many as there are CPUs, or GPUs
    episodes: int = 0
    address: str | None = None  # of a cluster that is up, or auto; None: a Ray of its own on this machine
    gpus: float = 0.0  # of each


for name, conf in {"local": LocalConf, "ray": RayConf}.items():
    ConfigStore.instance().store(group="hydra/launcher", name=name, node=conf, provider="worldmodel")


class LocalLauncher(Launcher):
    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.template = getattr(task_function, "template", None)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from training.configuration.words import as_typed
        from training.sweeps.members import member_of

        members = [member_of(as_typed(overrides), self.template) for overrides in job_overrides]
        return [
            JobReturn(_return_value=result, status=JobStatus.COMPLETED)
            for result in self.spread()(members, **self.options)
        ]

    def spread(self) -> Callable[..., Any]:
        from training.sweeps.side_by_side import on_this_machine

        return on_this_machine


class RayLauncher(LocalLauncher):
    def spread(self) -> Callable[..., Any]:
        from training.sweeps.side_by_side import on_ray

        return on_ray
