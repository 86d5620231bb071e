import threading
import time

import pytest

from faceresnet.video import stages
from faceresnet.video.stages import Ahead, Behind


def test_ahead_gives_everything_in_order_and_counts():
    with Ahead(iter(range(50)), room=3) as numbers:
        assert list(numbers) == list(range(50))
        assert list(numbers) == [], "the end stays the end"
    assert numbers.count == 50
    assert numbers.busy_s > 0


def test_ahead_runs_ahead_no_further_than_its_room():
    made = []
    with Ahead((made.append(n) or n for n in range(50)), room=3) as numbers:
        assert next(numbers) == 0
        time.sleep(0.3)
        assert 2 <= len(made) <= 6


def test_errors_of_the_source_come_where_they_happened():
    def source():
        yield 1
        raise OSError("the camera fell")

    with Ahead(source(), room=3) as items:
        assert next(items) == 1
        with pytest.raises(OSError, match="the camera fell"):
            next(items)


def test_ahead_ends_when_told_to_though_the_source_hangs(monkeypatch):
    monkeypatch.setattr(stages, "FAREWELL_S", 0.1)
    halt, release = threading.Event(), threading.Event()

    def source():
        yield 1
        release.wait(5)
        yield 2

    with Ahead(source(), 3, halt) as items:
        assert next(items) == 1
        halt.set()
        with pytest.raises(StopIteration):
            next(items)
    release.set()


def test_leaving_early_stops_the_thread():
    with Ahead(iter(range(10**9)), room=2) as numbers:
        next(numbers)
    assert not numbers._thread.is_alive()
    assert numbers.count < 20


def test_behind_does_everything_in_order_before_it_leaves():
    done = []

    def act(item):
        time.sleep(0.001)
        done.append(item)

    with Behind(act, room=2) as worker:
        for number in range(30):
            worker.put(number)
    assert done == list(range(30))
    assert worker.count == 30
    assert worker.busy_s > 0.02


def test_errors_of_the_function_reach_whoever_puts():
    def fail(item):
        raise OSError("the disk is full")

    def put():
        with Behind(fail, room=2) as worker:
            for number in range(1000):
                worker.put(number)

    with pytest.raises(OSError, match="the disk is full"):
        put()


def test_errors_of_the_function_at_the_very_end():
    def put():
        with Behind(lambda _: 1 / 0, room=2) as worker:
            worker.put(1)

    with pytest.raises(ZeroDivisionError):
        put()


def test_an_error_of_the_producer_comes_first():
    def put():
        with Behind(lambda _: 1 / 0, room=2) as worker:
            worker.put(1)
            raise KeyError("mine")

    with pytest.raises((KeyError, ZeroDivisionError)) as caught:
        put()
    assert caught.type is KeyError
