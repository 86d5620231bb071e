import signal
import sys
from unittest.mock import MagicMock

import pytest

from apps.batch.photos import make_photos
from faceresnet.apps import batch
from faceresnet.apps.batch import BatchOptions, cluster
from faceresnet.apps.batch.options import Plan
from faceresnet.apps.batch.shards import Shard
from faceresnet.errors import EngineError, MissingExtraError


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Ten photos, one that kills its worker and one that is broken."""
    monkeypatch.chdir(tmp_path)
    make_photos(tmp_path / "photos", 10)
    (tmp_path / "photos" / "0003x.png").write_bytes(b"SEGFAULT")
    (tmp_path / "photos" / "0004x.png").write_bytes(b"no photo")
    return tmp_path


@pytest.fixture
def ray(monkeypatch):
    """Ray itself; on a busy machine its workers would otherwise hardly get a turn."""
    try:
        import ray
        import ray.data
    except ImportError:
        pytest.skip("Ray is not installed: pip install 'faceresnet[ray]'")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("RAY_ADDRESS", "local")
    yield ray
    assert not ray.is_initialized()


# Ray leaves sockets and files of its own processes to the garbage collector.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
@pytest.mark.usefixtures("deadly")
def test_ray_and_local_processes_make_the_same_parts(photos, blob_model, ray):
    """The job is begun by Ray, which finds half of its parts there already, made locally."""
    options = BatchOptions(model=blob_model, shard_size=4)
    local = batch.run("photos", "local", options, workers=1)
    batch.run("photos", "ray", options, workers=1)
    made = {path.name: path.read_bytes() for path in (photos / "ray").glob("part-*")}
    (photos / "ray" / "_summary.json").unlink()
    (photos / "ray" / "part-00000.parquet").unlink()
    (photos / "ray" / "part-00002.parquet").unlink()
    seen = []
    summary = batch.run("photos", "ray", options, engine="ray", workers=1, on_photos=seen.append)
    assert {path.name: path.read_bytes() for path in (photos / "ray").glob("part-*")} == made
    assert (summary.photos, summary.faces, summary.errors) == (12, 13, 2)
    assert local.errors == 2
    assert summary.photos_now == sum(seen) == 8


def test_a_cluster_that_is_not_there(photos, blob_model, ray):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(EngineError, match="cannot reach Ray"):
        batch.run(
            "photos",
            "out",
            BatchOptions(model=blob_model),
            engine="ray",
            ray_address="nonsense://x",
        )
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (MemoryError(), "MemoryError"),
        (ValueError("first this\nthen that\n \n"), "then that"),
        (None, "RayError"),
    ],
)
def test_what_ray_says_is_said_in_a_line(blob_model, cause, said):
    class RayError(Exception):
        pass

    def fail():
        error = RayError()
        error.cause = cause
        raise error

    ray = MagicMock()
    ray.exceptions.RayError = RayError
    ray.data.from_items.return_value.map_batches.return_value.iter_rows = fail
    plan = Plan(BatchOptions(model=blob_model), "blob", "")
    with pytest.raises(EngineError, match=f"^Ray failed: {said}$"):
        list(cluster._detect_window(ray, [Shard(0, ("a.jpg",))], plan, 1, 1.0))


def test_ray_is_missing(photos, blob_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install -c constraints.txt '\.\[ray\]'"):
        batch.run("photos", "out", BatchOptions(model=blob_model), engine="ray")
