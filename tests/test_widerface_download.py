from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from faceresnet import download, widerface_download
from faceresnet.difficulties import find_difficulties
from faceresnet.errors import DownloadError
from faceresnet.widerface import read_split
from faceresnet.widerface_download import ARCHIVES, download_widerface

LIST = "0--Parade/a.jpg\n1\n1 2 3 4 0 0 0 0 0 0\n"
MATS = [f"wider_{name}_val.mat" for name in ("face", "easy", "medium", "hard")]


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small archives in place of the published ones, and a fetch that copies them."""
    folder = tmp_path / "published"
    folder.mkdir()
    contents = {
        "boxes": {f"wider_face_split/wider_face_{s}_bbx_gt.txt": LIST for s in ("train", "val")},
        "val": {"WIDER_val/images/0--Parade/a.jpg": "val picture"},
        "train": {"WIDER_train/images/0--Parade/a.jpg": "train picture"},
        "tools": {f"eval_tools/ground_truth/{name}": name for name in MATS},
    }
    contents["tools"]["eval_tools/plot/wider_face_val.mat"] = "another file"
    archives = {}
    for part, members in contents.items():
        path = folder / ARCHIVES[part].name
        with zipfile.ZipFile(path, "w") as file:
            for name, text in members.items():
                file.writestr(name, text)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        archives[part] = replace(ARCHIVES[part], sha256=digest, size_bytes=path.stat().st_size)

    def copy(urls: Sequence[str], target: Path, sha256: str, *, progress, timeout_s: float) -> Path:
        content = (folder / target.name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == sha256
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        progress(len(content), None)
        return target

    monkeypatch.setattr(widerface_download, "ARCHIVES", archives)
    monkeypatch.setattr(download, "fetch", copy)
    return folder


def test_what_is_downloaded_can_be_read(published: Path, tmp_path: Path) -> None:
    seen = {}
    report = lambda name, done, total: seen.update({name: (done, total)})  # noqa: E731
    out = tmp_path / "new" / "wider"
    paths = download_widerface(out, progress=report)
    assert [path.name for path in paths] == [archive.name for archive in ARCHIVES.values()]
    assert set(seen) == {path.name for path in paths}
    assert all(done == total > 0 for done, total in seen.values())
    assert read_split(out, "val")[0].read_bytes() == b"val picture"
    assert read_split(out, "train")[0].read_bytes() == b"train picture"
    assert find_difficulties(out) == out / "ground_truth"
    assert (out / "ground_truth" / "wider_face_val.mat").read_text() == "wider_face_val.mat"
    assert sorted(path.name for path in (out / "ground_truth").iterdir()) == sorted(MATS)


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("val", ["wider_face_split.zip", "WIDER_val.zip", "eval_tools.zip"]),
        ("train", ["wider_face_split.zip", "WIDER_train.zip"]),
    ],
)
def test_one_split(published: Path, tmp_path: Path, split: str, names: list[str]) -> None:
    assert [path.name for path in download_widerface(tmp_path / "out", splits=[split])] == names
    assert download_widerface(tmp_path / "out", splits=split)


def test_tools_without_the_ground_truth(published: Path, tmp_path: Path) -> None:
    (published / "eval_tools.zip").unlink()
    with zipfile.ZipFile(published / "eval_tools.zip", "w") as file:
        file.writestr("eval_tools/ground_truth/wider_face_val.mat", "")
    digest = hashlib.sha256((published / "eval_tools.zip").read_bytes()).hexdigest()
    archives = widerface_download.ARCHIVES
    archives["tools"] = replace(archives["tools"], sha256=digest)
    with pytest.raises(DownloadError, match=r"does not hold wider_easy_val\.mat"):
        download_widerface(tmp_path / "out", splits=["val"])


def test_arguments(tmp_path: Path) -> None:
    for splits in ([], ["test"], ["val", "test"]):
        with pytest.raises(ValueError, match="some of train, val"):
            download_widerface(tmp_path, splits=splits)
