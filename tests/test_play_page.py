"""play.py's page in a real browser: Chromium of the distribution, through playwright."""

import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import test_play_server
import tiny
from PIL import Image
from test_contract_actors import make
from worlds_to_play import Picture, page

from envs.errors import EnvError
from viewer.opening import Opened
from viewer.session import Session
from viewer.world import Rebuilt
from worldmodel.base import Spec

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium"),
]
MANY = Spec((3, 16, 24), 6, False)
PATIENCE = 600_000  # milliseconds after which a page hangs, however busy the machine is


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        options = ["--no-sandbox"]  # which root needs; what is opened here is our own
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield started
        started.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """A new page at a port. Anything in its console fails the test."""
    complaints: list[str] = []
    pages = []

    def open(port: int, **options: Any) -> Any:
        tab = browser.new_page(viewport={"width": 1360, "height": 860}, **options)
        tab.set_default_timeout(PATIENCE)
        tab.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.goto(f"http://127.0.0.1:{port}/")
        tab.wait_for_selector("#panes[data-step]")
        pages.append(tab)
        return tab

    yield open
    for tab in pages:
        tab.close()
    assert complaints == []


def opened(spec: Spec = tiny.SPEC, actor: str = "cem on rssm") -> Opened:
    facts = test_play_server.FACTS | {
        "size": list(spec.image_shape), "actions": spec.action_dim, "discrete": spec.discrete, "actor": actor,
    }  # fmt: skip
    session = Session(make(actor, spec), Picture(spec))
    return Opened(session, facts, lambda horizon: None)


def named(meanings: list[str]) -> Opened:
    """With discrete actions that have names."""
    session, facts, with_horizon = opened(Spec((3, 16, 16), len(meanings), True))
    return Opened(session, facts | {"meanings": meanings}, with_horizon)


def shown(tab: Any, name: str) -> str:
    """What a canvas shows."""
    drawn: str = tab.evaluate(f"document.getElementById('{name}').toDataURL()")
    return drawn


def until(tab: Any, condition: str) -> None:
    tab.wait_for_function(condition)


def action(tab: Any) -> list[float]:
    """What the page says was done."""
    return [float(text) for text in tab.locator(".dimension output").all_inner_texts()]


def test_one_watches_takes_control_dreams_and_takes_a_film_home(visit: Any, tmp_path: Path) -> None:
    with page(opened) as port:
        tab = visit(port)
        assert tab.title() == "tiny" and tab.inner_text("#role").startswith("in control")
        seen = {name: shown(tab, name) for name in ("environment", "reconstruction", "dream")}
        until(tab, "document.getElementById('says-futures').textContent.includes('candidates')")
        for name, picture in seen.items():
            tab.wait_for_function(
                "([name, old]) => document.getElementById(name).toDataURL() !== old", arg=[name, picture]
            )
        tab.keyboard.down("ArrowRight")
        tab.keyboard.down("ArrowUp")
        until(tab, "document.querySelector('.dimension output').textContent === '1.00'")
        assert tab.get_attribute("#human", "aria-pressed") == "true"
        until(tab, "document.querySelectorAll('.dimension output')[1].textContent === '1.00'")
        tab.keyboard.up("ArrowUp")
        until(tab, "document.querySelectorAll('.dimension output')[1].textContent === '0.00'")
        tab.keyboard.up("ArrowRight")
        until(tab, "measured.latencies.length > 2")
        tab.keyboard.press("x")
        until(tab, "document.getElementById('says-environment').textContent === 'waits'")
        asleep, dreaming = shown(tab, "environment"), shown(tab, "dream")
        tab.wait_for_function("(old) => document.getElementById('dream').toDataURL() !== old", arg=dreaming)
        assert shown(tab, "environment") == asleep
        tab.keyboard.press("Enter")
        until(tab, "document.getElementById('agent').getAttribute('aria-pressed') === 'true'")
        tab.click("#record")
        until(tab, "document.getElementById('record').getAttribute('aria-pressed') === 'true'")
        step = int(tab.get_attribute("#panes", "data-step"))
        until(tab, f"document.getElementById('panes').dataset.step > {step + 2}")
        with tab.expect_download() as download:
            tab.click("#record")
        download.value.save_as(tmp_path / "film.gif")
        with Image.open(tmp_path / "film.gif") as film:
            assert film.n_frames >= 2 and download.value.suggested_filename == "tiny.gif"  # type: ignore[attr-defined]


