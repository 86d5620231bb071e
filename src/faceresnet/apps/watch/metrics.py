"""Numbers for Prometheus: what the cameras send, what is found, what goes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from faceresnet.errors import FaceResNetError, needs, reason

if TYPE_CHECKING:
    from threading import Thread
    from wsgiref.simple_server import WSGIServer

    from faceresnet.apps.watch.events import Scene
    from faceresnet.apps.watch.outbox import Outbox
    from faceresnet.video.live import Feed

#: Upper ends of the histograms' bins, s.
BUCKETS_S = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0)


class Metrics:
    """Counts what happens and tells it to who asks, in a registry of its own.

    Args:
        feeds: they are asked for their numbers when a scrape comes.
        scenes: by the camera's name; they count the faces that are there.
        outboxes: the ways out.

    Raises:
        MissingExtraError: prometheus-client is not installed.
    """

    def __init__(
        self,
        feeds: Sequence[Feed],
        scenes: Mapping[str, Scene],
        outboxes: Sequence[Outbox],
    ) -> None:
        with needs("faceresnet watch", "video"):
            from prometheus_client import CollectorRegistry, Counter, Histogram
        self._feeds, self._scenes, self._outboxes = feeds, scenes, outboxes
        self._registry = CollectorRegistry()
        self._registry.register(self)
        counter = partial(Counter, registry=self._registry)
        histogram = partial(Histogram, registry=self._registry, buckets=BUCKETS_S)
        self.looks = counter(
            "faceresnet_frames_analysed", "Frames that went through the detector", ["camera"]
        )
        self.faces = counter("faceresnet_faces", "Faces found in frames", ["camera"])
        self.events = counter("faceresnet_events", "Events", ["camera", "event"])
        self.detection_s = histogram(
            "faceresnet_detection_seconds", "Time that the detector takes for a frame", ["camera"]
        )
        self.latency_s = histogram(
            "faceresnet_latency_seconds",
            "Time from the arrival of a frame until its events are known",
            ["camera"],
        )
        for feed in feeds:  # series exist from the start, so that alerts on them can be written
            name = feed.source.name
            for metric in (self.looks, self.faces, self.detection_s, self.latency_s):
                metric.labels(name)

    def collect(self) -> Iterator[Any]:
        """Make the metrics that feeds, scenes and outboxes count themselves."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        up = GaugeMetricFamily("faceresnet_camera_up", "1 while frames come in", labels=["camera"])
        present = GaugeMetricFamily(
            "faceresnet_faces_present", "Faces in front of the camera now", labels=["camera"]
        )
        counter = partial(CounterMetricFamily, labels=["camera"])
        counters = {
            "frames": counter("faceresnet_frames", "Frames decoded"),
            "skipped": counter(
                "faceresnet_frames_skipped", "Frames passed over because a newer one came"
            ),
            "broken": counter("faceresnet_frames_broken", "Packets that could not be decoded"),
            "reconnects": counter("faceresnet_reconnects", "Attempts to open a camera again"),
        }
        for feed in self._feeds:
            name, state = [feed.source.name], feed.state
            up.add_metric(name, float(state.up))
            present.add_metric(name, self._scenes[feed.source.name].count)
            for counted, family in counters.items():
                family.add_metric(name, getattr(state, counted))
        out = CounterMetricFamily(
            "faceresnet_deliveries",
            "Events delivered, failed and dropped by each way out",
            labels=["outlet", "result"],
        )
        waiting = GaugeMetricFamily(
            "faceresnet_deliveries_waiting", "Events in the queue", labels=["outlet"]
        )
        for outbox in self._outboxes:
            state_ = outbox.state
            for result in ("sent", "failed", "dropped"):
                out.add_metric([outbox.name, result], getattr(state_, result))
            waiting.add_metric([outbox.name], state_.waiting)
        yield from (up, present, *counters.values(), out, waiting)

    def serve(self, address: str) -> tuple[WSGIServer, Thread]:
        """Answer ``GET /metrics`` at ``PORT`` or ``HOST:PORT``; without a host on the loopback.

        Returns:
            the server, and the thread that it runs in.

        Raises:
            ValueError: the address is none.
            FaceResNetError: the port cannot be had.
        """
        from prometheus_client import start_http_server

        host, _, port = address.rpartition(":")
        if not port.isdecimal() or int(port) > 65535:
            raise ValueError(f"--metrics takes PORT or HOST:PORT, got '{address}'")
        try:
            return start_http_server(int(port), (host or "127.0.0.1").strip("[]"), self._registry)
        except OSError as error:
            raise FaceResNetError(
                f"cannot serve metrics at {host or '127.0.0.1'}:{port}: {reason(error)}"
            ) from error
