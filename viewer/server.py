"""The page, on this machine alone: aiohttp, and a websocket for each visitor.

The first visitor acts and the others watch; when the one who acts leaves, the next one does. A closed page ends
nothing: without visitors the session stands still until somebody comes again.

Whoever can reach the port may look. What may not happen is that another page in the same browser drives this one: so a
request must name this machine as its host (which a page of a foreign name, led here by DNS, does not), and a websocket
must come from this very page (which every browser tells truly).
"""

import asyncio
import contextlib
import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import ClientConnectionError, WSMsgType, web
from pydantic import ValidationError

from viewer.messages import Command
from viewer.opening import Opened
from viewer.player import Player

PAGE = Path(__file__).parent / "page"
HERE = ("127.0.0.1", "localhost", "::1")
LARGEST_MESSAGE = 64 * 1024  # bytes, from a page


class Visitor:
    """One open page. Of each kind of message only the newest is sent: a slow line must not fall behind."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self.socket = socket
        self.waiting: dict[str, bytes | str] = {}
        self.news = asyncio.Event()

    def tell(self, kind: str, message: bytes | dict[str, Any]) -> None:
        self.waiting[kind] = message if isinstance(message, bytes) else json.dumps(message, allow_nan=False)
        self.news.set()

    async def deliver(self) -> None:
        """Until the page is gone."""
        with contextlib.suppress(ClientConnectionError, ConnectionError):
            while True:
                await self.news.wait()
                self.news.clear()
                while self.waiting:
                    message = self.waiting.pop(next(iter(self.waiting)))
                    if isinstance(message, bytes):
                        await self.socket.send_bytes(message)
                    else:
                        await self.socket.send_str(message)


class Server:
    def __init__(self, speed: float = 15.0) -> None:
        self.visitors: list[Visitor] = []  # the first one acts
        self.player = Player(self.tell, speed)

    def tell(self, kind: str, message: bytes | dict[str, Any]) -> None:
        for visitor in self.visitors:
            visitor.tell(kind, message)

    def application(self) -> web.Application:
        app = web.Application(middlewares=[only_this_machine])
        app.router.add_get("/", page)
        app.router.add_get("/socket", self.visit)
        app.router.add_get("/film.gif", self.film)
        app.router.add_static("/page", PAGE)
        return app

    async def visit(self, request: web.Request) -> web.WebSocketResponse:
        """One page, from its opening to its end."""
        origin = request.headers.get("Origin")  # only programs that are no browsers send none
        if origin is not None and urlsplit(origin).netloc != request.host:
            raise web.HTTPForbidden(text="this page is not that one's to drive\n")
        pipe = web.WebSocketResponse(max_msg_size=LARGEST_MESSAGE, heartbeat=30, compress=False)
        await pipe.prepare(request)
        visitor, player = Visitor(pipe), self.player
        self.visitors.append(visitor)
        sending = asyncio.create_task(visitor.deliver())
        visitor.tell("hello", {"kind": "hello", **player.facts, "history": list(player.history)})
        self.greet()
        player.jobs.append(player.session.view)  # so that there is something to see, also while it is paused
        player.changed.set()
        try:
            async for message in pipe:
                if message.type == WSMsgType.TEXT and visitor is self.visitors[0]:
                    self.heed(visitor, message.data)
        finally:
            if visitor is self.visitors[0]:
                player.let_go()
            self.visitors.remove(visitor)
            sending.cancel()
            self.greet()
        return pipe

    def greet(self) -> None:
        """Somebody came or left: who acts, and how many there are."""
        for number, visitor in enumerate(self.visitors):
            visitor.tell("role", {"kind": "role", "acts": number == 0, "visitors": len(self.visitors)})
        self.player.watched = bool(self.visitors)
        self.player.tell_state(anew=True)

    def heed(self, visitor: Visitor, text: str) -> None:
        """Do what a page asks for, or tell it what is wrong with that."""
        try:
            self.player.do(Command.model_validate_json(text))
        except ValidationError as error:
            first = error.errors()[0]
            visitor.tell("error", {"kind": "error", "text": f"{'.'.join(map(str, first['loc']))}: {first['msg']}"})
        except ValueError as error:
            visitor.tell("error", {"kind": "error", "text": str(error)})

    async def film(self, request: web.Request) -> web.Response:
        """The newest recording."""
        film, name = self.player.film, self.player.facts["run"]
        if film is None:
            raise web.HTTPNotFound(text="nothing was recorded yet\n")
        animation = await asyncio.to_thread(film.gif, self.player.speed)
        headers = {"Content-Disposition": f'attachment; filename="{name}.gif"', "Cache-Control": "no-store"}
        return web.Response(body=animation, content_type="image/gif", headers=headers)


async def page(request: web.Request) -> web.FileResponse:
    return web.FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})


@web.middleware
async def only_this_machine(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """By the name under which it was asked for: a foreign one is another page's doing."""
    if urlsplit(f"//{request.host}").hostname not in HERE:
        raise web.HTTPForbidden(text=f"open it as http://127.0.0.1, not as {request.host}\n")
    return await handler(request)


async def serve(opening: Callable[[], Opened], port: int, ready: Callable[[int], Any], ended: asyncio.Event) -> None:
    """Until `ended` is set. ready: is told the port. Errors: those of opening; OSError if the port is in use."""
    listening = socket.create_server(("127.0.0.1", port))  # before anything is loaded: it may be in use
    server = Server()
    runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=1.0)
    try:
        await server.player.open(opening)
        await runner.setup()
        await web.SockSite(runner, listening).start()
        ready(listening.getsockname()[1])
        playing, waiting = asyncio.create_task(server.player.play()), asyncio.create_task(ended.wait())
        await asyncio.wait({playing, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if playing.done():
            playing.result()  # which raises: it never ends by itself
        playing.cancel()
    finally:
        for visitor in [*server.visitors]:
            await visitor.socket.close()
        await runner.cleanup()
        await server.player.close()
        listening.close()
