"""What TensorBoard shows when it is opened, in a browser."""

import shutil
from collections.abc import Iterator

import pytest
import runs

from benchmarks import tensorboard_page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("chromium"), reason="there is no chromium here"),
]
playwright = pytest.importorskip("playwright.sync_api")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("page")
    assert runs.go(folder, "env.time_limit=12", "train.env_steps=24") == 0
    with tensorboard_page.served(folder, "r") as found:
        yield found


def test_it_opens_on_returns_films_and_what_is_learned(address: str) -> None:
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1400, "height": 5000})  # cards are made where they are seen
        page.set_default_timeout(1000 * runs.HANG)
        wrong: list[str] = []
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.goto(address)
        page.wait_for_selector("metrics-card-groups .group-title")
        groups = page.locator("metrics-card-groups .group-title").all_inner_texts()
        assert groups == ["evaluate", "learn", "over_updates", "run"]
        page.wait_for_selector("metrics-card-groups image-card img")
        page.wait_for_selector('metrics-card-groups card-view:has-text("/loss_image")')
        cards = page.locator("metrics-card-groups card-view").all_inner_texts()
        colours = page.evaluate(MARGINS)
        chromium.close()
    names = ["".join(text.split("\n")[:2]) for text in cards]  # which are written in two parts
    assert names[:3] == ["evaluate/return", "evaluate/rollout/dream", "evaluate/rollout/episode"]
    assert any(name.startswith("learn/dream/") for name in names)
    assert not any(name.startswith(("over_updates/", "run/")) for name in names), "folded away"
    assert len(colours) == 2 and all(colour in ([64, 191, 89], [230, 51, 51]) for colour in colours)
    assert wrong == []


MARGINS = """() => [...document.querySelectorAll('metrics-card-groups image-card img')].map(image => {
    const canvas = Object.assign(document.createElement('canvas'), {width: 1, height: 1});
    const context = canvas.getContext('2d');
    context.drawImage(image, 0, 0);
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
})"""
