"""A picture of TensorBoard's first page for the docs:  python benchmarks/tensorboard_page.py runs/quickstart

Writes docs/tensorboard.png. Needs Chromium.
"""

import argparse
import contextlib
import io
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 600  # seconds
COLOURS = 128  # of the file
FRAME = 4000  # milliseconds into the films


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("run", type=Path)
    parser.add_argument("--file", type=Path, default=ROOT / "docs" / "tensorboard.png")
    options = parser.parse_args()
    with served(options.run.resolve().parent, options.run.name) as address:
        options.file.write_bytes(first_page(address, options.run.name))


@contextlib.contextmanager
def served(folder: Path, run: str) -> Iterator[str]:
    """TensorBoard of a folder, at its address, as soon as it has read a run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("tensorboard")), "--logdir", str(folder), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            address = f"http://127.0.0.1:{port}/"
            wait_for(f"{address}data/runs", run)
            yield address
        finally:
            server.terminate()


def wait_for(address: str, word: str) -> None:
    """Until a page says a word. Errors: TimeoutError."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(address) as answer:
                if word in answer.read().decode():
                    return
        except OSError:
            pass  # not yet
        time.sleep(0.5)
    raise TimeoutError(address)


def first_page(address: str, run: str) -> bytes:
    """What the page shows of a run when it is opened, as a PNG."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1400, "height": 1250})
        page.set_default_timeout(1000 * PATIENCE)
        page.goto(f"{address}?runFilter=%5E{run}%24&darkMode=false")
        page.wait_for_selector("image-card img")
        page.wait_for_timeout(FRAME)
        with Image.open(io.BytesIO(page.screenshot())) as picture:
            buffer = io.BytesIO()
            picture.convert("RGB").quantize(COLOURS).save(buffer, "PNG", optimize=True)
        chromium.close()
    return buffer.getvalue()


if __name__ == "__main__":
    main()
