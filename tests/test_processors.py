from faceresnet import processors


def test_cores_of_a_container(tmp_path, monkeypatch):
    monkeypatch.setattr(processors, "CPU_MAX", tmp_path / "cpu.max")
    monkeypatch.setattr(
        processors.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False
    )
    assert processors.cores() == 8
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert processors.cores() == 8
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    assert processors.cores() == 2
    assert processors.affinity() == 8


def test_cores():
    assert processors.cores() >= 1
