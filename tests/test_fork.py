"""A process that forks keeps an agent that works: torch's threads do not survive a fork, and would be waited for."""

import os
import subprocess
import sys

import pytest
import runs

from training.configuration.components import ROOT

# The parent computes with two threads. Its children act, learn or build, and compute something large enough for two.
SCRIPT = """
import os, sys
import numpy as np, torch
sys.path.insert(0, "tests")
import tiny
from agents.planners.shooting import Config, Shooting
from training.threads import use_threads

def planner(model, spec):
    return Shooting(Config(name="shooting", horizon=2, candidates=3, exploration_noise=0.0), model, spec, tiny.REWARD)

large, image = torch.ones(1 << 20), np.zeros(tiny.SPEC.image_shape, np.uint8)
torch.set_num_threads(2)
agent = tiny.make_agent(planner)
total = large.exp().sum()  # by both threads
for first in (lambda: agent.act(None, image), lambda: agent.learn(tiny.batch()), lambda: tiny.make_agent(planner)):
    child = os.fork()
    if not child:
        first()
        assert torch.get_num_threads() == 1 and use_threads(2, 10**9) == 1
        assert torch.isclose(large.exp().sum(), total, rtol=1e-4)
        os._exit(0)
    agent.act(None, image)
    assert torch.get_num_threads() == 2
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


@pytest.mark.slow
def test_an_agent_in_a_forked_process_computes_with_one_thread() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, timeout=runs.HANG,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
