import os
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


def test_the_disk_has_a_durable_file_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "file"
    seen = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(target.exists()))
    with replacing(target) as partial:
        partial.write_text("fast")
    assert seen == []
    target.unlink()
    with replacing(target, durable=True) as partial:
        partial.write_text("whole")
    assert seen == [False, True], "the file, then its folder"


def test_a_folder_that_cannot_be_synchronised_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synchronise = os.fsync

    def files_only(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise PermissionError
        synchronise(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    with replacing(tmp_path / "file", durable=True) as partial:
        partial.write_text("whole")
    assert (tmp_path / "file").read_text() == "whole"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), replacing(tmp_path / "file" / "below.txt"):
        pytest.fail("there is nowhere to write")


def test_a_link_stays_and_what_it_names_is_replaced(tmp_path: Path) -> None:
    place = tmp_path / "far" / "file"
    place.parent.mkdir()
    place.write_text("old")
    for link in (tmp_path / "link.json", tmp_path / "dangling.json"):
        link.symlink_to(place)
        with replacing(link) as partial:
            assert (partial.parent, partial.suffix) == (place.parent, ".json")
            partial.write_text("new")
        assert link.is_symlink()
        assert place.read_text() == "new"
        place.unlink()


def test_a_link_to_itself_is_an_error_and_stays(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(link)
    with pytest.raises(OSError, match="symbolic"), replacing(link):
        pytest.fail("there is nowhere to write")
    assert link.is_symlink()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with replacing(pipe) as partial:
            partial.write_text("through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert pipe.is_fifo()


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="needs /dev/fd")
def test_a_file_that_is_open_already_is_written_to(tmp_path: Path) -> None:
    with (tmp_path / "open.json").open("w") as file:
        with replacing(f"/dev/fd/{file.fileno()}") as partial:
            partial.write_text("here")
        assert os.fstat(file.fileno()).st_nlink == 1
    assert (tmp_path / "open.json").read_text() == "here"


def test_partial_files_are_not_shared_by_threads(tmp_path: Path) -> None:
    target = tmp_path / "file.json"
    with replacing(target) as one, replacing(target) as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert target.read_text() == "one"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("name", ["n" * 245 + ".json", "ä" * 122 + ".json", "n." + "s" * 248])
def test_names_may_be_long(tmp_path: Path, name: str) -> None:
    with replacing(tmp_path / name) as partial:
        partial.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == [name]