def test_switches_say_what_is_and_single_steps_are_single(visit: Any) -> None:
    with page(opened) as port:
        tab = visit(port)
        tab.keyboard.press(" ")
        until(tab, "document.getElementById('pause').getAttribute('aria-pressed') === 'true'")
        tab.keyboard.press(".")  # away from step 0, where the first episode may still be
        until(tab, "document.getElementById('panes').dataset.step > 0")
        tab.fill("#seed", "7")
        tab.keyboard.press("Enter")
        until(tab, "document.getElementById('panes').dataset.step === '0'")
        begun = shown(tab, "environment")
        for step in (1, 2):
            tab.keyboard.press(".")
            until(tab, f"document.getElementById('panes').dataset.step === '{step}'")
        tab.keyboard.down("ArrowLeft")  # a key that is struck while it is paused is one step
        until(tab, "document.getElementById('panes').dataset.step === '3'")
        tab.keyboard.up("ArrowLeft")
        assert action(tab)[0] == -1
        tab.click("#reset")
        until(tab, "document.getElementById('panes').dataset.step === '0'")
        assert shown(tab, "environment") == begun
        tab.locator("#temperature").fill("0.5")
        until(tab, "document.getElementById('temperature').nextElementSibling.textContent === '0.50'")
        tab.click("#theme")


def test_a_second_visitor_watches_until_the_first_leaves(visit: Any) -> None:
    with page(opened) as port:
        first, second = visit(port), visit(port)
        until(second, "document.getElementById('role').textContent === 'watching · 2 pages'")
        assert second.is_disabled("#human") and not first.is_disabled("#human")
        second.keyboard.press("ArrowRight")
        step = int(second.get_attribute("#panes", "data-step"))
        until(second, f"document.getElementById('panes').dataset.step > {step + 1}")
        assert second.get_attribute("#agent", "aria-pressed") == "true"
        first.keyboard.down("ArrowUp")
        until(first, "document.querySelectorAll('.dimension output')[1].textContent === '1.00'")
        first.close()
        until(second, "document.querySelectorAll('.dimension output')[1].textContent === '0.00'")
        until(second, "document.getElementById('role').textContent === 'in control'")
        second.keyboard.down("ArrowRight")
        until(second, "document.querySelector('.dimension output').textContent === '1.00'")


def test_six_dimensions_have_keys_buttons_and_sliders(visit: Any) -> None:
    with page(functools.partial(opened, MANY)) as port:
        tab = visit(port)
        tab.keyboard.down("l")
        until(tab, "document.querySelectorAll('.dimension output')[4].textContent === '1.00'")
        tab.keyboard.up("l")
        tab.check("#sticky")
        minus = tab.locator(".dimension").nth(5).locator("button").nth(1)
        assert minus.inner_text().endswith("K")
        minus.click()
        until(tab, "document.querySelectorAll('.dimension output')[5].textContent === '-1.00'")
        tab.locator(".dimension input").nth(2).fill("0.5")
        until(tab, "document.querySelectorAll('.dimension output')[2].textContent === '0.50'")
        assert action(tab) == [0, 0, 0.5, 0, 0, -1]
        tab.uncheck("#sticky")
        tab.locator(".dimension .name").first.click()  # its keys are swapped
        tab.keyboard.down("ArrowRight")
        until(tab, "document.querySelector('.dimension output').textContent === '-1.00'")


