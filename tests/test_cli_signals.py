import signal
import threading

import pytest

from faceresnet.cli.signals import signals_stop, sigterm_interrupts

BOTH = signal.SIGINT, signal.SIGTERM


def handlers():
    return [signal.getsignal(number) for number in BOTH]


def test_sigterm_interrupts_as_ctrl_c_does():
    before = handlers()
    with sigterm_interrupts():
        assert signal.getsignal(signal.SIGINT) is before[0]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert handlers() == before


@pytest.mark.parametrize("first", BOTH)
@pytest.mark.parametrize("second", BOTH)
def test_the_first_signal_asks_and_the_second_ends(first, second):
    before = handlers()
    with signals_stop() as stop:
        assert not stop.is_set()
        signal.raise_signal(first)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(second)
    assert handlers() == before


@pytest.mark.parametrize("context", [sigterm_interrupts, signals_stop])
def test_handlers_come_back_after_an_error(context):
    before = handlers()
    with pytest.raises(ZeroDivisionError), context():
        _ = 1 / 0
    assert handlers() == before


@pytest.mark.parametrize("context", [sigterm_interrupts, signals_stop])
def test_other_threads_leave_signals_alone(context):
    before, inside = handlers(), []

    def work():
        with context():
            inside.append(handlers())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [before]
