import errno

import pytest

from faceresnet.errors import last_line, one_line, printable, reason


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.jpg"), "No such file"),
        (OSError("the disk is gone"), "the disk is gone"),
        (ValueError("too many"), "too many"),
        (ValueError(), "ValueError"),
        (OSError(), "OSError"),
        (MemoryError(), "not enough memory"),
        (MemoryError("Unable to allocate 9 GiB"), "Unable to allocate 9 GiB"),
    ],
)
def test_a_reason_is_never_empty_and_does_not_repeat_the_file(error, words):
    assert reason(error).startswith(words)
    assert "a.jpg" not in reason(error)


def test_the_cause_is_the_last_line_and_never_empty():
    assert last_line(RuntimeError("at a.cpp:1\n  it broke\n \n")) == "it broke"
    assert last_line(RuntimeError(" \n")) == "RuntimeError"


def test_messages_are_one_line_of_what_a_terminal_prints():
    assert one_line("a\n b\r\n\tc é\x1b[31m") == "a b c é\\x1b[31m"
    assert printable("a\n  b") == "a\\n  b"
    assert one_line("") == ""
