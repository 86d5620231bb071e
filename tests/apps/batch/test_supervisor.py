import io
import os
import signal
import threading

import pytest

from apps.batch.photos import make_photo, make_photos
from faceresnet.apps.batch import supervisor as supervisors
from faceresnet.apps.batch.listing import Cell
from faceresnet.apps.batch.messages import Task, receive, send
from faceresnet.apps.batch.options import BatchOptions, Plan
from faceresnet.apps.batch.supervisor import Closed, Supervisor
from faceresnet.errors import EngineError


@pytest.fixture
def supervise(blob_model, tmp_path):
    """Make supervisors; they are closed at the end."""
    made = []

    def supervise(timeout_s=100.0, **options):
        options = BatchOptions(**{"model": blob_model, **options})
        made.append(Supervisor(Plan(options, "blob", str(tmp_path)), timeout_s))
        return made[-1]

    yield supervise
    for supervisor in made:
        supervisor.close()


def found(looked):
    return [row.error or len(row.faces) for row in looked]


def test_one_process_looks_at_everything(supervise, tmp_path):
    make_photos(tmp_path, 4)
    (tmp_path / "broken.png").write_bytes(b"no photo")
    supervisor = supervise()
    ticks = []
    names = ["0000.png", "0003.png", "broken.png", "gone.png", "0001.png"]
    looked = supervisor.look(names, lambda: ticks.append(1))
    process = supervisor._process
    assert found(looked[:2]) == [0, 3]
    assert "no image" in looked[2].error
    assert looked[3].error == "there is no such file"
    assert (looked[4].width, looked[4].height) == (200, 96)
    assert looked[4].faces[0][:4] == pytest.approx((27, 27, 45, 45), abs=4)
    assert len(ticks) == 5
    assert found(supervisor.look(["0002.png"])) == [2]
    assert supervisor._process is process


@pytest.mark.usefixtures("deadly")
def test_photos_that_end_their_worker_are_found(supervise, tmp_path):
    make_photos(tmp_path, 4)
    for name in ("SEGFAULT", "NO MEMORY"):
        (tmp_path / f"{name}.png").write_bytes(name.encode())
    names = ["0001.png", "SEGFAULT.png", "0002.png", "NO MEMORY.png", "0003.png"]
    looked = supervise().look(names)
    assert found(looked[::2]) == [1, 2, 3]
    assert "SIGSEGV" in looked[1].error
    assert "MemoryError" in looked[3].error


@pytest.mark.usefixtures("deadly")
def test_a_worker_that_dies_once_costs_no_photo(supervise, tmp_path):
    photo = make_photo(tmp_path / "0001.png", 1)
    marker = tmp_path / "marker"
    photo.write_bytes(photo.read_bytes() + b"ONCE " + os.fsencode(marker))
    assert found(supervise().look(["0001.png"])) == [1]
    assert marker.exists()


@pytest.mark.usefixtures("deadly")
def test_a_photo_that_takes_too_long(supervise, tmp_path):
    make_photos(tmp_path, 2)
    (tmp_path / "HANG.png").write_bytes(b"HANG")
    looked = supervise(timeout_s=3).look(["0001.png", "HANG.png", "0000.png"])
    assert found(looked[::2]) == [1, 0]
    assert "longer than 3 s" in looked[1].error


def test_a_worker_that_is_killed_costs_no_photo(supervise, tmp_path):
    make_photos(tmp_path, 12)
    names = sorted(path.name for path in tmp_path.glob("*.png"))
    supervisor = supervise()
    rows = []

    def kill_at_five():
        rows.append(1)
        if len(rows) == 5:
            os.kill(supervisor._process.pid, signal.SIGKILL)

    assert found(supervisor.look(names, kill_at_five)) == [0, 1, 2, 3] * 3


def test_closing_ends_a_look_at_once(supervise, tmp_path):
    make_photos(tmp_path, 1)
    supervisor = supervise()
    ended = []

    def look():
        with pytest.raises(Closed):
            supervisor.look(["0000.png"] * 100_000, begun.set)
        ended.append(True)

    begun = threading.Event()
    thread = threading.Thread(target=look)
    thread.start()
    assert begun.wait(60)
    process = supervisor._process
    supervisor.close()
    thread.join(10)
    assert ended
    assert process.poll() is not None


def test_an_engine_that_cannot_start(supervise):
    with pytest.raises(EngineError, match="no device 'npu'"):
        supervise(device="npu").look(["x.png"])


def test_workers_that_die_at_their_start(supervise, tmp_path, monkeypatch):
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text("import os\nos._exit(7)\n")
    monkeypatch.syspath_prepend(folder)
    with pytest.raises(EngineError, match=r"workers cannot start here: exit status 7"):
        supervise().look(["x.png"])


def test_workers_that_hang_at_their_start(supervise, tmp_path, monkeypatch):
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr("faceresnet.apps.batch.supervisor.START_TIMEOUT_S", 0.25)
    with pytest.raises(EngineError, match=r"cannot start here: it took longer than 0\.25 s"):
        supervise().look(["x.png"])


def test_a_worker_ends_with_its_supervisor(tmp_path, blob_model):
    """One that is killed cannot end anything: the worker sees it."""
    make_photos(tmp_path, 1)
    code = (
        "import os\n"
        "from faceresnet.apps.batch.options import BatchOptions, Plan\n"
        "from faceresnet.apps.batch.supervisor import Supervisor\n"
        f"options = BatchOptions(model={str(blob_model)!r})\n"
        f"s = Supervisor(Plan(options, 'blob', {str(tmp_path)!r}), 9)\n"
        "s._start()\n"
        "print(s._process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = supervisors.subprocess.run(
        [supervisors.sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    pid = int(done.stdout)
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if (status := f"/proc/{pid}/status") and os.path.exists(status):
            with open(status) as file:
                if "(zombie)" in file.read():  # it has ended; nobody here fetches its status
                    return
        threading.Event().wait(0.1)
    pytest.fail("the worker lives on")


def test_a_message_that_breaks_off_is_an_end():
    content = io.BytesIO()
    send(content, Task(("a.png", Cell("b.parquet", 2)), careful=True))
    for size in range(len(content.getvalue())):
        reading, writing = os.pipe()
        with open(reading, "rb") as pipe:
            with open(writing, "wb") as file:
                file.write(content.getvalue()[:size])
            with pytest.raises(EOFError):
                receive(pipe)


def test_libraries_in_workers_have_one_thread():
    environment = supervisors._environment(on_cpu=True)
    assert environment["OMP_NUM_THREADS"] == environment["OPENBLAS_NUM_THREADS"] == "1"
