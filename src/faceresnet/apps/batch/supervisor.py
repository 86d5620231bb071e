"""Looks after one worker process: starts it, feeds it, and finds out which photo ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from faceresnet.apps.batch.listing import Entry
from faceresnet.apps.batch.messages import Failed, Ready, Task, receive, send
from faceresnet.apps.batch.options import Plan
from faceresnet.apps.batch.rows import Looked, failed
from faceresnet.errors import EngineError

#: A photo that ends the worker that looks at it alone this often becomes a row with an error.
ATTEMPTS = 2
#: Starts without a photo looked at between them, before the machine is to blame.
STARTS = 3
#: Time for a worker to load its model: seconds of work, on a machine that may be very busy.
START_TIMEOUT_S = 900.0
WATCH_S = 0.5


class _Died(Exception):
    """The worker is gone; the text says how."""


class Closed(Exception):
    """The supervisor was closed while it worked."""


class Supervisor:
    """Runs one worker, which is started when first needed and again whenever it dies.

    `look` may be called from one thread at a time, `close` from any.

    Args:
        plan: what the worker does.
        timeout_s: a photo may take this long; a worker that takes longer is killed.
    """

    def __init__(self, plan: Plan, timeout_s: float) -> None:
        self._plan = plan
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._deadline: float | None = None
        self._limit_s = timeout_s  # of what it waits for
        self._overdue = False

    def look(
        self, entries: Sequence[Entry], on_photo: Callable[[], None] = lambda: None
    ) -> list[Looked]:
        """Look at entries, and get over every worker that dies of them.

        Args:
            entries: what to look at.
            on_photo: called after each.

        Returns:
            a row for each, in their order.

        Raises:
            EngineError: workers cannot start here.
            Closed: `close` was called meanwhile.
        """
        rows: list[Looked] = []
        blamed: Counter[int] = Counter()
        careful = False
        while len(rows) < len(entries):
            self._start()
            try:
                self._send(Task(tuple(entries[len(rows) :]), careful))
                while len(rows) < len(entries):
                    rows.append(self._receive(self._timeout_s))
                    on_photo()
            except _Died as death:
                if careful:
                    blamed[len(rows)] += 1
                careful = True  # without reading ahead the next death has one culprit
                if blamed[len(rows)] >= ATTEMPTS:
                    rows.append(failed(f"its worker ended {ATTEMPTS} times: {death}"))
                    on_photo()
        return rows

    def close(self) -> None:
        """End the worker at once; what it was doing is lost."""
        self._closed.set()
        self._end()

    def _start(self) -> None:
        """Have a worker that has loaded its model."""
        for attempt in range(1, STARTS + 1):
            if self._process is not None and self._process.poll() is None:
                return
            self._end()
            self._spawn()
            try:
                self._send(self._plan)
                message = self._receive(START_TIMEOUT_S)
                if isinstance(message, Ready):
                    return
                raise _Died(str(message))
            except _Refused as refusal:
                raise EngineError(f"a worker cannot start: {refusal}") from refusal
            except _Died as death:
                if attempt == STARTS:
                    raise EngineError(f"workers cannot start here: {death}") from death

    def _spawn(self) -> None:
        with self._lock:
            if self._closed.is_set():
                raise Closed
            self._overdue = False
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "faceresnet.apps.batch.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=None if os.environ.get(STDERR_VARIABLE) else subprocess.DEVNULL,
                env=_environment(on_cpu=self._plan.options.on_cpu),
            )
        threading.Thread(target=self._watch, args=(self._process,), daemon=True).start()

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a worker that takes too long."""
        while process.poll() is None:
            deadline = self._deadline
            if deadline is not None and time.monotonic() > deadline:
                self._overdue = True
                process.kill()
                return
            time.sleep(WATCH_S)

    def _send(self, message: object) -> None:
        process = self._process
        if process is None or process.stdin is None:
            raise self._gone()
        try:
            send(process.stdin, message)
        except OSError as error:
            raise self._gone() from error

    def _receive(self, timeout_s: float) -> Any:
        """The next answer."""
        process = self._process
        if process is None or process.stdout is None:
            raise self._gone()
        self._limit_s, self._deadline = timeout_s, time.monotonic() + timeout_s
        try:
            message = receive(process.stdout)
        except (EOFError, OSError, ValueError) as error:
            raise self._gone() from error
        finally:
            self._deadline = None
        if isinstance(message, Failed):
            self._end()
            raise _Refused(message.reason)
        return message

    def _gone(self) -> Exception:
        """How the worker ended."""
        if self._closed.is_set():
            return Closed()
        process = self._process
        status = None if process is None else process.wait()
        self._end()
        if self._overdue:
            return _Died(f"it took longer than {self._limit_s:g} s")
        if status is not None and status < 0:
            return _Died(f"killed by {_signal_name(-status)}")
        return _Died(f"exit status {status}")

    def _end(self) -> None:
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what was not sent yet has no reader
                    pipe.close()


class _Refused(_Died):
    """The worker ended of itself and said why."""


#: Environment variable: workers say on standard error what their libraries complain about.
STDERR_VARIABLE = "FACERESNET_WORKER_STDERR"


def _environment(*, on_cpu: bool) -> dict[str, str]:
    """One thread for each library, and the same modules as here."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    if on_cpu:
        for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR"):
            environment[f"{library}_NUM_THREADS"] = "1"
    return environment


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
