"""Throughput of the service beside the bare detector's, in one interleaved run.

    python benchmarks/serve.py [--seconds 60] [--clients 16] [--workers 1] [--rounds 3]
                               [--image FILE] [--size 640x480] [--model M] [--threads N] [--raw]

Both get the same encoded JPEG and use the same threads. The bare detector is
``FaceDetector(...).batch([jpeg] * 8)``, called in this process again and again: it decodes and
detects, and nothing else runs meanwhile. The service is ``faceresnet serve``, a process of its own,
and the clients another; all share this machine's cores, so what HTTP costs on both sides is in the
ratio. Each client sends the photo in a form, waits for the answer and sends it again. Bare detector
and service take turns, `rounds` times; the ratio is that of the sums.

Every answer is checked: status 200 and as many faces as the bare detector finds. Memory is the
resident size of all processes of the service, after the warm-up and at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from detect import machine, make_image
from PIL import Image

from faceresnet import FaceDetector, images
from faceresnet.weights import DEFAULT_MODEL

#: Photos in one call of the bare detector, which is its batch size.
BATCH = 8
WARM_UP_S = 3.0
BOUNDARY = b"----faceresnet"


@dataclass
class Load:
    """What the clients saw.

    Attributes:
        seconds: of all rounds.
        latencies_s: of every request that was answered well.
        errors: every other request, by what was wrong.
        cpu_s: processor time of the clients.
    """

    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    cpu_s: float = 0.0

    def add(self, other: Load) -> None:
        """Take in another round."""
        self.seconds += other.seconds
        self.latencies_s += other.latencies_s
        self.cpu_s += other.cpu_s
        for wrong, times in other.errors.items():
            self.errors[wrong] = self.errors.get(wrong, 0) + times


def request_bytes(jpeg: bytes, *, raw: bool) -> bytes:
    """A whole request, head and body, made once."""
    if raw:
        kind, body = b"image/jpeg", jpeg
    else:
        kind = b"multipart/form-data; boundary=" + BOUNDARY
        head = b'Content-Disposition: form-data; name="file"; filename="photo.jpg"\r\n'
        parts = [b"--", BOUNDARY, b"\r\n", head, b"Content-Type: image/jpeg\r\n\r\n", jpeg]
        body = b"".join([*parts, b"\r\n--", BOUNDARY, b"--\r\n"])
    return b"\r\n".join(
        [
            b"POST /v1/detect HTTP/1.1",
            b"Host: 127.0.0.1",
            b"Content-Type: " + kind,
            b"Content-Length: " + str(len(body)).encode(),
            b"",
            body,
        ]
    )


async def client(port: int, request: bytes, faces: int, until: float, load: Load) -> None:
    """One client on one connection: send, wait, check, again."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with closing(writer):
            while time.perf_counter() < until:
                start = time.perf_counter()
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
                body = await reader.readexactly(int(length[1]) if length else 0)
                wrong = head[9:12].decode()
                if wrong == "200":
                    found = body.count(b'"box"')
                    wrong = "" if found == faces else f"{found} faces instead of {faces}"
                if wrong:
                    load.errors[wrong] = load.errors.get(wrong, 0) + 1
                else:
                    load.latencies_s.append(time.perf_counter() - start)
    except (OSError, asyncio.IncompleteReadError) as error:
        wrong = type(error).__name__
        load.errors[wrong] = load.errors.get(wrong, 0) + 1


def run_clients(
    port: int, request: bytes, faces: int, count: int, seconds: float, answer: object
) -> None:
    """All clients, in a process of their own."""

    async def run() -> Load:
        load = Load()
        start, cpu_start = time.perf_counter(), time.process_time()
        await asyncio.gather(
            *(client(port, request, faces, start + seconds, load) for _ in range(count))
        )
        load.seconds = time.perf_counter() - start
        load.cpu_s = time.process_time() - cpu_start
        return load

    answer.send(asyncio.run(run()))  # type: ignore[attr-defined]


def attack(port: int, request: bytes, faces: int, count: int, seconds: float) -> Load:
    """What `count` clients see in `seconds`."""
    here, there = multiprocessing.Pipe()
    arguments = (port, request, faces, count, seconds, there)
    clients = multiprocessing.get_context("spawn").Process(target=run_clients, args=arguments)
    clients.start()
    there.close()  # or nobody would notice that the clients are gone
    load: Load = here.recv()
    clients.join()
    return load


