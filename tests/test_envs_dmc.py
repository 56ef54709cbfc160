"""The control suite: frames, action repeat, time limit as truncation; and the choice of how to render."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

import envs
from envs import rendering
from envs.checks import EnvError
from envs.suites import dmc

CONFIGS = Path(__file__).parent.parent / "configs" / "env"
NEEDS = "no EGL or OSMesa on this machine"
real = pytest.mark.skipif(not (rendering.works("egl") or rendering.works("osmesa")), reason=NEEDS)


def config(**changes: Any) -> dmc.Config:
    whole = OmegaConf.create({"env": OmegaConf.load(CONFIGS / "dmc.yaml")})
    section = OmegaConf.to_container(OmegaConf.merge(whole, {"env": changes}), resolve=True)
    return dmc.Config(**section["env"])


@pytest.mark.parametrize("task, repeat", [("cartpole_swingup", 8), ("walker_walk", 2), ("cup_catch", 4),
                                          ("ball_in_cup_catch", 4), ("cheetah_run", 4), ("finger_spin", 2),
                                          ("reacher_easy", 4), ("hopper_stand", 2)])  # fmt: skip
def test_the_config_file_reads_the_published_action_repeats(task: str, repeat: int) -> None:
    assert config(task=task).action_repeat == repeat
    assert config(task=task, action_repeat=3).action_repeat == 3


@real
def test_cartpole_is_125_decisions_of_64x64_and_ends_by_truncation() -> None:
    vector = envs.vector(config())
    assert (vector.image_shape, vector.action_dim, vector.time_limit) == ((3, 64, 64), 1, 1000)
    images = [vector.reset({0: 1})[0]]
    rng = np.random.default_rng(0)
    for decision in range(125):
        image, reward, terminated, truncated, info = vector.step(rng.uniform(-1, 1, (1, 1)))
        images.append(image[0])
        assert not terminated[0] and truncated[0] == (decision == 124) and 0 <= reward[0] <= 8
        assert info["render_seconds"] > 0
    assert len({image.tobytes() for image in images}) > 100 and min(image.max() for image in images) > 50
    again = vector.reset({0: 1})[0]
    assert (again == images[0]).all()
    vector.close()


@real
def test_workers_render_the_same_and_a_limit_replaces_the_suites_own() -> None:
    seen = []
    for mode in ("sync", "async"):
        vector = envs.vector(config(num_envs=2, vectorization_mode=mode, time_limit=16))
        images = [vector.reset({0: 1, 1: 2}), vector.step(np.ones((2, 1)))[0]]
        image, _, terminated, truncated, _ = vector.step(np.ones((2, 1)))
        assert truncated.all() and not terminated.any()
        seen.append(np.stack([*images, image]))
        vector.close()
    assert (seen[0] == seen[1]).all()


@real
def test_shadows_and_multisampling_change_the_frame_and_are_off() -> None:
    frames = []
    for changes in ({}, {"shadows": True}, {"multisampling": True}):
        env = dmc.build(config(**changes))
        frames.append(env.reset(seed=0)[0].astype(int))
        model = env.unwrapped.physics.model
        assert model.light_castshadow.any() == bool(changes.get("shadows"))
        assert (model.vis.quality.offsamples > 0) == bool(changes.get("multisampling"))
        env.close()
    assert (frames[0] != frames[1]).any() and (frames[0] != frames[2]).any()


@real
def test_supersampled_frames_are_averages_of_larger_ones() -> None:
    frames = {}
    for size, supersample in ((32, 1), (32, 2), (64, 1)):
        env = dmc.build(config(size=[size, size], supersample=supersample))
        frames[size, supersample] = env.reset(seed=0)[0].astype(float)
        env.close()
    large = frames[64, 1].reshape(3, 32, 2, 32, 2).mean((2, 4))
    assert np.abs(frames[32, 2] - large).max() <= 1  # of 255: rounding
    assert (frames[32, 1] != frames[32, 2]).any()


@real
def test_frames_may_be_larger_than_mujocos_own_canvas() -> None:
    """It is 640 x 480; a film of an agent that sees 32x32 supersampled twice needs 512 x 512."""
    env = dmc.build(config(size=[500, 700], supersample=1))
    image = env.reset(seed=0)[0]
    assert image.shape == (3, 500, 700) and image.std() > 10
    env.close()


@real
def test_a_wrong_task_names_the_nearest() -> None:
    with pytest.raises(EnvError, match="dmc cartpole_swing: no such task; nearest: cartpole_swingup"):
        dmc.build(config(task="cartpole_swing"))


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM"):
        monkeypatch.setenv(name, "")  # so that monkeypatch restores what `choose` sets
    return monkeypatch


def test_the_users_backend_wins(clean: pytest.MonkeyPatch) -> None:
    clean.setattr(rendering, "works", lambda backend: pytest.fail("asked"))
    for backend, platform in [("osmesa", "osmesa"), ("EGL", "egl"), ("glfw", "")]:
        clean.setenv("MUJOCO_GL", backend)
        clean.setenv("PYOPENGL_PLATFORM", "")
        assert rendering.choose() == backend.lower()
        assert os.environ["MUJOCO_GL"] == backend and os.environ["PYOPENGL_PLATFORM"] == platform


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere MuJoCo chooses")
def test_egl_comes_first_then_osmesa_then_advice(clean: pytest.MonkeyPatch) -> None:
    for working, expected in [(("egl", "osmesa"), "egl"), (("osmesa",), "osmesa")]:
        clean.setenv("MUJOCO_GL", "")
        clean.setattr(rendering, "works", lambda backend, working=working: backend in working)
        assert rendering.choose() == expected == os.environ["MUJOCO_GL"] == os.environ["PYOPENGL_PLATFORM"]
    clean.setenv("MUJOCO_GL", "")
    clean.setattr(rendering, "works", lambda backend: False)
    with pytest.raises(EnvError, match="apt-get install libegl1` or `apt-get install libosmesa6"):
        rendering.choose()


def test_importing_the_room_loads_no_simulator_and_no_trainer() -> None:
    code = "import sys, envs, envs.check; from envs.suites import dmc, dot, gym; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(CONFIGS.parent.parent), *sys.path])}
    answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    loaded = set(answer.stdout.split())
    assert "envs.suites.dmc" in loaded
    assert not loaded & {
        "torch",
        "hydra",
        "omegaconf",
        "worldmodel",
        "agents",
        "training",
        "mujoco",
        "dm_control",
        "pygame",
    }
