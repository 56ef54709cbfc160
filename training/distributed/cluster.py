"""Ray: one of our own on this machine, or a cluster that is up; and processes in it. No other file imports Ray.

A Ray of our own listens on 127.0.0.1 alone, asks everybody for a token that only its processes have, sends no usage
statistics, and keeps its sockets and logs in a folder that nobody else can enter. It ends with this process, however
that ends (Linux): two helpers of Ray's, its agents, notice a SIGKILL of this process only after about a minute.
"""

import contextlib
import importlib.util
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from training.distributed.config import RayConfig
from training.run_folder.run import RunError

LOOPBACK = "127.0.0.1"
PRIVATE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Named after the systems on which it is the default: addresses are 127.0.0.1, and servers are bound to them.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_worker_niceness": "0",  # else 15: collectors would starve beside any other program
}


def installed() -> bool:
    return importlib.util.find_spec("ray") is not None


class Cluster:
    """Where processes are started. Make it in the main thread; close it."""

    def __init__(self, config: RayConfig, processes: int) -> None:
        """processes: how many there will be. Errors: RunError."""
        self.folder: str | None = None
        self.processes: list[Any] = []
        address, already = config.address, "ray" in sys.modules
        with signals_kept():
            if address is None and not (already and sys.modules["ray"].is_initialized()):
                set_environment(already)
            import ray

            self.ray, self.ours = ray, not ray.is_initialized()
            try:
                if self.ours and address is None:
                    self.start(processes, config.object_store_mb)
                elif self.ours:
                    self.join(str(address), processes)
            except BaseException:
                self.close()
                raise

    def start(self, processes: int, object_store_mb: int) -> None:
        """A Ray of our own. Errors: RunError."""
        short = "/tmp" if os.path.isdir("/tmp") else None  # a socket's path has at most about a hundred letters
        self.folder = tempfile.mkdtemp(prefix="wm-ray-", dir=short)  # of this user alone
        try:
            self.ray.init(
                address="local", num_cpus=processes, object_store_memory=object_store_mb << 20, _temp_dir=self.folder,
                include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
            )  # fmt: skip
        except (RuntimeError, ValueError, OSError, TimeoutError) as error:
            raise RunError(f"Ray did not start on this machine: {first_line(error)}") from error
        addresses = {node["NodeManagerAddress"] for node in self.ray.nodes()}
        if addresses != {LOOPBACK}:
            raise RunError(
                f"Ray listens on {', '.join(sorted(addresses))} instead of {LOOPBACK}: it was imported before; set "
                "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0, or ray.address=auto for a cluster that you have started"
            )

    def join(self, address: str, processes: int) -> None:
        """A cluster that is up. Errors: RunError."""
        refused = why_not(address)
        if refused:
            raise RunError(f"ray.address={address}: there is no cluster that can be joined: {refused}")
        try:
            self.ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # Ray's own kinds, which are many
            raise RunError(
                f"ray.address={address}: there is no cluster that can be joined: {first_line(error)}"
            ) from error
        there = self.ray.cluster_resources().get("CPU", 0)
        if there < processes:
            raise RunError(
                f"ray.address={address}: the cluster has {there:g} CPUs, but {processes} processes want one each: "
                "lower train.collect.workers"
            )

    def process(self, cls: type, gpus: float, *args: Any) -> Any:
        """A process that holds one object of a class; its methods are called by `.remote(...)`."""
        options = {"num_cpus": 1, "num_gpus": gpus, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        self.processes.append(self.ray.remote(cls).options(**options).remote(*args))
        return self.processes[-1]

    def put(self, value: Any) -> Any:
        return self.ray.put(value)

    def kill(self, process: Any) -> None:
        self.processes.remove(process)
        with contextlib.suppress(Exception):  # it is gone
            self.ray.kill(process)

    def answers(self, open_calls: Mapping[Any, Any], seconds: float) -> Iterator[tuple[Any, Any]]:
        """Those of these calls that have ended within so many seconds: (call, its value, or None if its process was
        lost). Errors: RuntimeError, for a mistake in our own code.
        """
        if not open_calls:
            return
        ended, _ = self.ray.wait(list(open_calls), num_returns=len(open_calls), timeout=0)
        if not ended and seconds:
            ended, _ = self.ray.wait(list(open_calls), num_returns=1, timeout=seconds)
        for call in ended:
            try:
                yield call, self.ray.get(call)
            except self.ray.exceptions.RayTaskError as error:
                raise RuntimeError(f"in a process of this run: {error}") from error
            except self.ray.exceptions.RayError:
                yield call, None

    def close(self) -> None:
        """Ends what we have started: all of Ray, or in one that was there already our processes."""
        for process in list(self.processes):
            self.kill(process)
        if self.ours:
            with signals_kept():
                self.ray.shutdown()
            self.ours = False
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


def set_environment(imported: bool) -> None:
    """What a Ray of our own reads. What the user has set stays. The token is this process's, for every Ray that it may
    start: Ray reads it once.
    """
    wanted = dict(PRIVATE)
    if not imported and "RAY_AUTH_MODE" not in os.environ:  # else Ray turns it on by itself
        wanted["RAY_AUTH_MODE"] = "token"
        if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
            wanted["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    for name, value in wanted.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def signals_kept() -> Iterator[None]:
    """Ray handles SIGTERM in its own way; a run is saved first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def why_not(address: str) -> str:
    """Why a cluster cannot be joined; empty, if it can. Tried in another process, since Ray ends one that it refuses;
    and without Ray first, which would wait for minutes.
    """
    if address != "auto":
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except (OSError, OverflowError) as error:
            return f"nobody answers there ({error})"
    script = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')"
    tried = subprocess.run([sys.executable, "-c", script, address], capture_output=True, text=True)
    if tried.returncode == 0:
        return ""
    if "InvalidAuthToken" in tried.stderr or "Unauthenticated" in tried.stderr:
        return "it wants another token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH"
    return (tried.stderr.strip().splitlines() or ["Ray ended without a word"])[-1]


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def python_path() -> list[str]:
    """Where this process finds modules, for others."""
    return [str(Path(folder).resolve()) for folder in sys.path]
