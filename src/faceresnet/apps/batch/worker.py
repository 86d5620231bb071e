"""A process that looks at photos, one thread of it: ``python -m faceresnet.apps.batch.worker``.

It is started by `supervisor.Supervisor` and talks through standard input and output. Nothing but
this process is lost when a decoder crashes or memory runs out.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from faceresnet import images
from faceresnet.apps.batch.listing import Cell, Entry
from faceresnet.apps.batch.messages import Failed, Ready, Task, receive, send
from faceresnet.apps.batch.options import BatchOptions, Plan
from faceresnet.apps.batch.reading import Reader
from faceresnet.apps.batch.rows import Looked, failed
from faceresnet.detections import Detections
from faceresnet.detector import FaceDetector
from faceresnet.errors import ImageError

#: Photos read ahead, and the threads that do; on a graphics card they decode as well.
AHEAD = 8
READERS = 4
#: How often to see whether the process that started this one is still there.
PARENT_CHECK_S = 2.0


class Looker:
    """Looks at entries, whatever is wrong with them.

    Args:
        plan: what to do.
        detector: to do it with.
    """

    def __init__(self, plan: Plan, detector: FaceDetector) -> None:
        self._options = plan.options
        self._detector = detector
        self._reader = Reader(plan.folder, plan.options.column)
        self._pool = ThreadPoolExecutor(READERS)
        self._cells = ThreadPoolExecutor(1)  # in their order: each step back opens the file anew

    def look(self, entries: Sequence[Entry], *, careful: bool = False) -> Iterator[Looked]:
        """What is in each, in their order; see `messages.Task` for `careful`."""
        photos = map(self._read, entries) if careful else self._read_ahead(entries)
        together = 1 if careful else self._options.together
        decoded = map(self._decode, photos)
        while group := list(islice(decoded, together)):
            found = iter(self._detector.batch(x for x in group if not isinstance(x, ImageError)))
            yield from (
                failed(x) if isinstance(x, ImageError) else to_looked(next(found)) for x in group
            )

    def _read_ahead(self, entries: Sequence[Entry]) -> Iterator[_Photo]:
        """Read in other threads; on the CPU decoding is left to this one, where it is counted."""
        ahead = max(AHEAD, 0 if self._options.on_cpu else 2 * self._options.together)
        waiting: deque[Future[_Photo]] = deque()
        try:
            for entry in entries:
                waiting.append(self._start(entry))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def _start(self, entry: Entry) -> Future[_Photo]:
        read = self._read if self._options.on_cpu else self._read_and_decode
        if isinstance(entry, Cell):
            return self._pool.submit(read, self._cells.submit(self._reader.value, entry))
        return self._pool.submit(read, entry)

    def _read(self, entry: Entry | Future[bytes | str]) -> _Photo:
        try:
            return self._reader(entry.result() if isinstance(entry, Future) else entry)
        except ImageError as error:
            return error

    def _read_and_decode(self, entry: Entry | Future[bytes | str]) -> images.Image | ImageError:
        return self._decode(self._read(entry))

    def _decode(self, photo: _Photo) -> images.Image | ImageError:
        if not isinstance(photo, bytes | Path):
            return photo
        try:
            return images.read(photo, max_pixels=self._options.max_pixels)
        except ImageError as error:
            return error


if TYPE_CHECKING:
    _Photo = bytes | Path | images.Image | ImageError


def to_looked(faces: Detections) -> Looked:
    """The row of a photo, rounded: more digits than that are not the same on other machines."""
    height, width = faces.size
    rounded = (
        (*(round(side, 2) for side in box), round(score, 4))
        for box, score in zip(faces.boxes.tolist(), faces.scores.tolist(), strict=True)
    )
    return Looked(width, height, tuple(rounded))


def open_detector(options: BatchOptions) -> FaceDetector:
    """The detector of a worker: one thread, and the same result for a photo at every time."""
    import cv2

    if options.on_cpu:
        cv2.setNumThreads(1)
    detector = FaceDetector(
        options.model,
        threshold=options.threshold,
        max_side=options.max_side,
        tile=options.tile,
        pyramid=options.pyramid,
        crowds=options.crowds,
        engine=options.runtime,
        device=options.device,
        threads=1 if options.on_cpu else None,
        batch_size=max(8, options.together),
        repeatable=True,
    )
    side = detector.spec.size_multiple  # the first look loads what the engine needs
    detector(images.grey((side, side)))
    return detector


def serve(tasks: BinaryIO, answers: BinaryIO) -> None:
    """Do what the supervisor asks for until it closes the pipe."""
    try:
        plan = receive(tasks)
        looker = Looker(plan, open_detector(plan.options))
        send(answers, Ready())
        while True:
            task: Task = receive(tasks)
            for looked in looker.look(task.entries, careful=task.careful):
                send(answers, looked)
    except (EOFError, BrokenPipeError):
        return
    except Exception as error:  # out of memory, an engine that fails: the supervisor decides
        send(answers, Failed(f"{error}" or type(error).__name__))


def _leave_with(parent: int) -> None:
    """End when the parent has: a photo that takes long would keep this process alive."""
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_S)
    os._exit(1)


def main() -> None:
    """Set the process up and serve."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the supervisor ends us
    if os.name == "posix":
        threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    serve(sys.stdin.buffer, answers)
    os._exit(0)  # threads that wait for a server that is silent would hold us up


if __name__ == "__main__":
    main()
