import gzip
import hashlib
import http.server
import threading
from dataclasses import replace

import numpy as np
import pytest

from faceresnet.digits import data
from faceresnet.download import PublishedFile
from faceresnet.errors import DataError, DownloadError

from .synthetic import digits, idx, write

LABELS = np.array([3, 1, 4], np.uint8)


@pytest.mark.parametrize("packed", [True, False])
def test_digits_are_read_plain_or_gzip(tmp_path, packed) -> None:
    write(tmp_path, 12, 5, packed=packed)
    for split, seed, n in (("train", 0, 12), ("test", 1, 5)):
        found, expected = data.read_digits(tmp_path, split), digits(n, seed)
        assert len(found) == n
        np.testing.assert_array_equal(found.images, expected.images)
        np.testing.assert_array_equal(found.labels, expected.labels)


def test_gzip_is_known_by_its_content(tmp_path) -> None:
    path = tmp_path / "no suffix"
    path.write_bytes(gzip.compress(idx(LABELS)))
    np.testing.assert_array_equal(data.read_idx(path), LABELS)


def test_images_keep_their_order(tmp_path) -> None:
    array = np.arange(2 * 3 * 5, dtype=np.uint8).reshape(2, 3, 5)
    (tmp_path / "x").write_bytes(idx(array))
    np.testing.assert_array_equal(data.read_idx(tmp_path / "x"), array)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is no idx file.*nothing"),
        (b"PK\3\4 a zip file", "is no idx file.*50 4b 03 04"),
        (b"\0\0\x0d\1\0\0\0\1\0\0\0\0", "must hold uint8.*type 13"),
        (b"\0\0\x08\3\0\0\0\1\0\0", "breaks off in its header"),
        (idx(LABELS)[:-1], "truncated: shape .3,. needs 3 bytes after the header, got 2"),
        (idx(LABELS) + b"x", "too long"),
        (b"\0\0\x08\3" + b"\xff" * 12, "truncated"),  # a shape that overflows
        (gzip.compress(idx(LABELS), mtime=0)[:-9], "cannot read"),
        (gzip.compress(idx(LABELS), mtime=0)[:-1] + b"x", "cannot read"),
        (b"\x1f\x8b\x08\0" + b"\xff" * 30, "cannot read"),
    ],
)
def test_a_broken_file_is_named(tmp_path, content, says) -> None:
    path = tmp_path / "broken-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says) as error:
        data.read_idx(path)
    assert str(path) in str(error.value)


def test_a_missing_file_says_how_to_get_it(tmp_path) -> None:
    write(tmp_path, 5, 5)
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"train-labels.*faceresnet data mnist --out"):
        data.read_digits(tmp_path, "train")


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        (np.zeros((3, 28, 27)), LABELS, "28 × 28"),
        (np.zeros((3, 28)), LABELS, "28 × 28"),
        (np.zeros((2, 28, 28)), LABELS, "2 images, but .* 3 labels"),
        (np.zeros((3, 28, 28)), LABELS + 7, "labels 0 … 9.*up to 11"),
        (np.zeros((3, 28, 28)), LABELS + 10 - LABELS.max(), "labels 0 … 9.*up to 10"),
        (np.zeros((3, 28, 28)), LABELS[None], "shape .1, 3."),
        (np.zeros((0, 28, 28)), LABELS[:0], "holds no image"),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path, images, labels, says) -> None:
    for name, array in zip(data.SPLITS["test"], (images, labels), strict=True):
        (tmp_path / name).write_bytes(idx(array))
    with pytest.raises(DataError, match=says):
        data.read_digits(tmp_path, "test")


def test_an_unknown_split_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="train, test, got 'val'"):
        data.read_digits(tmp_path, "val")


@pytest.fixture
def server(tmp_path):
    """A mirror of synthetic files, and its folder."""
    folder = write(tmp_path / "mirror", 6, 4)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments) -> None:
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *arguments) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", folder
        running.shutdown()
        thread.join()


def official(folder, *mirrors):
    return tuple(
        PublishedFile(
            path.name,
            path.stat().st_size,
            hashlib.sha256(path.read_bytes()).hexdigest(),
            tuple(f"{mirror}/{path.name}" for mirror in mirrors),
        )
        for path in sorted(folder.iterdir())
    )


def test_a_download_is_verified_and_then_reads(tmp_path, server, monkeypatch) -> None:
    url, folder = server
    monkeypatch.setattr(data, "OFFICIAL", official(folder, f"{url}/nowhere", url))
    seen = {}
    paths = data.download_mnist(
        tmp_path / "out",
        progress=lambda name, done, total: seen.update({name: (done, total)}),
    )
    assert sorted(path.name for path in paths) == sorted(seen)
    assert all(done == total for done, total in seen.values())
    assert len(data.read_digits(tmp_path / "out", "train")) == 6


def test_a_foreign_file_is_refused(tmp_path, server, monkeypatch) -> None:
    url, _ = server
    here = [replace(file, urls=(f"{url}/{file.name}",)) for file in data.OFFICIAL]
    monkeypatch.setattr(data, "OFFICIAL", here)
    with pytest.raises(DownloadError, match="checksum"):
        data.download_mnist(tmp_path / "out")
    assert not list((tmp_path / "out").glob("*ubyte.gz"))


def test_the_official_files_have_several_homes() -> None:
    names = {f"{name}.gz" for split in data.SPLITS.values() for name in split}
    assert {file.name for file in data.OFFICIAL} == names
    assert all(len(file.urls) >= 3 for file in data.OFFICIAL)
    assert all(url.endswith(f"/{file.name}") for file in data.OFFICIAL for url in file.urls)


@pytest.mark.data
def test_mnist_itself(data_folder) -> None:
    training, test = (data.read_digits(data_folder / "mnist", split) for split in data.SPLITS)
    assert (len(training), len(test)) == (60_000, 10_000)
    assert training.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert training.images.mean() == pytest.approx(33.318, abs=1e-3)
