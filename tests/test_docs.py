import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("material", reason="pip install 'faceresnet[docs]'")
pytest.importorskip("mkdocstrings", reason="pip install 'faceresnet[docs]'")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages, built with nothing missing."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_every_public_name_has_its_place(site):
    import faceresnet

    pages = "".join(page.read_text() for page in (site / "api").rglob("*.html"))
    public = [getattr(faceresnet, name) for name in faceresnet.__all__ if name != "__version__"]
    homes = [f"{one.__module__}.{one.__name__}" for one in public]
    more = ["faceresnet.apps.batch.run", "faceresnet.evaluation.evaluate"]
    for name in [*homes, *more, "faceresnet.video.reading.open_video"]:
        assert f'id="{name}"' in pages, name


@pytest.mark.slow
def test_the_pages_load_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        loaded = re.findall(r"<(?:script|img|iframe)[^>]*\ssrc=\"([^\"]+)\"", page.read_text())
        loaded += re.findall(
            r"<link[^>]*rel=\"stylesheet\"[^>]*href=\"([^\"]+)\"", page.read_text()
        )
        assert loaded
        assert not [address for address in loaded if "//" in address], page


@pytest.mark.slow
def test_every_document_and_example_is_there(site):
    for document in (ROOT / "docs").glob("*.md"):
        name = "" if document.stem == "index" else document.stem
        assert (site / name / "index.html").exists(), document
    page = (site / "examples" / "index.html").read_text()
    shown = html.unescape(re.sub(r"<[^>]+>", "", page))
    for example in (ROOT / "examples").glob("*.py"):
        assert example.name in shown
        assert example.read_text().strip() in shown, example
