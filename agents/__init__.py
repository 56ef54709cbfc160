"""Agents: what decides. `agents.load(run)` gives a trained one, ready to act."""

from collections.abc import Sequence
from pathlib import Path

try:
    import training.shadowing

    training.shadowing.refuse_shadows()  # an installed clone finds its files below somebody else's `training`, too
except ModuleNotFoundError as error:
    raise ImportError(
        "`training` is another module here, which hides this project's own: rename it, or start where Python does not "
        "find it first"
    ) from error

from agents.agent import Agent
from agents.base import Actor, Objective

__all__ = ["Actor", "Agent", "Objective", "load"]


def load(path: str | Path, device: str = "auto", plugins: Sequence[str] = ()) -> Agent:
    """The trained agent of a run's folder, from its newest complete checkpoint, or of an agent's file (export.py).

        agent = agents.load("runs/cartpole1")  # or "pretrained/cartpole_swingup.agent"
        env = envs.make(agent.env)  # the environment that it was trained in
        action, memory = agent.act(memory, image)

    plugins: packages of your own that hold components which the run was trained with. Errors: RunError if it is
    neither, needs a plugin that is not named, or has no complete checkpoint.
    """
    from training.build import load_agent  # the only import of training/ from here: it knows runs

    return load_agent(Path(path), device, plugins)
