"""What can be set about the service: the detector, the limits, who may use it."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite

from faceresnet.processors import cores
from faceresnet.weights import DEFAULT_MODEL

#: What browsers call the origin of a page, without the port that its scheme has anyway.
_ORIGIN = re.compile(
    r"(?!http:.*:80$|https:.*:443$)[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]+)?"
)


@dataclass(frozen=True)
class Settings:
    """Everything about one service; each worker has a copy.

    Attributes:
        model: name of a shipped or published model, or path to an .onnx file.
        threshold: least score reported when a request names none; by default the model's own.
        max_side: larger photos are reduced to this longer side, px, whatever a request asks for;
            by default they are looked at in full resolution.
        crowds: look again, enlarged, where small faces show (`FaceDetector`).
        engine: ``openvino`` or ``onnxruntime``.
        device: where the engine runs: cpu, gpu, cuda, …
        threads: of one worker, on the CPU; by default one for each core.
        batch_size: photos of one size that go through the network together at most.
        max_bytes: largest body of a request, and largest file behind an address.
        max_pixels: largest photo. It is known from the header, before anything is decoded.
        max_images: most photos in one request.
        queue_size: photos that one worker holds at most, waiting or in work.
        timeout_s: longest time for a body to arrive, and again for its photos to be looked at.
        api_keys: who gives one of these may detect; none lets everyone.
        allow_origins: pages of these origins may call the service from a browser (CORS); ``*``
            stands for all, ``null`` for files and sandboxed frames.
        fetch_urls: photos may be named by an address, which the service fetches.
        url_networks: networks whose addresses may be fetched though they are not public.

    Raises:
        ValueError: a value is out of its range.
    """

    model: str | os.PathLike[str] = DEFAULT_MODEL
    threshold: float | None = None
    max_side: int | None = None
    crowds: bool = True
    engine: str = "openvino"
    device: str = "cpu"
    threads: int | None = None
    batch_size: int = 8
    max_bytes: int = 32_000_000
    max_pixels: int = 50_000_000
    max_images: int = 16
    queue_size: int = 128
    timeout_s: float = 30.0
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    allow_origins: tuple[str, ...] = ()
    fetch_urls: bool = False
    url_networks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_bytes", "max_pixels", "max_images", "queue_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not (isfinite(self.timeout_s) and self.timeout_s > 0):
            raise ValueError(
                f"timeout_s must be more than 0 seconds, and finite, got {self.timeout_s}"
            )
        if self.queue_size < self.max_images:
            raise ValueError(
                f"queue_size must hold the photos of one request, max_images = {self.max_images}, "
                f"got {self.queue_size}"
            )
        if any(not key or not key.isprintable() or not key.isascii() for key in self.api_keys):
            raise ValueError("an API key is printable ASCII and not empty")
        for origin in self.allow_origins:
            if origin not in ("*", "null") and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    "an allowed origin is *, null, or a scheme and a host in small letters, "
                    f"without a path, as in https://example.org, got '{origin}'"
                )
        for network in self.url_networks:
            ipaddress.ip_network(network)  # its own ValueError says what is wrong

    @property
    def held_bytes(self) -> int:
        """Bodies in memory at most, all requests of a worker together."""
        return 16 * self.max_bytes


def threads_each(workers: int, threads: int | None) -> int:
    """Threads of each of `workers` processes that share `threads`, by default all cores.

    Raises:
        ValueError: `workers` or `threads` is below 1.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    return max(1, (threads or cores()) // workers)


def read_keys(lines: Sequence[str]) -> tuple[str, ...]:
    """API keys of a file: one a line; empty lines and those that start with # are none."""
    keys = (line.strip() for line in lines)
    return tuple(key for key in keys if key and not key.startswith("#"))
