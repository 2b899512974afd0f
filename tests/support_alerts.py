"""Those that alerts go to: a mail server and a web server of the test's own, which a test can have refuse or to hang."""

from __future__ import annotations

import asyncio
import contextlib
import email
import email.policy
import json
import socket
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiosmtpd.controller import Controller

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from email.message import EmailMessage


@dataclass
class Post:
    """A mail server that keeps what it takes."""

    port: int = 0
    mails: list[EmailMessage] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    #: What it answers to a mail; "" takes it.
    refusal: str = ""

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - the library's name
        if self.refusal:
            return self.refusal
        self.recipients.append(list(envelope.rcpt_tos))
        self.mails.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
        return "250 taken"

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.port}"


@contextlib.contextmanager
def post_office(tls: ssl.SSLContext | None = None) -> Iterator[Post]:
    """`tls`: it offers STARTTLS, and takes no mail without."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        # The library connects to the port that it was given.
        post = Post(port=free.getsockname()[1])
    more: dict[str, Any] = {"tls_context": tls, "require_starttls": True} if tls else {}
    controller = Controller(post, hostname="127.0.0.1", port=post.port, **more)
    controller.start()
    try:
        yield post
    finally:
        controller.stop()


@dataclass
class Web:
    """A web server that keeps what is posted."""

    port: int = 0
    #: (path, body) of each request.
    received: list[tuple[str, bytes]] = field(default_factory=list)
    status: int = 200
    hangs: bool = False
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    freed: asyncio.Event = field(default_factory=asyncio.Event)
    #: Called when a request is there, before it is answered.
    taken: Callable[[], object] = lambda: None

    def free(self) -> None:
        """Let what hangs be answered."""
        self.loop.call_soon_threadsafe(self.freed.set)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def bodies(self, path: str) -> list[bytes]:
        return [body for where, body in self.received if where == path]

    def at(self, path: str) -> list[str]:
        return [body.decode() for body in self.bodies(path)]

    def json(self, path: str) -> list[Any]:
        return [json.loads(body) for body in self.at(path)]


@contextlib.contextmanager
def web_server() -> Iterator[Web]:
    found, ready, end = Web(), threading.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        body = await request.read()
        if found.hangs:
            await found.freed.wait()
        found.received.append((request.path_qs, body))
        found.taken()
        return web.Response(status=found.status, text="no" if found.status >= 300 else "ok")

    async def serve() -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        found.port = runner.addresses[0][1]
        ready.set()
        await end.wait()
        await runner.cleanup()

    thread = threading.Thread(target=found.loop.run_until_complete, args=(serve(),))
    thread.start()
    ready.wait()
    try:
        yield found
    finally:
        found.free()
        found.loop.call_soon_threadsafe(end.set)
        thread.join()
        found.loop.close()
