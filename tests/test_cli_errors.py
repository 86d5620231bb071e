import numpy as np
import pytest

from conftest import run_cli
from faceresnet import cli, images
from faceresnet.cli import _refuse_empty


def test_a_system_library_that_is_missing_is_one_line(monkeypatch, tmp_path, capsys, blob_model):
    def fail(*_):
        raise ImportError("libGL.so.1: cannot open shared object file")

    photo = tmp_path / "one.png"
    images.write(np.zeros((64, 64, 3), np.uint8), photo)
    monkeypatch.setattr(images, "letterbox", fail)
    status, _, error = run_cli(capsys, "detect", photo, "--model", blob_model)
    assert status == cli.REFUSED
    assert "apt install libgl1" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (OSError(28, "No space left on device", "out.png"), cli.REFUSED, "out.png: No space left"),
        (OSError(28, "No space left on device"), cli.REFUSED, "faceresnet: No space left"),
        (MemoryError(), cli.REFUSED, "faceresnet: out of memory: "),
        (MemoryError("Unable to allocate 9 GiB"), cli.REFUSED, "(Unable to allocate 9 GiB)"),
        (KeyboardInterrupt(), cli.INTERRUPTED, "faceresnet: interrupted"),
    ],
)
def test_what_ends_a_command_is_one_line(
    monkeypatch, tmp_path, capsys, blob_model, error, status, says
):
    def fail(*_):
        raise error

    photo = tmp_path / "one.png"
    images.write(np.zeros((64, 64, 3), np.uint8), photo)
    monkeypatch.setattr(images, "letterbox", fail)
    ended, _, err = run_cli(capsys, "detect", photo, "--model", blob_model)
    assert ended == status
    (line,) = err.splitlines()
    assert says in line


def test_some_options_may_be_empty():
    _refuse_empty(["serve", "--root-path", "", "--root-path="])
    _refuse_empty(["detect", "--", "--x="])
    for arguments in (["tag", ""], ["detect", "a.jpg", "--save", ""], ["detect", "--save="]):
        with pytest.raises(ValueError, match="an argument is empty, after"):
            _refuse_empty(arguments)
