"""What all tests share: shape checks while they run, and models that need no training.

The functions of the modules below are compiled with the shapes in their signatures checked.
"""

import os
import signal

import jaxtyping

CHECKED = ["faceresnet.boxes", "faceresnet.anchors", "faceresnet.spec", "faceresnet.detections"]
jaxtyping.install_import_hook(CHECKED, "shape_checks.check")

# Ctrl-C is tested in processes that tests start; those of a shell's background jobs ignore it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from pathlib import Path  # noqa: E402

import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from onnx import TensorProto, checker, helper, numpy_helper, save  # noqa: E402

from faceresnet.anchors import Level  # noqa: E402
from faceresnet.cli import main  # noqa: E402
from faceresnet.spec import ModelSpec  # noqa: E402

# A busy machine is no failure.
hypothesis.settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unhurried")

#: Anchors of the blob model: sides in px that each cover squares from 0.71 to 1.22 of their own.
BLOB_LEVELS = (Level(8, (12.0, 18.0)), Level(8, (28.0, 42.0, 62.0)))


def run_cli(capsys, *arguments) -> tuple[int, str, str]:
    """Run the command line in this process; gives exit status, standard output and error."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return stop.value.code or 0, captured.out, captured.err


def blob_spec() -> ModelSpec:
    return ModelSpec(
        name="blob",
        levels=BLOB_LEVELS,
        delta_scales=(0.1, 0.2),
        size_multiple=32,
        threshold=0.5,
        nms_iou=0.3,
        precision="fp32",
        recipe="made by hand",
        licence="none",
        measured={"AP VGA blobs": 1.0},
    )


def make_blob_model(path: Path, spec: ModelSpec | None = None) -> Path:
    """A model made by hand that takes red squares for faces.

    Redness is R − (G + B) / 2. An anchor's logit is large where its mean inside exceeds twice the
    mean of a window of double its side by a quarter: over a red square about as large as the
    anchor, close to its middle. All deltas are 0, so that boxes are anchors. Grey is no face.
    """
    spec = spec or blob_spec()
    nodes, constants, logits = [], [], []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(value, name))
        return name

    def node(operator: str, inputs: list[str], output: str, **attributes) -> str:
        nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    weight = np.array([1, -0.5, -0.5], np.float32).reshape(1, 3, 1, 1) / 255
    node("Cast", ["images"], "float", to=TensorProto.FLOAT)
    node("Transpose", ["float"], "nchw", perm=[0, 3, 1, 2])
    node("Conv", ["nchw", constant("red", weight)], "redness")
    two, gain = constant("two", np.float32(2)), constant("gain", np.float32(40))
    bias, flat = constant("bias", np.float32(-10)), constant("flat", np.array([0, -1], np.int64))
    for number, level in enumerate(spec.levels):
        cells = []
        for side in map(int, level.sizes):
            name = f"{number}_{side}"
            inside, around = (
                node(
                    "AveragePool",
                    ["redness"],
                    f"mean{name}_{window}",
                    kernel_shape=[window, window],
                    strides=[level.stride] * 2,
                    pads=[(window - level.stride) // 2] * 4,
                    count_include_pad=1,
                )
                for window in (side, 2 * side)
            )
            twice = node("Mul", [around, two], f"twice{name}")
            contrast = node("Sub", [inside, twice], f"contrast{name}")
            cells.append(node("Mul", [contrast, gain], f"gained{name}"))
        stacked = node("Concat", cells, f"stacked{number}", axis=1)
        rows = node("Transpose", [stacked], f"rows{number}", perm=[0, 2, 3, 1])
        row = node("Reshape", [rows, flat], f"row{number}")
        logits.append(node("Add", [row, bias], f"logits{number}"))
    four = constant("four", np.array([4], np.int64))
    nodes += [
        helper.make_node("Concat", logits, ["logits"], axis=1),
        helper.make_node("Shape", ["logits"], ["logits_shape"]),
        helper.make_node("Concat", ["logits_shape", four], ["deltas_shape"], axis=0),
        helper.make_node("ConstantOfShape", ["deltas_shape"], ["deltas"]),
    ]
    graph = helper.make_graph(
        nodes,
        "blob",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", "H", "W", 3])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", "R"]),
            helper.make_tensor_value_info("deltas", TensorProto.FLOAT, ["N", "R", 4]),
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    for key, value in spec.to_metadata().items():
        model.metadata_props.add(key=key, value=value)
    checker.check_model(model)
    save(model, path)
    return path


@pytest.fixture(scope="session")
def blob_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file that finds red squares of 10 to 75 px."""
    return make_blob_model(tmp_path_factory.mktemp("models") / "blob.onnx")


@pytest.fixture(scope="session")
def blob_detector(blob_model):
    from faceresnet import FaceDetector

    return FaceDetector(blob_model, threads=1)


@pytest.fixture
def unchecked():
    """Signatures are not checked, as for users: what the code itself says about wrong arguments."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `data` read the real photos; without them they are skipped."""
    if os.environ.get("FACERESNET_DATA"):
        return
    for item in items:
        if item.get_closest_marker("data"):
            item.add_marker(pytest.mark.skip(reason="FACERESNET_DATA is not set"))


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of the real photos, from FACERESNET_DATA; for tests marked `data`."""
    return Path(os.environ["FACERESNET_DATA"])


def blob_image(size: tuple[int, int], *squares: tuple[float, float, int]) -> np.ndarray:
    """A grey image with red squares, each ``centre_x centre_y side`` px."""
    image = np.full((*size, 3), 127, np.uint8)
    for x, y, side in squares:
        image[
            max(0, round(y - side / 2)) : max(0, round(y + side / 2)),
            max(0, round(x - side / 2)) : max(0, round(x + side / 2)),
        ] = (255, 0, 0)
    return image


def crowd_image(size: tuple[int, int] = (128, 640), count: int = 8) -> np.ndarray:
    """Squares of 12 px, a crowd if they are 8, and one of 7 px, which only a closer look finds."""
    return blob_image(size, (600, 100, 7), *((36 + 48 * i, 36, 12) for i in range(count)))
