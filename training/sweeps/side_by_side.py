"""Members of a sweep side by side: on this machine, one a core or one a GPU; or as processes of a Ray cluster."""

import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from training.distributed.cluster import Cluster, python_path
from training.distributed.config import RayConfig
from training.signals import SignalHandler
from training.sweeps.members import FAILED, NOT_BEGUN, STOPPED, WAS_DONE, Member, Result, train
from training.threads import cores

PATIENCE = 1.0  # seconds for which a process of a cluster waits for its run, before it says that it goes on


def say(text: str) -> None:
    print(f"--- {text}", flush=True)


def told(result: Result) -> Result:
    log = result.member.folder.with_name(f"{result.name}.log")
    what = {FAILED: f"failed with {result.code}, see {log}", STOPPED: "stopped and saved", WAS_DONE: "is done"}
    say(f"{result.name}: {what.get(result.state, 'done')}")
    return result


def on_this_machine(members: Sequence[Member], jobs: int | None = None, episodes: int = 0) -> list[Result]:
    """jobs: at a time; None: one a GPU, or without GPUs one a core. A signal stops and saves all."""
    cards = torch.cuda.device_count()
    jobs = jobs or cards or cores()
    free: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(jobs):
        free.put(number)

    def one(member: Member) -> Result:
        if stop():
            return Result(member, NOT_BEGUN, 0)
        place = free.get()
        own = {"CUDA_VISIBLE_DEVICES": str(place % cards)} if cards else {}
        try:
            say(f"{member.folder.name}: begins or goes on")
            return told(train(member, episodes, jobs == 1, stop, os.environ | own))
        finally:
            free.put(place)

    with SignalHandler() as stop, ThreadPoolExecutor(jobs, thread_name_prefix="member") as pool:
        return list(pool.map(one, members))


# ---- Ray ----


class Host:
    """A process of the cluster that trains one member after the other. Folders must be the same on all machines."""

    def __init__(self, path: Sequence[str], folder: str, episodes: int) -> None:
        os.chdir(folder)
        self.episodes, self.stopping, self.results = episodes, False, queue.SimpleQueue[Result]()

    def begin(self, words: Sequence[str], folder: Any) -> None:
        member = Member(tuple(words), folder)

        def one() -> None:
            self.results.put(train(member, self.episodes, False, lambda: self.stopping))

        threading.Thread(target=one, daemon=True).start()

    def look(self) -> list[Any]:
        """The result, as plain values, if there is one soon."""
        try:
            return list(self.results.get(timeout=PATIENCE))[1:]
        except queue.Empty:
            return []

    def stop(self) -> None:
        self.stopping = True


def on_ray(
    members: Sequence[Member], jobs: int | None = None, episodes: int = 0, address: str | None = None, gpus: float = 0
) -> list[Result]:
    """jobs: at a time, each with one CPU and so many GPUs; None: as many as there are. address: of a cluster that is
    up; None: a Ray of our own on this machine. A signal stops and saves all. Errors: RunError, if Ray does not start.
    """
    ray = RayConfig(address=address, object_store_mb=80, collector_gpus=0, controller_gpus=0)
    cluster = Cluster(ray, jobs or (1 if address else cores()))
    try:
        there = cluster.ray.cluster_resources()
        most = int(min(there.get("CPU", 1), there.get("GPU", 0) / gpus if gpus else len(members)))
        jobs = max(1, min(jobs or most, len(members)))
        make = lambda: cluster.process(Host, gpus, python_path(), os.getcwd(), episodes)  # noqa: E731
        with SignalHandler() as stop:
            return spread(cluster, members, jobs, make, stop)
    finally:
        cluster.close()


def spread(
    cluster: Cluster, members: Sequence[Member], jobs: int, make: Callable[[], Any], stop: Callable[[], bool]
) -> list[Result]:
    """Each member to the next process that is free."""
    waiting, results = list(members), dict[Member, Result]()
    hosts: list[Any] = [make() for _ in range(jobs)]
    calls: dict[Any, tuple[Any, Member]] = {}
    asked = False
    while calls or (waiting and not stop()):
        busy = [host for host, _ in calls.values()]
        for host in [host for host in hosts if host not in busy]:
            if waiting and not stop():
                member = waiting.pop(0)
                say(f"{member.folder.name}: begins or goes on")
                host.begin.remote(member.words, member.folder)
                calls[host.look.remote()] = host, member
        if stop() and not asked:
            asked = True
            for host, _ in calls.values():
                host.stop.remote()
        for call, answer in list(cluster.answers(calls, PATIENCE)):
            host, member = calls.pop(call)
            if answer is None:  # its process is gone, and with it, after a while, the run
                results[member] = told(Result(member, FAILED, 1))
                hosts[hosts.index(host)] = make()
            elif answer:
                results[member] = told(Result(member, *answer))
            else:
                calls[host.look.remote()] = host, member
    return [results.get(member, Result(member, NOT_BEGUN, 0)) for member in members]
