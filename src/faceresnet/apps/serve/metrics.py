"""What Prometheus reads at /metrics.

One process counts in memory. Several workers count in files of a folder that they share
(`MULTIPROCESS_VARIABLE`, prometheus_client's own), so that any of them can answer for all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Where workers count together; read by prometheus_client when it is first imported.
MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

REQUEST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
STEP_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class Metrics:
    """Counters of one worker.

    Attributes:
        requests: by path, method and status.
        request_s: time of a request, by path.
        refused: requests turned down, by code.
        images, faces: looked at and found.
        read_s, detect_s: time to decode a photo, and to look at a batch.
        batch: images in a batch.
        held, ready: photos waiting or in work; workers that are ready.
    """

    def __init__(self) -> None:
        from prometheus_client import (
            CollectorRegistry,
            Counter,
            Gauge,
            Histogram,
            PlatformCollector,
            ProcessCollector,
        )

        self._registry = registry = CollectorRegistry()
        counter = partial(Counter, registry=registry)
        histogram = partial(Histogram, registry=registry)
        gauge = partial(Gauge, registry=registry, multiprocess_mode="livesum")
        self.requests = counter(
            "faceresnet_requests",
            "Requests, by path, method and status.",
            ["path", "method", "status"],
        )
        self.request_s = histogram(
            "faceresnet_request_seconds",
            "Time from the head of a request to the end of its answer.",
            ["path"],
            buckets=REQUEST_S,
        )
        self.refused = counter("faceresnet_refused", "Requests turned down, by code.", ["code"])
        self.images = counter("faceresnet_images", "Photos looked at.")
        self.faces = counter("faceresnet_faces", "Faces found.")
        self.read_s = histogram(
            "faceresnet_read_seconds", "Time to decode a photo.", buckets=STEP_S
        )
        self.detect_s = histogram(
            "faceresnet_detect_seconds", "Time to look at a batch.", buckets=STEP_S
        )
        self.batch = histogram(
            "faceresnet_batch_images", "Photos in a batch.", buckets=(1, 2, 4, 8, 16, 32)
        )
        self.held = gauge("faceresnet_held_images", "Photos waiting or in work.")
        self.ready = gauge("faceresnet_ready_workers", "Workers whose model is loaded.")
        if not os.environ.get(MULTIPROCESS_VARIABLE):  # workers cannot answer for one another
            ProcessCollector(registry=registry)
            PlatformCollector(registry=registry)

    def text(self) -> tuple[bytes, str]:
        """What Prometheus reads, and its content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = self._registry
        if os.environ.get(MULTIPROCESS_VARIABLE):
            registry = CollectorRegistry()
            collector: Any = MultiProcessCollector  # it has no types
            collector(registry)
        return generate_latest(registry), CONTENT_TYPE_LATEST

    def close(self) -> None:
        """Take this worker out of what all of them report."""
        if os.environ.get(MULTIPROCESS_VARIABLE):
            forget_worker(os.getpid())


def forget_worker(pid: int) -> None:
    """Take a worker that ended out of what all of them report; its counts stay."""
    from prometheus_client.multiprocess import mark_process_dead

    forget: Any = mark_process_dead  # it has no types
    forget(pid)


class Counted:
    """ASGI: counts requests, adds headers to every answer, and lets HEAD have what GET has.

    Args:
        app: what answers.
        metrics: where to count.
        headers: added to every answer that has not got them.
        refresh: called after each request.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        headers: dict[str, str],
        refresh: Callable[[], None],
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._headers = [(name.lower().encode(), text.encode()) for name, text in headers.items()]
        self._refresh = refresh

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # The server leaves the body out (RFC 9110 §9.3.2), by the scope that it knows.
        asked = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        start = time.perf_counter()
        status = 499  # as nginx calls it: nobody was there to be answered

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(header for header in self._headers if header[0] not in given),
                ]
            await send(message)

        try:
            await self._app(asked, receive, send_counted)
        except Exception:
            status = 500
            raise
        finally:
            # Only paths that exist: strangers could fill the memory with names otherwise.
            path = getattr(asked.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in ("GET", "POST", "HEAD") else "other"
            self._metrics.requests.labels(path, method, str(status)).inc()
            self._metrics.request_s.labels(path).observe(time.perf_counter() - start)
            self._refresh()
