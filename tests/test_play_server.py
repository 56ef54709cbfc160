"""play.py and its server, without a browser: who may come in, who acts, what is told; and what is said of mistakes."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import runs
import tiny
from aiohttp import web
from test_contract_actors import make
from worlds_to_play import Picture, page

import evaluate
import export
import play
from training.configuration.components import ROOT
from viewer.messages import Command
from viewer.opening import Opened, open_run
from viewer.server import Server, Visitor
from viewer.session import Session

FACTS = dict(
    run="tiny", environment="pictures", has_env=True, model="rssm", actor="cem", size=[1, 16, 16], actions=2,
    discrete=False, meanings=[], env_steps=0, device="cpu", waits="waits",
)  # fmt: skip


def opened(env: Any = None) -> Opened:
    return Opened(Session(make("cem on rssm", tiny.SPEC), env or Picture(tiny.SPEC)), FACTS, lambda horizon: None)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with page(opened) as number:
        yield number


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("play")
    assert runs.go(folder, "train.env_steps=30", "train.eval_every=100") == 0
    return folder / "r"


def with_client(talk: Callable[[aiohttp.ClientSession], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with aiohttp.ClientSession() as client:
            return await asyncio.wait_for(talk(client), runs.HANG)

    return asyncio.run(run())


async def hear(visitor: aiohttp.ClientWebSocketResponse, wanted: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """The next message that is wanted; of pictures the header."""
    while True:
        message = await visitor.receive()
        assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), message
        if message.type == aiohttp.WSMsgType.BINARY:
            length = int.from_bytes(message.data[:4], "big")
            found = json.loads(message.data[4 : 4 + length])
            assert len(message.data) == 4 + length + sum(size for _, size in found["pictures"])
        else:
            found = json.loads(message.data)
        if wanted(found):
            return found


def of(kind: str, **values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda message: message["kind"] == kind and all(message[name] == value for name, value in values.items())


# ---- who may come in ----


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:{}"}, 200),
        ({"Host": "localhost:9"}, 200),  # through a tunnel, at another port
        ({"Host": "[::1]:{}"}, 200),
        ({"Host": "dream.example:{}"}, 403),
        ({"Host": "127.0.0.1.example"}, 403),
    ],
)
def test_only_this_machines_name_is_answered(port: int, headers: dict[str, str], status: int) -> None:
    async def ask(client: aiohttp.ClientSession) -> list[int]:
        given = {name: value.format(port) for name, value in headers.items()}
        found = []
        for path in ("/", "/page/main.js", "/socket"):
            async with client.get(f"http://127.0.0.1:{port}{path}", headers=given) as answer:
                found.append(answer.status)
        return found

    assert with_client(ask) == [status, status, 400 if status == 200 else 403]  # that was no websocket


@pytest.mark.parametrize(
    ("origin", "welcome"),
    [("http://127.0.0.1:{}", True), ("http://127.0.0.1:9", False), ("https://dream.example", False), ("null", False)],
)
def test_no_other_page_may_drive_it(port: int, origin: str, welcome: bool) -> None:
    async def ask(client: aiohttp.ClientSession) -> bool:
        headers = {"Origin": origin.format(port)}
        try:
            async with client.ws_connect(f"http://127.0.0.1:{port}/socket", headers=headers) as visitor:
                return (await hear(visitor, of("hello")))["run"] == "tiny"
        except aiohttp.WSServerHandshakeError as error:
            assert error.status == 403
            return False

    assert with_client(ask) is welcome


def test_nothing_but_the_page_is_served(port: int) -> None:
    async def ask(client: aiohttp.ClientSession) -> list[int]:
        found = []
        for path in ("/page/../server.py", "/page/%2e%2e/server.py", "/page/", "/etc/passwd", "/film.gif"):
            async with client.get(f"http://127.0.0.1:{port}{path}") as answer:
                found.append(answer.status)
        return found

    assert all(status in (403, 404) for status in with_client(ask))


# ---- who acts ----


def test_the_first_acts_the_second_watches_and_nothing_ends_when_a_page_is_closed(port: int) -> None:
    async def talk(client: aiohttp.ClientSession) -> None:
        place = f"http://127.0.0.1:{port}/socket"
        async with client.ws_connect(place) as first, client.ws_connect(place) as watcher:
            assert (await hear(watcher, of("role")))["acts"] is False
            await watcher.send_json({"speed": 40.0})  # is not heeded
            await first.send_json({"action": [0.5, -1], "heard": 7, "control": "human"})
            told = await hear(watcher, of("view", action=[0.5, -1.0], heard=7))
            await first.close()
            assert (await hear(watcher, of("role", visitors=1)))["acts"] is True
            await watcher.send_json({"speed": 60.0})
            heard = await hear(watcher, lambda message: message["kind"] == "state" and message["speed"] != 15)
            assert (heard["speed"], heard["control"]) == (60.0, "human")
        async with client.ws_connect(place) as later:
            assert len((await hear(later, of("hello")))["history"]) > 1
            assert (await hear(later, of("view")))["step"] >= told["step"]
            await later.send_json({"control": "agent", "speed": 15.0})
            await hear(later, of("state", control="agent"))

    with_client(talk)


def test_with_nobody_there_it_stands_still() -> None:
    async def talk() -> None:
        server = Server()
        player = server.player
        await player.open(opened)
        player.jobs.clear()
        try:
            for there in (True, False):
                server.visitors = [Visitor(web.WebSocketResponse())] * there
                server.greet()
                assert player.is_due() is there
        finally:
            await player.close()

    asyncio.run(talk())


def test_steps_that_were_asked_for_before_a_reset_are_not_taken_after_it() -> None:
    async def talk() -> None:
        player = Server().player
        await player.open(opened)
        player.paused = True
        try:
            for command in ({"step": True}, {"reset": 7}, {"step": True}):
                player.do(Command.model_validate(command))
            while player.jobs or player.is_due():
                await player.next()
            assert player.view is not None and player.view.step == 1
        finally:
            await player.close()

    asyncio.run(talk())


def test_every_switch_is_told_and_what_is_wrong_changes_nothing(port: int) -> None:
    async def talk(client: aiohttp.ClientSession) -> None:
        async with client.ws_connect(f"http://127.0.0.1:{port}/socket") as visitor:

            async def say(**command: Any) -> None:
                await visitor.send_json(command)

            await say(paused=True)
            await hear(visitor, of("state", paused=True))
            await say(reset=11)
            assert (await hear(visitor, of("state", seed=11)))["paused"]
            await hear(visitor, of("view", step=0))
            await say(step=True)
            await hear(visitor, of("view", step=1))
            await say(place="dream", temperature=0.5, horizon=3, open_loop=0, futures=False)
            await hear(visitor, of("state", place="dream", temperature=0.5, horizon=3, open_loop=0, futures=False))
            for wrong, why in (
                ({"speed": 0}, "speed: "), ({"action": [2.0, 0]}, "action.0: "), ({"action": [0.0]}, "2 numbers, not"),
                ({"folder": "/"}, "folder: "), ({"temperature": float("inf")}, ": "), ([], ": "),
            ):  # fmt: skip
                await visitor.send_str(json.dumps(wrong))
                assert why in (await hear(visitor, of("error")))["text"]
            await say(record=True, step=True)
            await hear(visitor, of("state", recording=True))
            await hear(visitor, of("view", step=2))
            await say(wake=True)
            await hear(visitor, of("view", eyes_closed=0))
            await say(record=False)
            await hear(visitor, of("state", recording=False))
            async with client.get(f"http://127.0.0.1:{port}/film.gif") as answer:
                assert answer.status == 200 and (await answer.read())[:6] == b"GIF89a"
                assert "tiny.gif" in answer.headers["Content-Disposition"]
            await say(place="world", temperature=1.0, open_loop=50, futures=True, paused=False)
            await hear(visitor, of("futures", considered=20))

    with_client(talk)


def test_an_environment_that_fails_is_told_and_one_can_still_dream() -> None:
    class Broken(Picture):
        def step(self, action: Any) -> Any:
            raise RuntimeError("the simulator is gone")

    async def talk(client: aiohttp.ClientSession, number: int) -> None:
        async with client.ws_connect(f"http://127.0.0.1:{number}/socket") as visitor:
            assert "the simulator is gone" in (await hear(visitor, of("error")))["text"]
            await hear(visitor, of("state", paused=True))
            await visitor.send_json({"place": "dream", "paused": False})
            await hear(visitor, of("view", step=2))

    with page(lambda: opened(Broken(tiny.SPEC))) as number:
        with_client(lambda client: talk(client, number))


# ---- opening, and mistakes ----


def test_a_run_and_an_agents_file_are_opened_with_and_without_an_environment(trained: Path, tmp_path: Path) -> None:
    with_env, alone = open_run(trained, "cpu"), open_run(trained, "cpu", use_env=False)
    assert with_env.facts["environment"] == "dot" and with_env.session.env is not None
    assert alone.session.env is None and alone.session.recorded is not None and alone.session.view().environment.any()
    changed = open_run(trained, "cpu", actor="mppi", overrides=["actor.horizon=4"])
    assert (changed.facts["actor"], changed.session.futures().horizon) == ("mppi", 4)
    changed.session.set_horizon(6, changed.with_horizon(6))
    assert changed.session.futures().horizon == 6
    assert evaluate.main([str(trained), "--device", "cpu", "--episodes", "1"]) == 0
    assert export.main([str(trained), str(tmp_path / "a.agent")]) == 0
    assert open_run(tmp_path / "a.agent", "cpu", use_env=False).session.step().eyes_closed == 1


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    capsys.readouterr()
    code = play.main(["--device", "cpu", *words])
    return code, capsys.readouterr().err


def test_mistakes_are_one_line(trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    code, text = said(capsys, str(trained.parent / "s"), "--port", "0")
    assert code == 1 and "is not a run" in text and text.count("\n") == 1
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        code, text = said(capsys, str(trained), "--port", str(number))
    assert code == 1 and text == f"error: port {number} is in use: choose another, --port {number + 1}\n"
    assert said(capsys, str(trained), "actor.horizen=3", "--port", "0")[0] == 2
    monkeypatch.delitem(sys.modules, "viewer.server", raising=False)
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    code, text = said(capsys, str(trained))
    assert code == 1 and text == f"error: {play.NEEDS_AIOHTTP}\n"


@pytest.mark.slow
def test_it_ends_quietly(trained: Path) -> None:
    command = [sys.executable, "play.py", str(trained), "--port", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert "http://127.0.0.1:" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=runs.HANG) == ("", "") and process.returncode == 0
