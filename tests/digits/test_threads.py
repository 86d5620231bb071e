import threading

import numpy as np
import pytest

from faceresnet.digits import threads
from faceresnet.nn.memory import Workspace


@pytest.mark.parametrize("count", [1, 2, 5])
def test_results_come_in_order(count) -> None:
    assert threads.Team(count).each(lambda n: n * n, range(20)) == [n * n for n in range(20)]
    assert threads.Team(count).each(abs, []) == []


def test_threads_work_side_by_side() -> None:
    """Two tasks that wait for each other come to an end."""
    barrier = threading.Barrier(2, timeout=20)
    team = threads.Team(2)
    assert sorted(team.each(lambda n: barrier.wait(), range(2))) == [0, 1]


@pytest.mark.parametrize("wrong", range(4))
def test_an_error_in_a_thread_comes_out(wrong) -> None:
    def task(n: int) -> int:
        if n == wrong:
            raise ValueError("no")
        return n

    with pytest.raises(ValueError, match="no"):
        threads.Team(2).each(task, range(4))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_what_was_begun_is_finished_in_order(count) -> None:
    team = threads.Team(count)
    finish = [team.begin(lambda n, k=k: k * n, range(5)) for k in range(4)]
    assert team.each(lambda n: -n, range(3)) == [0, -1, -2]
    assert [one() for one in finish] == [[k * n for n in range(5)] for k in range(4)]


def test_others_begin_before_the_caller_helps() -> None:
    done = threading.Event()
    finish = threads.Team(2).begin(lambda n: done.set(), [0])
    assert done.wait(20)
    assert finish() == [None]


def test_nobody_waits_for_a_busy_thread_that_is_not_needed() -> None:
    """The caller does all of `each` while the other thread is held up by something begun before."""
    team, held, release = threads.Team(2), threading.Event(), threading.Event()

    def hold(n: int) -> bool:
        held.set()
        return release.wait(20)

    finish = team.begin(hold, [0])
    assert held.wait(20)
    assert team.each(lambda n: n, range(3)) == [0, 1, 2]
    release.set()
    assert finish() == [True]


def test_an_error_in_what_was_begun_comes_out() -> None:
    def task(n: int) -> None:
        raise ValueError("no")

    finish = threads.Team(2).begin(task, [0])
    with pytest.raises(ValueError, match="no"):
        finish()


def test_threads_end_with_their_team() -> None:
    before = set(threading.enumerate())
    team = threads.Team(3)
    team.each(abs, range(10))
    own = set(threading.enumerate()) - before
    assert len(own) == 2
    del team
    for thread in own:
        thread.join(20)
        assert not thread.is_alive()


def test_every_thread_has_its_own_memory() -> None:
    team = threads.Team(2)
    barrier = threading.Barrier(2, timeout=20)

    def task(n: int) -> Workspace:
        barrier.wait()
        return team.work

    first, second = team.each(task, range(2))
    assert first is not second


def test_blas_is_held_to_one_thread_and_let_go() -> None:
    found = threads._openblas()
    if found is None:
        pytest.skip("this NumPy does not use OpenBLAS")
    get, set_ = found
    before = get()
    set_(2)
    try:
        with threads.one_blas_thread():
            assert get() == 1
            np.ones((300, 300)) @ np.ones((300, 300))
        assert get() == 2
        with pytest.raises(KeyError), threads.one_blas_thread():
            raise KeyError
        assert get() == 2
    finally:
        set_(before)


def test_another_blas_is_left_alone(monkeypatch) -> None:
    monkeypatch.setattr(threads, "_openblas", lambda: None)
    with threads.one_blas_thread():
        pass
