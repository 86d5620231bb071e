"""Cameras for the tests: an RTSP server on the loopback, broken servers, clips of blobs."""

import functools
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
import pytest

from conftest import blob_image
from faceresnet.video.addresses import Source

SERVER = Path(__file__).parent / "video" / "rtsp_server.py"
PYTHON = "/usr/bin/python3"
#: As in `rtsp_server`, which cannot be imported without gi.
CLOCK_BITS, CLOCK_ROW = 20, 8


@functools.cache
def missing() -> str | None:
    """What the RTSP server lacks, by Debian's name."""
    program = "import gi; gi.require_version('GstRtspServer', '1.0')"
    program += "; from gi.repository import Gst; Gst.init(None)"
    program += "; assert Gst.ElementFactory.find('x264enc'), 'x264enc'"
    try:
        done = subprocess.run([PYTHON, "-c", program], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "python3"
    if "No module named 'gi'" in done.stderr:
        return "python3-gi"
    if "x264enc" in done.stderr:
        return "gstreamer1.0-plugins-ugly"
    return "gir1.2-gst-rtsp-server-1.0" if done.returncode else None


class RtspCamera:
    """A camera that can be switched off and on again at the same address; a context manager.

    Args:
        options: of `rtsp_server.py`: ``size="320x240"``, ``blink_s=2``, ….
    """

    def __init__(self, **options: object) -> None:
        if lacking := missing():
            pytest.skip(f"the RTSP server needs a package: apt install {lacking}")
        self._options = options
        self._server: subprocess.Popen[str] | None = None
        self.port = 0

    def __enter__(self) -> "RtspCamera":
        self.switch_on()
        return self

    def __exit__(self, *error: object) -> None:
        self.switch_off()

    def url(self, user: str = "") -> str:
        return f"rtsp://{user}127.0.0.1:{self.port}/camera"

    def switch_on(self, **changed: object) -> None:
        options = {**self._options, **changed, "port": self.port}
        given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        self._server = subprocess.Popen(
            [PYTHON, str(SERVER), *given], stdout=subprocess.PIPE, text=True
        )
        assert self._server.stdout
        line = self._server.stdout.readline()
        assert line.startswith("ready "), "the RTSP server did not start"
        self.port = int(line.split()[1])

    def switch_off(self) -> None:
        """As a power cut does it."""
        if self._server:
            self._server.kill()
            self._server.wait()
            assert self._server.stdout
            self._server.stdout.close()
            self._server = None


def age_s(image: np.ndarray) -> float:
    """How old a picture of an `RtspCamera` is."""
    block = image.shape[1] // CLOCK_BITS
    middles = np.arange(CLOCK_BITS) * block + block // 2
    bits = image[CLOCK_ROW, middles].mean(axis=1) > 127
    made_ms = sum(1 << int(bit) for bit in np.flatnonzero(bits))
    cycle = 1 << CLOCK_BITS
    age_ms = (int(time.time() * 1000) - made_ms) % cycle
    return (age_ms if age_ms < cycle / 2 else age_ms - cycle) / 1000


class BadServer:
    """A server that answers every connection with the same bytes, or not at all; counts them."""

    def __init__(self, answer: bytes | None) -> None:
        self.answer, self.connections = answer, 0
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> "BadServer":
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            connection.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            if self.answer is not None:
                try:
                    connection.sendall(self.answer)
                    connection.shutdown(socket.SHUT_WR)
                except OSError:
                    pass


def blob_clip(
    path: Path,
    frames: Sequence[Sequence[tuple[float, float, int]]],
    *,
    size: tuple[int, int] = (96, 128),
    rate: int = 10,
) -> Path:
    """Write a clip, each frame of which shows red squares ``centre_x centre_y side``."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=rate, width=size[1], height=size[0])
        video.pix_fmt = "yuv444p"
        video.options = {"preset": "ultrafast", "crf": "10"}
        for squares in frames:
            image = blob_image(size, *squares)
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode())
    return path


def live(address: str, name: str = "door") -> Source:
    return Source(name, address, live=True)


def wait_for(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Wait until something is so; fail when it does not come."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.02)
