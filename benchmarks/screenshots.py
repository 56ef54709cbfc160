"""Pictures of play.py's page for the docs:  python benchmarks/screenshots.py runs/quickstart

Writes into docs/: play.png, the agent at work in the world, its plan drawn; play_dream.png, a human at the keys in the
dream. Needs Chromium.
"""

import argparse
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 600_000  # milliseconds
COLOURS = 128  # of the files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("run", type=Path)
    parser.add_argument("--folder", type=Path, default=ROOT / "docs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--step", type=int, default=34, help="at which the agent is shown")
    options = parser.parse_args()
    command = [sys.executable, "play.py", str(options.run.resolve()), "--port", "0", "--seed", str(options.seed)]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = server.stdout.readline().split()[1]
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            agent(chromium, address, options.folder / "play.png", options.step)
            human(chromium, address, options.folder / "play_dream.png")
            chromium.close()
        server.terminate()


def agent(chromium: Any, address: str, path: Path, step: int) -> None:
    """The agent in the world."""
    page = opened(chromium, address, "dark")
    for number in range(1, step + 1):  # one by one, so that it is the same picture on every machine
        page.keyboard.press(".")
        page.wait_for_selector(f'#panes[data-step="{number}"]')
    page.wait_for_selector(f'#fan[data-step="{step}"]')
    save(page, path)


def human(chromium: Any, address: str, path: Path) -> None:
    """A human in the dream, from where the agent was."""
    page = opened(chromium, address, "light", reset=False)
    page.keyboard.press("x")
    page.wait_for_selector('#dreamland[aria-pressed="true"]')
    for key in ["ArrowRight"] * 6 + ["ArrowLeft"] * 5:
        step = int(page.get_attribute("#panes", "data-step"))
        page.keyboard.down(key)
        page.wait_for_selector(f'#fan[data-step="{step + 1}"]')
        if key != "ArrowLeft":
            page.keyboard.up(key)
    save(page, path)


def opened(chromium: Any, address: str, scheme: str, reset: bool = True) -> Any:
    """The page, paused."""
    page = chromium.new_page(viewport={"width": 1360, "height": 860}, color_scheme=scheme)
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    page.wait_for_selector("#panes[data-step]")
    if page.get_attribute("#pause", "aria-pressed") != "true":
        page.keyboard.press(" ")
        page.wait_for_selector('#pause[aria-pressed="true"]')
    if reset:
        page.keyboard.press("z")
        page.wait_for_selector('#panes[data-step="0"]')
    return page


def save(page: Any, path: Path) -> None:
    page.evaluate("document.getElementById('rate').textContent = ''")  # of the machine that takes the picture
    with Image.open(io.BytesIO(page.screenshot())) as picture:
        picture.convert("RGB").quantize(COLOURS).save(path, optimize=True)
    page.close()


if __name__ == "__main__":
    main()
