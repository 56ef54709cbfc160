"""How fast play.py's page is:  python benchmarks/play_latency.py runs/quickstart

Opens the page in Chromium, lets the agent act, its futures drawn, then strikes keys, and prints for both places, the
world and the dream: steps that arrive per second at a speed of 15, and the time from a key to the moment at which the
picture that it led to is drawn, as the page itself measures it. On a machine that does nothing else.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.measuring import machine  # noqa: E402

WATCH, KEYS, HOLD = 10.0, 40, 0.25  # seconds, number of keys, seconds for each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("run", type=Path)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()
    figures = measure(options.run, options.device)
    for name, value in figures.items():
        print(f"{name:34} {value:8.1f}")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "figures": figures}, indent=2) + "\n")


def measure(run: Path, device: str) -> dict[str, float]:
    command = [sys.executable, "play.py", str(run.resolve()), "--port", "0", "--device", device]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    figures: dict[str, float] = {}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = server.stdout.readline().split()[1]
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = chromium.new_page(viewport={"width": 1360, "height": 860})
            page.goto(address)
            page.wait_for_selector("#panes[data-step]")
            for place, button in (("world", "#world"), ("dream", "#dreamland")):
                page.click(button)
                page.click("#agent")
                page.wait_for_timeout(2000)
                figures[f"{place}: agent, steps/s"] = steps_per_second(page)
                latencies, figures[f"{place}: keys, steps/s"] = strike(page)
                figures[f"{place}: key to picture, ms, median"] = statistics.median(latencies)
                figures[f"{place}: key to picture, ms, 95 %"] = statistics.quantiles(latencies, n=20)[-1]
            chromium.close()
        server.terminate()
    return figures


def steps_per_second(page: Any, seconds: float = WATCH) -> float:
    count = "measured.steps"
    before, began = page.evaluate(f"[{count}, performance.now()]")
    page.wait_for_timeout(1000 * seconds)
    after, ended = page.evaluate(f"[{count}, performance.now()]")
    return 1000 * float(after - before) / float(ended - began)


def strike(page: Any) -> tuple[list[float], float]:
    """Milliseconds from each key to its picture, pressing and releasing; and steps per second meanwhile. The keys come
    at times that have nothing to do with the steps'.
    """
    page.evaluate("measured.latencies.length = 0")
    before, began = page.evaluate("[measured.steps, performance.now()]")
    for number in range(KEYS):
        key = ("ArrowLeft", "ArrowRight")[number % 2]
        page.keyboard.down(key)
        page.wait_for_timeout(1000 * HOLD + 7 * (number % 13))
        page.keyboard.up(key)
        page.wait_for_timeout(1000 * HOLD + 11 * (number % 7))
    after, ended = page.evaluate("[measured.steps, performance.now()]")
    latencies: list[float] = page.evaluate("measured.latencies")
    return latencies, 1000 * float(after - before) / float(ended - began)


if __name__ == "__main__":
    main()
