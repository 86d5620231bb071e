import hashlib

import pytest

from faceresnet import DownloadError, ModelError, weights


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "small.onnx").write_bytes(b"small")
    monkeypatch.setattr(weights, "SHIPPED", folder)
    return folder


@pytest.fixture
def published(shipped, tmp_path, monkeypatch):
    content = b"a" * 64
    sha256 = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(weights, "PUBLISHED", {"big": weights.Published("big-1.onnx", sha256)})
    monkeypatch.setenv(weights.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(weights.URL_VARIABLE, raising=False)
    return content


def test_shipped_names_and_paths(shipped, tmp_path):
    assert weights.shipped() == {"small": shipped / "small.onnx"}
    assert weights.locate("small") == shipped / "small.onnx"
    own = tmp_path / "own.onnx"
    own.write_bytes(b"own")
    assert weights.locate(own) == weights.locate(str(own)) == own


def test_unknown_names_list_the_known(shipped):
    with pytest.raises(ModelError, match="'large'; known are: small"):
        weights.locate("large")


def test_a_name_too_long_for_a_file_is_unknown(shipped):
    with pytest.raises(ModelError, match="no model is called 'xxx"):
        weights.locate("x" * 300)


def test_a_missing_path_is_said_to_be_missing(tmp_path):
    with pytest.raises(ModelError, match=r"no model file .*gone\.onnx"):
        weights.locate(tmp_path / "gone.onnx")


def test_a_published_model_needs_an_address(published):
    with pytest.raises(DownloadError, match=weights.URL_VARIABLE):
        weights.locate("big")


def test_a_published_model_is_fetched_from_the_address(published, tmp_path, monkeypatch):
    asked = []

    def fetch(urls, target, sha256):
        asked.append((urls, sha256))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(published)
        return target

    monkeypatch.setattr(weights, "fetch", fetch)
    monkeypatch.setenv(weights.URL_VARIABLE, "https://example.org/models/")
    path = weights.locate("big")
    assert path == tmp_path / "cache" / "big-1.onnx"
    sha256 = weights.PUBLISHED["big"].sha256
    assert asked == [(["https://example.org/models/big-1.onnx"], sha256)]


def test_a_cached_model_needs_no_address_unless_it_is_damaged(published, tmp_path):
    cached = tmp_path / "cache" / "big-1.onnx"
    cached.parent.mkdir()
    cached.write_bytes(published)
    assert weights.locate("big") == cached
    cached.write_bytes(published[:-1])
    with pytest.raises(DownloadError):
        weights.locate("big")


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.delenv(weights.CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert weights.cache_folder() == tmp_path / "faceresnet"
    monkeypatch.setenv(weights.CACHE_VARIABLE, str(tmp_path / "mine"))
    assert weights.cache_folder() == tmp_path / "mine"