class Server:
    """`faceresnet serve` in a process of its own."""

    def __init__(self, options: argparse.Namespace) -> None:
        arguments = ["--port", "0", "--workers", str(options.workers), "--model", options.model]
        if options.threads:
            arguments += ["--threads", str(options.threads)]
        self.running = subprocess.Popen(
            [sys.executable, "-m", "faceresnet", "serve", *arguments],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.running.stdout
        found = re.search(r"http://127.0.0.1:(\d+)/", self.running.stdout.readline())
        if not found:
            raise SystemExit("the service did not start")
        self.port = int(found[1])

    def get(self, path: str) -> bytes:
        """What the service answers to a GET."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            content: bytes = answer.read()
        return content

    def wait_until_ready(self, workers: int) -> None:
        """Wait until every worker has its model."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                ready = re.search(rb"^faceresnet_ready_workers (\S+)", self.get("/metrics"), re.M)
                if ready and float(ready[1]) == workers:
                    return
            except OSError:
                pass
            time.sleep(0.2)
        raise SystemExit("the service did not get ready")

    def memory_mb(self) -> float:
        """Resident size of the service's processes together, in MB."""
        return sum(_memory_mb(pid) for pid in _family(self.running.pid))

    def cpu_s(self) -> float:
        """Processor time of the service's processes together, in seconds."""
        return sum(_cpu_s(pid) for pid in _family(self.running.pid))

    def stop(self) -> int:
        """Ask it to end; gives its exit status."""
        self.running.send_signal(signal.SIGTERM)
        status = self.running.wait(60)
        assert self.running.stdout
        self.running.stdout.close()
        return status


def _family(pid: int) -> list[int]:
    """A process and its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in _family(int(child)))]


def _memory_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+)", status)
    return int(found[1]) / 1024 if found else 0.0


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure_bare(detector: FaceDetector, jpeg: bytes, seconds: float) -> np.ndarray:
    """Photos that the detector decodes and looks at, in how many seconds, of the processor too."""
    count = 0
    start, cpu_start = time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        detector.batch([jpeg] * BATCH)
        count += BATCH
    return np.array([count, time.perf_counter() - start, time.process_time() - cpu_start])


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=60, help="of load, all rounds together")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--image", help="a photo; by default scikit-image's astronaut")
    parser.add_argument("--size", default="640x480", help="WIDTHxHEIGHT px that it is scaled to")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="name or .onnx file")
    parser.add_argument("--threads", type=int, help="of either; by default one for each core")
    parser.add_argument("--raw", action="store_true", help="send the photo without a form")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    options = parse()
    width, height = (int(side) for side in options.size.split("x"))
    if options.image:
        image = images.resize(images.read(options.image), (height, width))
    else:
        image = make_image((height, width))
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "JPEG", quality=90)
    jpeg = encoded.getvalue()
    detector = FaceDetector(options.model, threads=options.threads, batch_size=BATCH)
    faces = len(detector.batch([jpeg] * BATCH)[0])
    measure_bare(detector, jpeg, WARM_UP_S)

    server = Server(options)
    try:
        server.wait_until_ready(options.workers)
        request = request_bytes(jpeg, raw=options.raw)
        attack(server.port, request, faces, options.clients, 2 * WARM_UP_S)
        memory_mb, cpu_s = [server.memory_mb()], server.cpu_s()
        load, bare, rates = Load(), np.zeros(3), []
        seconds = options.seconds / options.rounds
        for _ in range(options.rounds):
            alone = measure_bare(detector, jpeg, min(10.0, seconds))
            seen = attack(server.port, request, faces, options.clients, seconds)
            rates.append((alone[0] / alone[1], len(seen.latencies_s) / seen.seconds))
            bare += alone
            load.add(seen)
        memory_mb.append(server.memory_mb())
        cpu_s = server.cpu_s() - cpu_s
        metrics = server.get("/metrics").decode()
    finally:
        status = server.stop()
    kind = "raw body" if options.raw else "form"
    print(machine())
    print(
        f"{width}×{height} px JPEG, {len(jpeg) / 1000:.0f} kB, {faces} faces; {options.clients} "
        f"clients ({kind}), workers: {options.workers}, {os.cpu_count()} cores for all\n"
    )
    for number, (alone, through) in enumerate(rates, 1):
        print(f"round {number}: bare {alone:.1f}/s, service {through:.1f}/s, {through / alone:.2f}")
    report(bare, load, cpu_s)
    batches = {
        name: float(re.findall(rf"^faceresnet_batch_images_{name} (\S+)", metrics, re.M)[0])
        for name in ("sum", "count")
    }
    print(f"photos a batch  {batches['sum'] / batches['count']:8.1f}")
    print(f"memory, MB      {memory_mb[0]:8.0f} at the start, {memory_mb[1]:.0f} at the end")
    print(f"exit status     {status:8}")


def report(bare: np.ndarray, load: Load, cpu_s: float) -> None:
    """Print the comparison.

    Args:
        bare: photos, seconds and processor seconds of the bare detector.
        load: what the clients saw.
        cpu_s: processor time of the service.
    """
    served = len(load.latencies_s)
    if not served:
        raise SystemExit(f"not one request was answered well: {load.errors}")
    alone, through = bare[0] / bare[1], served / load.seconds
    ms = np.percentile(load.latencies_s, [50, 99, 100]) * 1000
    cpu_ms = 1000 * np.array([bare[2] / bare[0], cpu_s / served, load.cpu_s / served])
    print(f"\nbare detector   {alone:8.1f} photos/s in {bare[1]:.0f} s, decoding included")
    print(f"service         {through:8.1f} photos/s in {load.seconds:.0f} s")
    print(f"ratio           {through / alone:8.2f}")
    print(f"latency, ms     {ms[0]:8.0f} p50, {ms[1]:.0f} p99, {ms[2]:.0f} longest")
    print(f"answered well   {served:8}; errors: {load.errors or 'none'}")
    print(
        f"processor, ms   {cpu_ms[0]:8.1f} a photo in the bare detector, {cpu_ms[1]:.1f} in the "
        f"service, {cpu_ms[2]:.1f} in the clients"
    )


if __name__ == "__main__":
    main()
