"""Connections: how many there may be, and how long a client may take when it is its turn."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from contextlib import suppress
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

logger = logging.getLogger("faceresnet.serve")

#: Part of the file descriptors of a process that connections may take; the rest is for the files
#: of the process itself and for addresses that it fetches.
SHARE = 0.75
#: Time between two lines that say that there are too many connections, s.
TELL_S = 60.0
#: How long to go on reading from a client that was answered before its body had come, s.
LINGER_S = 2.0


class Listener(socket.socket):
    """Hangs up on clients when the file descriptors run short.

    Without any left, asyncio asks again and again and prints every time, and nobody is answered.

    Args:
        fileno: of a socket that listens; from now on it belongs to this one.
    """

    def __init__(self, fileno: int) -> None:
        super().__init__(fileno=fileno)
        self._end = _descriptors()
        self._told_s = float("-inf")

    def accept(self) -> tuple[socket.socket, Any]:
        """Take a connection.

        Raises:
            ConnectionAbortedError: there are too many, and it was hung up on.
        """
        connection, address = super().accept()
        # The number of a new descriptor is the lowest that is free.
        if connection.fileno() < self._end:
            return connection, address
        connection.close()
        self._tell()
        raise ConnectionAbortedError("too many connections")

    def _tell(self) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s >= TELL_S:
            self._told_s = now_s
            logger.warning(
                "too many connections: new ones are hung up on; more need a higher ulimit -n"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """How a worker gets it, as multiprocessing passes on other sockets."""
        from multiprocessing.reduction import DupFd  # not on Windows

        return _from_parent, (DupFd(self.fileno()),)


def _from_parent(handle: Any) -> Listener:
    return Listener(handle.detach())


def bounded(listener: socket.socket) -> socket.socket:
    """The same socket, as one that takes no more connections than the process can have."""
    return Listener(listener.detach()) if os.name == "posix" else listener


def _descriptors() -> float:
    """Number of the first file descriptor that is not for a connection."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return float("inf") if soft == resource.RLIM_INFINITY else soft * SHARE


class Connection(H11Protocol):
    """HTTP/1.1, with an end to waiting for the client.

    For the head of a request, and for the client to take what is sent to it, there is `timeout_s`;
    uvicorn itself has a limit only between requests. Bodies are the application's affair.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        timeout_s: float,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._timeout_s = timeout_s
        self._end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request."""
        super().connection_made(transport)
        self._look()

    def data_received(self, data: bytes) -> None:
        """Take bytes of the client."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """Wait for the next request, unless it is there already."""
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        """Wait for the client to take what is there for it."""
        super().pause_writing()
        self._look()

    def resume_writing(self) -> None:
        """Go on."""
        super().resume_writing()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        super().connection_lost(exc)
        self._stop()

    def _look(self) -> None:
        """See whose turn it is, and time the client's."""
        in_work = self.cycle is not None and not self.cycle.response_complete
        if in_work and not self.flow.write_paused:
            self._stop()
        elif self._end is None:
            self._end = self.loop.call_later(self._timeout_s, self.transport.abort)

    def _stop(self) -> None:
        if self._end is not None:
            self._end.cancel()
            self._end = None


class Unread:
    """ASGI: ends a connection when a request is answered before its body has come whole.

    The server would go on reading it for ever. The client is told (``Connection: close``), and
    read from for `LINGER_S` at most: where one hangs up on a client that sends, the answer can
    get lost.

    Args:
        app: what answers.
        linger_bytes: of the body that are read at most, after the answer.
    """

    def __init__(self, app: ASGIApp, linger_bytes: int) -> None:
        self._app, self._linger_bytes = app, linger_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        unread, closing = _has_body(scope), False

        async def receive_noted() -> Message:
            nonlocal unread
            message = await receive()
            unread = message.get("more_body", False)
            return message

        async def send_noted(message: Message) -> None:
            nonlocal closing
            if message["type"] == "http.response.start" and unread:
                closing = True
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            elif closing:  # after the last part the server hangs up
                message = {**message, "more_body": True}
            await send(message)

        await self._app(scope, receive_noted, send_noted)
        if closing:
            await self._linger(receive)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _linger(self, receive: Receive) -> None:
        size = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while size < self._linger_bytes:
                    message = await receive()
                    size += len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return


def _has_body(scope: Scope) -> bool:
    headers = dict(scope["headers"])
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
