import signal
import subprocess
import sys
import threading

import pytest

from faceresnet.cli.signals import signals_stop, sigterm_interrupts

BOTH = signal.SIGINT, signal.SIGTERM


def handlers():
    return [signal.getsignal(number) for number in BOTH]


#: `handlers`, for a process of its own.
HANDLERS = (
    "def handlers():\n    return [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]\n"
)


def alone(code):
    """Run code in a process of its own, in its main thread: real signals would end this one."""
    start = "import signal\nfrom faceresnet.cli.signals import signals_stop, sigterm_interrupts\n"
    done = subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True)
    return done.returncode, done.stdout.split(), done.stderr


def test_sigterm_interrupts_as_ctrl_c_does():
    status, printed, error = alone(
        f"{HANDLERS}before = handlers()\n"
        "try:\n"
        "    with sigterm_interrupts():\n"
        "        print(signal.getsignal(signal.SIGINT) is before[0])\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', handlers() == before)\n"
    )
    assert (status, printed) == (0, ["True", "interrupted", "True"]), error


@pytest.mark.parametrize("first", BOTH)
@pytest.mark.parametrize("second", BOTH)
def test_the_first_signal_asks_and_the_second_ends(first, second):
    status, printed, error = alone(
        f"{HANDLERS}before = handlers()\n"
        "try:\n"
        "    with signals_stop() as stop:\n"
        "        print(stop.is_set())\n"
        f"        signal.raise_signal({int(first)})\n"
        "        print(stop.is_set())\n"
        f"        signal.raise_signal({int(second)})\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', handlers() == before)\n"
    )
    assert (status, printed) == (0, ["False", "True", "interrupted", "True"]), error


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