def test_keys_mean_what_an_environment_calls_its_actions(visit: Any) -> None:
    meanings = ["NOOP", "FIRE", "UP", "RIGHT", "UPRIGHT"]
    with page(lambda: named(meanings)) as port:
        tab = visit(port)
        assert tab.locator("#controls button").all_inner_texts()[2].split() == ["up", "3", "↑"]
        for key, taken in (("ArrowUp", 2), ("ArrowRight", 4)):  # the second with the first still down
            tab.keyboard.down(key)
            until(tab, f"document.querySelectorAll('#controls button')[{taken}].classList.contains('taken')")
        for key, taken in (("ArrowUp", 3), ("ArrowRight", 0)):
            tab.keyboard.up(key)
            until(tab, f"document.querySelectorAll('#controls button')[{taken}].classList.contains('taken')")
        tab.keyboard.down("3")
        until(tab, "document.querySelectorAll('#controls button')[2].classList.contains('taken')")
        # Shift changes what a key writes: it is let go all the same
        tab.evaluate("dispatchEvent(new KeyboardEvent('keyup', {code: 'Digit3', key: '#'}))")
        until(tab, "document.querySelectorAll('#controls button')[0].classList.contains('taken')")


def test_discrete_actions_have_keys_and_buttons_also_on_a_small_touch_screen(visit: Any) -> None:
    with page(functools.partial(opened, tiny.DISCRETE, "dreamer_v3 on dreamer_v3")) as port:
        tab = visit(port, has_touch=True)
        tab.set_viewport_size({"width": 390, "height": 800})
        until(tab, "!document.getElementById('has-value').hidden")
        tab.keyboard.down("3")
        until(tab, "document.querySelectorAll('#controls button')[2].classList.contains('taken')")
        tab.keyboard.up("3")
        until(tab, "document.querySelectorAll('#controls button')[0].classList.contains('taken')")
        tab.check("#sticky")
        tab.locator("#controls button").nth(1).tap()
        until(tab, "document.querySelectorAll('#controls button')[1].classList.contains('taken')")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_key_that_is_let_go_while_the_agent_acts_is_let_go(visit: Any) -> None:
    with page(opened) as port:
        tab = visit(port)
        tab.keyboard.down("ArrowRight")
        until(tab, "document.querySelector('.dimension output').textContent === '1.00'")
        tab.keyboard.press("Enter")
        until(tab, "document.getElementById('agent').getAttribute('aria-pressed') === 'true'")
        tab.keyboard.up("ArrowRight")
        tab.keyboard.press("Enter")
        until(tab, "document.getElementById('human').getAttribute('aria-pressed') === 'true'")
        until(tab, "document.querySelector('.dimension output').textContent === '0.00'")


def test_every_film_is_taken_home_also_a_shorter_one(visit: Any) -> None:
    with page(opened) as port:
        tab = visit(port)
        for steps in (6, 2):
            tab.click("#record")
            until(tab, "document.getElementById('record').getAttribute('aria-pressed') === 'true'")
            step = int(tab.get_attribute("#panes", "data-step"))
            until(tab, f"document.getElementById('panes').dataset.step > {step + steps}")
            with tab.expect_download():
                tab.click("#record")


def test_an_error_is_shown_until_one_goes_on(visit: Any) -> None:
    failed: list[int] = []

    class Flaky(Picture):
        def step(self, action: Any) -> Any:
            if len(self.actions) == 3 and not failed:
                failed.append(self.seed)
                raise EnvError("the simulator is gone")
            return super().step(action)

    def flaky() -> Opened:
        session, facts, with_horizon = opened()
        played = Session(session.agent, Rebuilt(lambda: Flaky(tiny.SPEC), "flaky"))
        return Opened(played, facts | {"has_env": True}, with_horizon)

    with page(flaky) as port:
        tab = visit(port)
        tab.wait_for_selector("#error:not([hidden])")
        assert "the simulator is gone" in tab.inner_text("#error")
        tab.keyboard.press(" ")
        until(tab, "document.getElementById('panes').dataset.step > 3")
        assert not tab.is_visible("#error") and tab.input_value("#seed") == "1"
