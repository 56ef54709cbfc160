"""Rendering without a screen: how MuJoCo does it is chosen before it is imported (it reads MUJOCO_GL only once).

The user's MUJOCO_GL wins; else EGL where it really works (GPU, or Mesa on the CPU); else OSMesa. Errors:
EnvError with the Debian package to install."""

import functools
import importlib
import importlib.util
import os
import subprocess
import sys

from envs.errors import EnvError

PACKAGES = {"egl": "libegl1", "osmesa": "libosmesa6"}  # Debian's names

PROBE = """
import mujoco
context = mujoco.GLContext(16, 16)
context.make_current()
from OpenGL import GL
assert GL.glGetString(GL.GL_RENDERER)
context.free()
"""

# Frames a second of a few moving bodies at 64 x 64 pixels, without shadows and multisampling as in the suite `dmc`, and
# what draws them; for doctor.py, as JSON.
SPEED = """
import json, time, mujoco
bodies = "".join(f"<body pos='{i} 0 2'><freejoint/><geom size='.4 .3 .2' type='box'/></body>" for i in range(6))
model = mujoco.MjModel.from_xml_string(
    "<mujoco><visual><quality offsamples='0'/></visual><worldbody><light pos='0 0 9'/>"
    f"<geom type='plane' size='9 9 1'/>{bodies}</worldbody></mujoco>")
data, renderer = mujoco.MjData(model), mujoco.Renderer(model, 64, 64)
from OpenGL import GL
drawn_by = GL.glGetString(GL.GL_RENDERER).decode()
best = 1e9
for _ in range(4):
    began = time.perf_counter()
    for _ in range(25):
        mujoco.mj_step(model, data)
        renderer.update_scene(data)
        renderer.scene.flags[:] = 0
        picture = renderer.render()
    best = min(best, (time.perf_counter() - began) / 25)
assert picture.any(), "the picture is black"
print("doctor: " + json.dumps({"per_second": 1 / best, "drawn_by": drawn_by}))
"""


@functools.cache
def works(backend: str) -> bool:
    """Whether "egl" or "osmesa" gives a context. Asked in a child: a driver that fails may crash its
    process."""
    environment = {**os.environ, "MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend}
    command = [sys.executable, "-c", PROBE]
    try:
        return subprocess.run(command, env=environment, capture_output=True, timeout=60).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def choose() -> str:
    """Sets MUJOCO_GL and PYOPENGL_PLATFORM for this process and its children; returns the backend's name."""
    if importlib.util.find_spec("triton"):
        # torch imports it later, at the first optimiser; after Mesa has loaded its own LLVM that would crash.
        importlib.import_module("triton")
    chosen = os.environ.get("MUJOCO_GL", "").lower()
    if not chosen:
        if sys.platform != "linux":
            return "glfw"  # MuJoCo's own choice, which needs no help there
        chosen = next((backend for backend in PACKAGES if works(backend)), "")
        if not chosen:
            packages = " or ".join(f"`apt-get install {package}`" for package in PACKAGES.values())
            raise EnvError(f"MuJoCo finds no way to render without a screen; install one: {packages}")
        os.environ["MUJOCO_GL"] = chosen
    if chosen in PACKAGES:  # MuJoCo and dm_control refuse to start when the two disagree
        os.environ["PYOPENGL_PLATFORM"] = chosen
    return chosen


def without_screen() -> None:
    """Lets pygame, pyglet and sound work on a Linux machine without a screen; what the user has set stays. SDL's driver
    is `offscreen`: with `dummy` some environments (highway-env) leave their pictures black.
    """
    if sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return
    for name, value in {"SDL_VIDEODRIVER": "offscreen", "SDL_AUDIODRIVER": "dummy", "PYGLET_HEADLESS": "true"}.items():
        os.environ.setdefault(name, value)
