"""What benchmarks/fuzz.py changes, and how a user would load it: a run, an agent's file, recordings."""

import contextlib
import io
from pathlib import Path

RECIPE = [
    "exp=smoke", "env.time_limit=5", "train.env_steps=30", "train.prefill=10", "train.collect.unit=steps",
    "train.collect.per_round=8", "train.learn.model.updates=1", "train.eval_every=100", "train.eval_episodes=1",
    "train.save_every=10", "replay.batch_size=2", "replay.batch_length=4", "replay.capacity=200", "model.deter=8",
    "model.stoch=4", "model.hidden=8", "model.depths=[4,8]", "model.reward_units=8", "actor.horizon=3",
    "actor.candidates=6", "actor.elites=2", "agent.device=cpu", "agent.precision=fp32", "agent.threads=1",
]  # fmt: skip


def prepare(folder: Path) -> None:
    """The originals: run/, agent/, recordings/; and outside/, which nobody may touch."""
    import numpy as np

    import training
    from training.run_folder import agent_file
    from training.run_folder.run import Run

    with contextlib.redirect_stdout(io.StringIO()):
        training.train(*RECIPE, "run=run", f"runs={folder}")
    for name in ("dream.png", "curve.png", "losses.png"):
        (folder / "run" / name).unlink(missing_ok=True)
    run = Run.read(folder / "run")
    newest = run.newest()
    (folder / "agent").mkdir()
    parts = {part: newest.tensors(part) for part in agent_file.PARTS}
    (folder / "agent" / "a.agent").write_bytes(agent_file.serialised(run, newest, parts, {"return": 1.0}))
    (folder / "recordings").mkdir()
    rng = np.random.default_rng(0)
    for number, several in enumerate((False, True)):
        image, action = rng.integers(0, 256, (12, 16, 16, 3), np.uint8), rng.uniform(-1, 1, (12, 2)).astype(np.float32)
        first = np.arange(12) % (4 if several else 12) == 0
        terminal = np.roll(first, -1)[~first]
        arrays = {"image": image, "action": action[~first], "reward": np.ones(len(terminal)), "terminal": terminal}
        arrays |= {"first": first} if several else {}
        np.savez_compressed(folder / "recordings" / f"{number}.npz", **arrays)
    (folder / "outside").mkdir()
    (folder / "outside" / "victim").write_text("nobody writes here")


def resume(folder: Path) -> None:
    """As train.py does, without composing the config anew; and one update."""
    import numpy as np

    from training import start
    from training.configuration import config
    from training.run_folder.run import Run

    plain = Run.read(folder).config | {"run": folder.name, "runs": str(folder.parent)}
    trainer = start.resume(config.check(plain), lambda: False)
    try:
        trainer.agent.learn(trainer.replay.sample(np.random.default_rng(0)))
    finally:
        trainer.close()


def load_agent(place: Path) -> None:
    import numpy as np

    import agents

    agent = agents.load(place, "cpu")
    action, _ = agent.act(None, np.zeros(agent.spec.image_shape, np.uint8))
    if not np.isfinite(action).all():
        raise AssertionError("an action that is not finite")


def load_recordings(folder: Path) -> None:
    from worldmodel.replay import recorded

    for episode in recorded.read(folder):
        episode.plain()


TARGETS = {
    "resumed": resume,
    "loaded": load_agent,
    "agent's file": lambda folder: load_agent(folder / "a.agent"),
    "recordings": load_recordings,
}
ORIGINALS = {"resumed": "run", "loaded": "run", "agent's file": "agent", "recordings": "recordings"}
SHARES = ["resumed"] * 4 + ["loaded"] * 3 + ["agent's file", "recordings", "recordings"]
