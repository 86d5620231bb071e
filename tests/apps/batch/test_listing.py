import io
import os

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faceresnet.apps.batch import listing
from faceresnet.apps.batch.listing import Cell, fingerprint, from_json, list_entries, name, to_json
from faceresnet.errors import DataError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Empty files in folders, and a link back up; the current folder."""
    monkeypatch.chdir(tmp_path)
    for path in ["p/b/2.PNG", "p/a.jpg", "p/c.txt", "p/b/1.jpg", "p/.hidden/x.jpg", "p/.x.jpg"]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / "p" / "b" / "up").symlink_to(tmp_path / "p")
    (tmp_path / "p" / "z.jpg").symlink_to(tmp_path / "p" / "a.jpg")
    return tmp_path


def table(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return str(path)


def test_a_folder_is_searched_in_order(folder):
    assert list(list_entries("p")) == ["p/a.jpg", "p/z.jpg", "p/b/1.jpg", "p/b/2.PNG"]


def test_an_address_names_the_same_photos(folder):
    here = folder.as_posix()
    assert list(list_entries(f"file://{here}/p")) == [
        f"file://{here}/p/{path}" for path in ("a.jpg", "z.jpg", "b/1.jpg", "b/2.PNG")
    ]


def test_a_store(folder):
    store = fsspec.filesystem("memory")
    for path in ("/listing/b/1.jpg", "/listing/a.jpg", "/listing/notes.txt"):
        store.pipe_file(path, b"x")
    expected = ["memory:///listing/a.jpg", "memory:///listing/b/1.jpg"]
    assert list(list_entries("memory://listing")) == expected
    assert list(list_entries("memory://listing/*.jpg")) == expected[:1]
    assert list(list_entries("memory://listing/a.jpg")) == ["memory://listing/a.jpg"]


def test_a_photo_and_a_glob(folder):
    assert list(list_entries("p/a.jpg")) == ["p/a.jpg"]
    assert list(list_entries("p/*.jpg")) == ["p/a.jpg", "p/z.jpg"]


def test_a_list(folder):
    content = (
        "\ufeffa b.jpg\r\n\n  \nhttps://x/y.jpg\n# no comment\na b.jpg".encode() + b"\n\xff.jpg"
    )
    (folder / "list.txt").write_bytes(content)
    entries = list(list_entries("list.txt"))
    assert entries == ["a b.jpg", "https://x/y.jpg", "# no comment", "a b.jpg", "\udcff.jpg"]
    assert name(entries[-1]) == r"\xff.jpg"
    assert name("http://joe:geheim@cam/x.jpg") == "http://joe:***@cam/x.jpg"
    assert os.fsencode(entries[-1]) == b"\xff.jpg"


def test_a_list_on_standard_input(folder, monkeypatch):
    stdin = io.TextIOWrapper(io.BytesIO(b"a.jpg\nb.jpg\n"))
    monkeypatch.setattr("sys.stdin", stdin)
    assert list(list_entries("-")) == ["a.jpg", "b.jpg"]


def test_a_parquet_file_of_paths(folder):
    file = table(folder / "t.parquet", photo=["a.jpg", None, "s3://b/c.jpg"], size=[1, 2, 3])
    assert list(list_entries(file)) == ["a.jpg", Cell(file, 1), "s3://b/c.jpg"]


def test_parquet_files_of_photos(folder):
    first = table(folder / "t" / "1.parquet", image=[b"x", b"y"])
    second = table(folder / "t" / "2.parquet", image=[{"bytes": b"x", "path": "x.jpg"}])
    expected = [Cell(first, 0), Cell(first, 1), Cell(second, 0)]
    assert list(list_entries(str(folder / "t"))) == expected
    assert list(list_entries(str(folder / "t" / "*.parquet"))) == expected
    assert name(expected[1]) == f"{first}#1"


def test_the_column_can_be_named(folder):
    file = table(folder / "t.parquet", a=["1.jpg"], b=["2.jpg"], n=[1])
    assert list(list_entries(file, "b")) == ["2.jpg"]
    with pytest.raises(ValueError, match=r"name one of a \(string\), b \(string\)"):
        list(list_entries(file))
    with pytest.raises(ValueError, match="has no column 'n' of texts or bytes, only: a, b"):
        list(list_entries(file, "n"))
    with pytest.raises(ValueError, match="no column of paths"):
        list(list_entries(table(folder / "n.parquet", n=[1])))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("gone", "cannot read gone: it does not exist"),
        ("empty", "empty names no photo"),
        ("*.nothing", "does not exist"),
        ("binary", "no list of photos"),
        ("broken.parquet", "no readable Parquet file"),
        ("nonsense://x", "cannot open nonsense://x"),
    ],
)
def test_what_is_no_source(folder, source, message):
    (folder / "empty").mkdir()
    (folder / "binary").write_bytes(b"PK\0\0")
    (folder / "broken.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(DataError, match=message):
        list(list_entries(source))


def test_a_list_for_a_store_that_is_not_installed(folder, monkeypatch):
    def missing(scheme):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    (folder / "list.txt").write_text("a.jpg\ns3://b/c.jpg\n")
    with pytest.raises(DataError, match="cannot read s3://: Install s3fs"):
        list(list_entries("list.txt"))


def test_fingerprints(folder):
    text = folder / "list.txt"
    text.write_text("a.jpg\nb.jpg\n")
    before = fingerprint(str(text))
    assert before == fingerprint(text.as_uri())
    text.write_text("a.jpg\nc.jpg\n")
    assert fingerprint(str(text)) != before
    before = fingerprint(table(folder / "t.parquet", a=["1.jpg"]))
    assert fingerprint(table(folder / "t.parquet", a=["2.jpg"])) != before
    odd = folder / "list[1].txt"
    odd.write_text("1.jpg")
    assert fingerprint(str(odd)) == fingerprint(f"file://{odd}") != "", "it is no glob"
    assert fingerprint(str(folder / "none*")) == ""
    assert fingerprint(str(folder / "p")) == fingerprint("p/a.jpg") == ""


@given(st.text(st.characters(exclude_characters="\0\n\r", codec="utf-8"), min_size=1))
def test_a_line_comes_back_from_the_saved_listing(line):
    (entry,) = listing._lines([line.encode() + b"\n"], "x") if line.strip() else (line,)
    assert from_json(to_json(entry)) == entry
    assert from_json(to_json(Cell(line, 3))) == Cell(line, 3)
