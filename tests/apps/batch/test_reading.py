import http.server
import threading
from types import SimpleNamespace

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from faceresnet.apps.batch import listing, reading, worker
from faceresnet.apps.batch.listing import Cell
from faceresnet.apps.batch.options import BatchOptions, Plan
from faceresnet.apps.batch.reading import Reader
from faceresnet.errors import ImageError


@pytest.fixture
def read(tmp_path):
    reader = Reader(str(tmp_path), None)
    yield reader
    reader.close()


def test_paths_start_from_the_job_s_folder(read, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"photo")
    assert read("a.jpg") == read(str(tmp_path / "a.jpg")) == b"photo"
    assert read((tmp_path / "a.jpg").as_uri()) == b"photo"


def test_large_files_are_left_to_the_decoder(read, tmp_path, monkeypatch):
    (tmp_path / "a.tif").write_bytes(b"photo")
    monkeypatch.setattr(reading, "AHEAD_BYTES", 4)
    assert read("a.tif") == tmp_path / "a.tif"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gone.jpg", "no such file"),
        (".", "it is no file"),
        ("/dev/zero", "it is no file"),
        ("a\0b", "cannot read the file"),
        ("x" * 300, "File name too long"),
        ("nonsense://x", "nonsense"),
        ("memory://gone/x.jpg", "cannot download it"),
    ],
)
def test_what_cannot_be_read(read, path, message):
    with pytest.raises(ImageError, match=message):
        read(path)


def test_stores(read):
    fsspec.filesystem("memory").pipe_file("/reading/a.jpg", b"photo")
    assert read("memory://reading/a.jpg") == b"photo"


def test_what_is_too_large_far_away(read, monkeypatch):
    fsspec.filesystem("memory").pipe_file("/reading/large.jpg", b"x" * 100)
    monkeypatch.setattr(reading, "REMOTE_BYTES", 99)
    with pytest.raises(ImageError, match="larger than the limit"):
        read("memory://reading/large.jpg")


@pytest.mark.parametrize("row_group_size", [1, 3, 100])
@pytest.mark.parametrize("rows", [range(40), [5, 6, 30, 39], [39, 0, 20, 20, 3]])
def test_cells_in_any_order(read, tmp_path, row_group_size, rows):
    values = [b"photo %d" % number for number in range(40)]
    pq.write_table(pa.table({"p": values}), tmp_path / "t.parquet", row_group_size=row_group_size)
    for row in rows:
        assert read(Cell("t.parquet", row)) == values[row]


def test_cells_are_read_ahead_without_opening_their_file_again(tmp_path, monkeypatch):
    pq.write_table(pa.table({"p": [b"no photo"] * 400}), tmp_path / "t.parquet", row_group_size=50)
    opened = []

    def open_file(path):
        opened.append(path)
        return listing.open_file(path)

    monkeypatch.setattr(reading, "open_file", open_file)
    plan = Plan(BatchOptions(), "none", str(tmp_path))
    looker = worker.Looker(plan, SimpleNamespace(batch=lambda photos: list(photos)))
    looks = looker.look([Cell("t.parquet", row) for row in range(400)])
    assert all(look.error for look in looks)
    assert len(opened) == 1


def test_cells_of_other_kinds(read, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"from a file")
    images = [
        {"bytes": b"inside", "path": "x.jpg"},
        {"bytes": None, "path": "a.jpg"},
        {"bytes": None, "path": None},
        None,
    ]
    pq.write_table(pa.table({"image": images}), tmp_path / "t.parquet")
    assert read(Cell("t.parquet", 0)) == b"inside"
    assert read(Cell("t.parquet", 1)) == b"from a file"
    for row in (2, 3):
        with pytest.raises(ImageError, match="the cell is empty"):
            read(Cell("t.parquet", row))
    for cell, why in (
        (Cell("t.parquet", 4), "there is no such row"),
        (Cell("gone.parquet", 0), "it does not exist"),
    ):
        with pytest.raises(ImageError, match=f"cannot read the cell: .*{why}"):
            read(cell)
    assert read(Cell("t.parquet", 0)) == b"inside"


@pytest.fixture
def server(monkeypatch):
    """A server on loopback: `answers` by path are taken from the front, the last one stays."""
    monkeypatch.setattr(reading, "PAUSES_S", (0.0, 0.0, 0.0))
    answers: dict[str, list[tuple[int, bytes, int]]] = {}
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            waiting = answers[self.path]
            status, content, length = waiting.pop(0) if len(waiting) > 1 else waiting[0]
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        server.answers, server.asked = answers, asked
        server.url = f"http://127.0.0.1:{server.server_port}"
        yield server
        server.shutdown()


@pytest.mark.parametrize("first", [(503, b"busy", 4), (429, b"", 0), (200, b"cut", 5)])
def test_what_may_pass_is_asked_for_again(read, server, first):
    server.answers["/a.jpg"] = [first, (200, b"photo", 5)]
    assert read(f"{server.url}/a.jpg") == b"photo"
    assert len(server.asked) == 2


@pytest.mark.parametrize(("status", "times"), [(404, 1), (403, 1), (500, 3)])
def test_what_does_not_pass_is_an_error(read, server, status, times):
    server.answers["/a.jpg"] = [(status, b"", 0)]
    with pytest.raises(ImageError, match="cannot download it: "):
        read(f"{server.url}/a.jpg")
    assert len(server.asked) == times
