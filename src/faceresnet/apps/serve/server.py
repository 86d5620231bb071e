"""Sockets, workers and signals: the service as a running program."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import re
import signal
import socket
import ssl
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.supervisors.multiprocess import Multiprocess

from faceresnet.apps.serve.app import create_app
from faceresnet.apps.serve.connections import Connection, Unread, bounded
from faceresnet.apps.serve.metrics import MULTIPROCESS_VARIABLE, forget_worker
from faceresnet.apps.serve.settings import Settings, threads_each
from faceresnet.detector import FaceDetector
from faceresnet.errors import FaceResNetError, reason

#: How long Python lets one thread keep the interpreter while others wait, in seconds. At its usual
#: 5 ms a batch that is done waits for whatever the event loop is at.
SWITCH_S = 0.001
#: Paths that a proxy can take off.
_ROOT_PATH = re.compile(r"(/[^/?#%\s]+)*", re.ASCII)


@dataclass(frozen=True)
class Listening:
    """Where and how the service listens.

    Attributes:
        host: address or name to listen at.
        port: 0 takes a free one.
        workers: processes.
        access_log: print a line for each request.
        root_path: path that a proxy in front takes off.
        certificate, key: PEM files; with them the service speaks https.

    Raises:
        ValueError: `root_path` is no path.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    access_log: bool = False
    root_path: str = ""
    certificate: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        if not (self.root_path.isascii() and _ROOT_PATH.fullmatch(self.root_path)):
            raise ValueError(
                f"root_path must begin with a slash and not end with one, as in /faces, "
                f"got '{self.root_path}'"
            )


def open_detector(settings: Settings) -> FaceDetector:
    """Open what the settings ask for.

    Raises:
        ValueError, ModelError, EngineError, MissingExtraError: as `FaceDetector`.
    """
    return FaceDetector(
        settings.model,
        threshold=settings.threshold,
        max_side=settings.max_side,
        crowds=settings.crowds,
        engine=settings.engine,
        device=settings.device,
        threads=settings.threads,
        batch_size=settings.batch_size,
    )


def worker_app(settings: Settings) -> ASGIApp:
    """The application of one of several workers, in its own process."""
    sys.setswitchinterval(SWITCH_S)
    threading.Thread(target=_leave_with_parent, name="parent", daemon=True).start()
    return Unread(create_app(settings, partial(open_detector, settings)), settings.max_bytes)


def _leave_with_parent() -> None:
    """End this worker when its parent has, even if it was killed: nobody else would."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def serve(settings: Settings, listening: Listening, started: Callable[[str], None] = print) -> None:
    """Serve until SIGTERM or SIGINT; requests in work are answered first.

    Args:
        settings: of the service; `threads` are those of all workers together.
        listening: where, and with how many workers.
        started: called with the service's address when the socket is open.

    Raises:
        FaceResNetError: the address cannot be listened at, the certificate not be used, or the
            model not be loaded.
        ValueError: an argument is out of its range.
    """
    threads = threads_each(listening.workers, settings.threads)
    settings = replace(settings, threads=threads)
    # What cannot be loaded is refused here, in one line, and not by every worker.
    _check_certificate(listening)
    detector = open_detector(settings)
    with _listen(listening) as listener:
        scheme = "https" if listening.certificate else "http"
        started(f"{scheme}://{_shown(listening.host)}:{listener.getsockname()[1]}")
        if listening.workers == 1:
            sys.setswitchinterval(SWITCH_S)
            app = Unread(create_app(settings, lambda: detector), settings.max_bytes)
            server = uvicorn.Server(_config(app, settings, listening))
            # Afterwards uvicorn hands the signal on to whoever had it before: to itself, so that
            # a service that was asked to end has ended well.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, server.handle_exit)
            server.run([listener])
        else:
            del detector
            _serve_by_workers(settings, listening, listener)


def _serve_by_workers(settings: Settings, listening: Listening, listener: socket.socket) -> None:
    with tempfile.TemporaryDirectory(prefix="faceresnet-metrics-") as counts:
        os.environ[MULTIPROCESS_VARIABLE] = counts
        try:
            app = partial(worker_app, settings)
            _Workers(_config(app, settings, listening, factory=True), [listener]).run()
        finally:
            del os.environ[MULTIPROCESS_VARIABLE]


class _Workers(Multiprocess):
    """uvicorn's supervisor, which replaces workers that die; what they held counts no more."""

    def keep_subprocess_alive(self) -> None:
        before = {process.pid for process in self.processes}
        super().keep_subprocess_alive()
        for pid in before - {process.pid for process in self.processes}:
            if pid is not None:
                forget_worker(pid)


def _config(
    app: ASGIApp | partial[ASGIApp],
    settings: Settings,
    listening: Listening,
    *,
    factory: bool = False,
) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        factory=factory,
        workers=listening.workers,
        access_log=listening.access_log,
        log_level="info" if listening.access_log else "warning",
        root_path=listening.root_path,
        loop="asyncio",  # others take connections past `Listener`
        # It is called as the class is.
        http=cast(type[asyncio.Protocol], partial(Connection, timeout_s=settings.timeout_s)),
        ssl_certfile=listening.certificate,
        ssl_keyfile=listening.key,
        ws="none",
        lifespan="on",
        server_header=False,
        timeout_graceful_shutdown=ceil(settings.timeout_s) + 5,
    )


def _check_certificate(listening: Listening) -> None:
    if listening.certificate is None:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(listening.certificate, listening.key)
    except OSError as error:  # an SSLError, too
        raise FaceResNetError(
            f"cannot speak https with the certificate {listening.certificate} and the key "
            f"{listening.key}: {reason(error)}; expected two PEM files that belong together"
        ) from error


def _listen(listening: Listening) -> socket.socket:
    """Open the socket, before anything else: a port that is taken is known at once."""
    family = socket.AF_INET6 if ":" in listening.host else socket.AF_INET
    try:
        listener = socket.create_server(
            (listening.host, listening.port), family=family, backlog=2048
        )
    except (OSError, OverflowError) as error:
        raise FaceResNetError(
            f"cannot listen at {listening.host}, port {listening.port}: {reason(error)}; "
            "choose others with --host and --port (0 takes a free port)"
        ) from error
    listener.set_inheritable(True)
    return bounded(listener)


def _shown(host: str) -> str:
    """A host as it stands in an address."""
    return f"[{host}]" if ":" in host else host
