"""What is measured, by functions that a probe calls in a process of its own. Each gives plain values. Speeds are ratios
or the best of several, so that other work on the machine changes little.
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def best(action: Callable[[], Any], times: int = 5) -> float:
    """Seconds of the fastest call."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        action()
        took.append(time.perf_counter() - began)
    return min(took)


def torch_facts() -> dict[str, Any]:
    """The GPU, precision and threads that agent.*=auto takes."""
    import torch

    from agents.device import choose_device, choose_precision
    from training import threads

    device = choose_device("auto")
    found: dict[str, Any] = {
        "version": torch.__version__,
        "built_for": torch.version.cuda or torch.version.hip,
        "device": device.type,
        "precision": choose_precision("auto", device),
        "bf16_speed": bf16_speed(device),
        "cores": threads.cores(),
        "quota": quota(),
        "busy": threads.busy(),
        "small": threads.SMALL,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {"gpu": properties.name, "gpu_memory": properties.total_memory}
    return found


def quota() -> float | None:
    """Cores' worth of time that this process's control group may use; None: as much as there is."""
    try:
        allowed, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if allowed == "max" else int(allowed) / int(period)
    except (OSError, ValueError):
        return None


def bf16_speed(device: Any) -> float:
    """How many times faster a product of matrices is in bf16 than in float32."""
    import torch

    n = 4096 if device.type == "cuda" else 768
    took = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(n, n, device=device).to(dtype)

        def product(a: Any = a) -> None:
            _ = a @ a
            if device.type == "cuda":
                torch.cuda.synchronize()

        product()
        took[dtype] = best(product)
    return took[torch.float32] / took[torch.bfloat16]


def environment_facts() -> dict[str, Any]:
    """The quickstart's environment: command line, config, simulator, drawing, all as in training."""
    import numpy as np

    import envs
    from training.configuration.command_line import parse

    config = parse(["exp=quickstart", f"runs={tempfile.gettempdir()}"])
    env = envs.make(config.env)
    env.reset(seed=0)
    action = np.zeros(env.action_space.shape or (), np.float32)
    frames = 20

    def play() -> None:
        for _ in range(frames):
            env.step(action)

    seconds = best(play, 3)
    env.close()
    return {"name": config.env.label, "per_second": frames / seconds}


def training_facts(folder: str) -> dict[str, Any]:
    """A run of a few steps in a folder of its own below this one, evaluated and saved."""
    import training

    tiny = "train.env_steps=10 train.prefill=1 env.time_limit=5 train.learn.model.updates=2 train.eval_episodes=1"
    with tempfile.TemporaryDirectory(dir=folder) as place:
        run = training.train("exp=smoke", *tiny.split(), "run=doctor", f"runs={place}")
        return {"checkpoint": run.newest().folder.name}


def replay_facts(folder: str) -> dict[str, Any]:
    """Where replay would lie that is as large as PlaNet's: the plan that training would make."""
    from agents.device import choose_device
    from worldmodel.base import Spec
    from worldmodel.replay import storage

    spec, rows = Spec((3, 64, 64), 6, False), 1_000_000
    available, needed = storage.available_memory(), rows * storage.row_bytes(spec)
    fits = rows * max(0, available - storage.RESERVE) // (2 * needed)  # with as much left for others
    found: dict[str, Any] = {"available": available, "needed": needed, "rows": max(1000, fits // 1000 * 1000)}
    try:
        plan = storage.plan("auto", None, spec, rows, choose_device("auto"), Path(folder))
        return found | {"kind": plan.storage.kind, "why": plan.why}
    except MemoryError as error:
        return found | {"kind": None, "why": str(error)}


def disk_facts(folder: str) -> dict[str, Any]:
    """Locks, durable writes and space, in a folder that is there."""
    from training.run_folder import lock

    with tempfile.TemporaryDirectory(dir=folder) as place:
        locked, why = True, ""
        try:
            lock.acquire(Path(place)).close()
        except lock.RunError as error:
            locked, why = False, str(error)

        def write() -> None:
            with open(os.path.join(place, "file"), "wb") as file:
                file.write(bytes(1 << 16))
                file.flush()
                os.fsync(file.fileno())

        return {"free": shutil.disk_usage(place).free, "locks": locked, "why": why, "fsync": best(write, 3)}


def tensorboard_facts() -> dict[str, Any]:
    """What opens the curves. Errors: what comes of writing one."""
    from torch.utils.tensorboard.summary import scalar

    from training.reporting.tensorboard import EventFile

    with tempfile.TemporaryDirectory() as place:
        events = EventFile(Path(place))
        events.add(scalar("a", 1.0), 1)
        events.flush()
    beside = Path(sys.executable).with_name("tensorboard")
    return {"program": str(beside) if beside.exists() else shutil.which("tensorboard")}
