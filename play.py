"""Play with a trained run:  python play.py runs/cartpole1

Opens a page on this machine, http://127.0.0.1:7860: beside each other the environment, what the model makes of its
images, and its dream. One watches the agent, its plan drawn, or takes the keys: in the environment or in the dream.
With --no-env there is the dream alone: where the simulator is not installed, or there was none. Planners can be changed
as in evaluate.py: actor.horizon=20, --actor mppi.
"""

import argparse
import asyncio
import functools
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from training import early

if __name__ == "__main__":
    early.begin()  # before torch is loaded

import envs
from agents.graphs import GraphError
from training.reporting.progress import console, print_error
from training.run_folder.run import RunError
from worldmodel.base import ConfigError

NEEDS_AIOHTTP = "the page needs the package aiohttp: pip install aiohttp (or this project's extra 'play')"


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    options = parse_arguments(arguments)
    try:
        from viewer.opening import open_run
        from viewer.server import serve
    except ModuleNotFoundError as error:
        if error.name != "aiohttp":
            raise
        return failed(NEEDS_AIOHTTP, 1)
    plugins = [name for name in options.plugins.split(",") if name]
    opening = functools.partial(
        open_run, options.run, options.device, options.seed, plugins, options.actor, options.overrides, options.env
    )

    def ready(port: int) -> None:
        console.print(f"{options.run}: http://127.0.0.1:{port}  (Ctrl-C ends it)")

    async def until_stopped() -> None:
        ended, loop = asyncio.Event(), asyncio.get_running_loop()

        def stop(number: int) -> None:
            if ended.is_set():  # asked twice: an environment may hang
                os._exit(128 + number)
            ended.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop, number)
        await serve(opening, options.port, ready, ended)

    try:
        asyncio.run(until_stopped())
    except OSError as error:
        busy = f"port {options.port} is in use: choose another, --port {options.port + 1}"
        return failed(busy if error.errno in (48, 98) else error, 1)
    except (RunError, ConfigError, GraphError, envs.EnvError, ValueError, MemoryError) as error:
        return failed(error, 2 if isinstance(error, ConfigError) else 1)
    return 0


def failed(error: object, code: int) -> int:
    print_error(error)
    return code


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Play with a trained run, on a page in a browser.")
    parser.add_argument("run", type=Path, help="the run's folder, such as runs/cartpole1")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="actor.horizon=20, objective=goal")
    parser.add_argument("--actor", help="act with another actor on the same model, such as shooting")
    parser.add_argument("--port", type=int, default=7860, help="of 127.0.0.1 (default 7860; 0: a free one)")
    parser.add_argument("--seed", type=int, default=0, help="of the first episode")
    parser.add_argument("--no-env", dest="env", action="store_false", help="the dream alone, from the run's replay")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--plugins", default="", help="packages of your own that the run's components come from")
    options = parser.parse_intermixed_args(arguments)
    if options.seed < 0 or not 0 <= options.port < 65536:
        parser.error("--seed must be at least 0 and --port in 0..65535")
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
