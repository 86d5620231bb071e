import pytest

from apps.batch.photos import DEADLY


@pytest.fixture
def deadly(tmp_path_factory, monkeypatch):
    """Workers die of photos that hold a word (`photos.DEADLY`)."""
    folder = tmp_path_factory.mktemp("deadly")
    (folder / "sitecustomize.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(folder)
