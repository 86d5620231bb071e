import builtins
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from conftest import blob_image, blob_spec, make_blob_model
from faceresnet import EngineError, MissingExtraError, ModelError
from faceresnet.anchors import make_anchors
from faceresnet.apps.demo import make_crowd
from faceresnet.engine import _OpenVino, open_engine, read_spec
from faceresnet.telemetry import import_openvino
from faceresnet.weights import shipped

ENGINES = ["openvino", "onnxruntime"]


@pytest.fixture(scope="module", params=ENGINES)
def engine(request, blob_model):
    return open_engine(blob_model, request.param, threads=1)


def squares(height, width, seed=0):
    rng = np.random.default_rng(seed)
    places = [(rng.integers(0, width), rng.integers(0, height), side) for side in (12, 18, 62)]
    return blob_image((height, width), *places)


def test_outputs_fit_the_anchors(engine):
    for images in (squares(64, 96)[None], np.stack([squares(96, 64, seed) for seed in range(3)])):
        logits, deltas = engine(images)
        count = len(make_anchors(engine.spec.levels, images.shape[1:3]))
        assert logits.shape == (len(images), count)
        assert deltas.shape == (len(images), count, 4)
        assert logits.dtype == deltas.dtype == np.float32


def test_the_spec_comes_from_the_file(engine, blob_model):
    assert engine.spec == read_spec(blob_model) == blob_spec()


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="how much memory there is used")
def test_memory_does_not_grow_with_the_sizes_of_photos():
    code = """if True:
        import numpy as np
        from faceresnet.engine import open_engine
        from faceresnet.weights import locate

        def pages():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1])

        engine = open_engine(locate(), "openvino", threads=1, repeatable=True)
        used = []
        for number in range(120):
            side = np.zeros((1, 32 + 32 * (number // 12), 32 + 32 * (number % 12), 3), np.uint8)
            engine(side)
            used.append(pages())
        print((used[-1] - used[40]) / used[40])
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.4, "OpenVINO's own limit lets it double"


def test_engines_agree_for_every_shape_and_batch(blob_model):
    ours = open_engine(blob_model, "openvino", threads=1)
    theirs = open_engine(blob_model, "onnxruntime", threads=1)
    for height, width in [(64, 64), (96, 160), (64, 64), (320, 32), (256, 416)]:
        for count in (1, 3):
            images = np.stack([squares(height, width, seed) for seed in range(count)])
            for a, b in zip(ours(images), theirs(images), strict=True):
                np.testing.assert_allclose(a, b, atol=1e-3)


INT8 = sorted(name for name, file in shipped().items() if read_spec(file).precision == "int8")
SAVE_OUTPUTS = """
import sys
import numpy as np
from faceresnet.engine import open_engine
model, engine, image, out = sys.argv[1:]
logits, deltas = open_engine(model, engine, threads=1)(np.load(image))
np.savez(out, logits=logits, deltas=deltas)
"""


@pytest.mark.parametrize("name", INT8)
@pytest.mark.parametrize("engine", ENGINES)
def test_shipped_models_lose_nothing_without_vnni(name, engine, tmp_path):
    """Sums of two products, which older processors keep in 16 bits, would saturate."""
    import onnxruntime

    file = shipped()[name]
    image = make_crowd()[0][None, :256, :320]
    np.save(tmp_path / "image.npy", image)
    subprocess.run(
        [
            sys.executable,
            "-c",
            SAVE_OUTPUTS,
            file,
            engine,
            *(tmp_path / "image.npy", tmp_path / "out.npz"),
        ],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"},  # OpenVINO's; here, where it has more
        check=True,
    )
    options = onnxruntime.SessionOptions()  # computes in float32 what stands in the file
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    exact = onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])
    outputs = np.load(tmp_path / "out.npz")
    for name_, want in zip(
        ["logits", "deltas"], exact.run(["logits", "deltas"], {"images": image}), strict=True
    ):
        assert np.abs(outputs[name_] - want).mean() < 0.2  # 0.6 and 1.1 where they saturate


def test_outputs_are_the_callers_own(engine):
    first = engine(squares(64, 64)[None])[0]
    copy = first.copy()
    engine(blob_image((64, 64))[None])
    np.testing.assert_array_equal(first, copy)


def test_images_that_may_only_be_read(engine):
    photo = squares(64, 96)[None]
    expected = engine(photo)
    photo.setflags(write=False)
    for got, wanted in zip(engine(photo), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_only_who_takes_all_cores_is_bound_to_them(blob_model, monkeypatch):
    monkeypatch.setattr("faceresnet.engine.affinity", lambda: 2)

    def bound(threads):
        engine = open_engine(blob_model, threads=threads)
        engine(squares(64, 64)[None])
        (own,) = engine._infer._own.values()
        return own._model.get_property("ENABLE_CPU_PINNING")

    model = import_openvino().Core().compile_model(str(blob_model), "CPU")
    default = model.get_property("ENABLE_CPU_PINNING")
    assert [bound(threads) for threads in (None, 2, 1)] == [default, default, False]


def test_many_threads_at_once(engine):
    photos = [squares(64 + 32 * (i % 3), 96, seed=i)[None] for i in range(12)]
    alone = [engine(photo)[0] for photo in photos]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda photo: engine(photo)[0], photos * 3))
    for logits, expected in zip(together, alone * 3, strict=True):
        np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_a_shape_that_returns_gets_its_own_model(blob_model, monkeypatch):
    monkeypatch.setattr(_OpenVino, "PATIENCE", 0.0)
    engine = open_engine(blob_model, threads=1)
    shapes = [(32 * n, 64) for n in range(1, 8)]
    for _ in range(3):
        for shape in shapes:
            photo = squares(*shape)[None]
            expected = open_engine(blob_model, "onnxruntime", threads=1)(photo)[0]
            np.testing.assert_allclose(engine(photo)[0], expected, atol=1e-3)
    kept = engine._infer._own
    assert len(kept) == _OpenVino.KEPT
    assert list(kept) == [(1, *shape, 3) for shape in shapes[-_OpenVino.KEPT :]]


def test_a_repeatable_engine_gives_the_same_whatever_came_before(blob_model, monkeypatch):
    monkeypatch.setattr(_OpenVino, "PATIENCE", 0.0)
    engine = open_engine(blob_model, threads=1, repeatable=True)
    photo = squares(64, 96)[None]
    first = engine(photo)
    for shape in ((32, 64), (96, 64), (64, 96)) * 3:
        engine(squares(*shape)[None])
    for before, after in zip(first, engine(photo), strict=True):
        np.testing.assert_array_equal(before, after)
    assert not engine._infer._own


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 64, 64, 3), np.float32),
        np.zeros((64, 64, 3), np.uint8),
        np.zeros((1, 3, 64, 64), np.uint8),
        np.zeros((1, 60, 64, 3), np.uint8),
        np.zeros((0, 64, 64, 3), np.uint8),
    ],
)
def test_wrong_arrays_are_refused(engine, images):
    with pytest.raises(ValueError, match=r"uint8|multiples"):
        engine(images)


def test_wrong_arguments(blob_model):
    with pytest.raises(ValueError, match="openvino, onnxruntime"):
        open_engine(blob_model, "tensorflow")
    with pytest.raises(ValueError, match="threads"):
        open_engine(blob_model, threads=0)


@pytest.mark.parametrize("name", ENGINES)
def test_a_device_that_is_not_there(blob_model, name):
    with pytest.raises(EngineError, match=r"no device 'quantum' here, only: .*cpu"):
        open_engine(blob_model, name, device="quantum")


def test_cuda_belongs_to_the_other_engine(blob_model):
    """In `batch`, --engine says something else."""
    with pytest.raises(EngineError, match="onnxruntime") as refused:
        open_engine(blob_model, "openvino", device="cuda")
    for way in ("engine='onnxruntime'", "--engine onnxruntime", "batch --runtime onnxruntime"):
        assert way in str(refused.value)


def test_onnxruntime_may_not_fall_back(blob_model, monkeypatch):
    import onnxruntime

    session = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: session)
    with pytest.raises(EngineError, match="would fall back to CPU"):
        open_engine(blob_model, "onnxruntime", device="cuda")


def test_onnxruntime_is_an_extra(blob_model, monkeypatch):
    real_import = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "onnxruntime":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        MissingExtraError, match=r"pip install -c constraints.txt '\.\[onnxruntime\]'"
    ):
        open_engine(blob_model, "onnxruntime")


@pytest.mark.parametrize("name", ENGINES)
def test_files_that_are_no_model(tmp_path, name):
    with pytest.raises(ModelError, match="no model file"):
        open_engine(tmp_path / "nothing.onnx", name)
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"not a model at all" * 9)
    with pytest.raises(ModelError, match=r"garbage\.onnx") as error:
        open_engine(garbage, name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ENGINES)
def test_models_of_somebody_else(tmp_path, name):
    path = make_blob_model(tmp_path / "model.onnx")
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, path)
    with pytest.raises(ModelError, match="not a faceresnet model"):
        open_engine(path, name)


@pytest.mark.parametrize("name", ENGINES)
def test_models_with_other_outputs(tmp_path, name):
    path = make_blob_model(tmp_path / "model.onnx")
    model = onnx.load(path)
    del model.graph.output[1]
    onnx.save(model, path)
    with pytest.raises(ModelError, match="deltas"):
        open_engine(path, name)
