from pathlib import Path

import pytest

from faceresnet.atomic import replacing


def test_the_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file.json"
    with replacing(target) as partial:
        partial.write_text("whole")
        assert partial.parent == target.parent
        assert partial.suffix == ".json"
        assert not target.exists()
    assert target.read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


def test_after_an_error_the_old_file_stands(tmp_path: Path) -> None:
    target = tmp_path / "file.json"
    target.write_text("old")

    def fail() -> None:
        with replacing(target) as partial:
            partial.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), replacing(tmp_path / "file" / "below.txt"):
        pytest.fail("there is nowhere to write")
