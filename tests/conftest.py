"""What all tests share: shape checks while they run, and models that need no training.

The functions of the modules below are compiled with the shapes in their signatures checked.
"""

import os

from jaxtyping import install_import_hook

CHECKED = ["faceresnet.boxes", "faceresnet.anchors", "faceresnet.spec", "faceresnet.detections"]
install_import_hook(CHECKED, "beartype.beartype")

from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from onnx import TensorProto, checker, helper, numpy_helper, save  # noqa: E402

from faceresnet.anchors import Level  # noqa: E402
from faceresnet.spec import ModelSpec  # noqa: E402

#: Strides and anchor sizes of the blob model: two levels, one anchor for each cell.
BLOB_LEVELS = (Level(8, (16.0,)), Level(32, (64.0,)))


def blob_spec() -> ModelSpec:
    return ModelSpec(
        name="blob",
        levels=BLOB_LEVELS,
        delta_scales=(0.1, 0.2),
        size_multiple=32,
        threshold=0.5,
        nms_iou=0.4,
        precision="fp32",
        recipe="made by hand",
        licence="none",
        measured={"AP VGA blobs": 1.0},
    )


def make_blob_model(path: Path, spec: ModelSpec | None = None) -> Path:
    """A model made by hand that takes red blobs for faces.

    The redness (R − (G + B) / 2) is averaged over windows of the anchor's size around every cell
    of every level. The logit is high where that is much redder than the ring around the anchor: a
    red square about the size of an anchor, centred on it. All deltas are 0, so that the boxes are
    the anchors. Grey (the padding, noise free) is no face.
    """
    spec = spec or blob_spec()
    nodes, constants, logits = [], [], []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(value, name))
        return name

    weight = np.array([1, -0.5, -0.5], np.float32).reshape(1, 3, 1, 1) / 255
    nodes += [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["nchw", constant("red", weight)], ["redness"]),
    ]
    for level in spec.levels:
        s, side = level.stride, int(level.sizes[0])
        means = {}
        for window in (side, 2 * side):
            pad = (window - s) // 2
            means[window] = f"mean{s}_{window}"
            nodes.append(
                helper.make_node(
                    "AveragePool",
                    ["redness"],
                    [means[window]],
                    kernel_shape=[window, window],
                    strides=[s, s],
                    pads=[pad] * 4,
                    count_include_pad=1,
                )
            )
        # inside = 1 and window of double side = 1/4 for a square of exactly the anchor's size.
        gain = constant(f"gain{s}", np.array(40.0, np.float32))
        twice = constant(f"twice{s}", np.array(3.0, np.float32))
        bias = constant(f"bias{s}", np.array(-6.0, np.float32))
        shape = constant(f"shape{s}", np.array([0, -1], np.int64))
        nodes += [
            helper.make_node("Mul", [means[2 * side], twice], [f"around{s}"]),
            helper.make_node("Sub", [means[side], f"around{s}"], [f"contrast{s}"]),
            helper.make_node("Mul", [f"contrast{s}", gain], [f"gained{s}"]),
            helper.make_node("Add", [f"gained{s}", bias], [f"biased{s}"]),
            helper.make_node("Reshape", [f"biased{s}", shape], [f"logits{s}"]),
        ]
        logits.append(f"logits{s}")
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
    """A model file that finds red squares of 16 and 64 px."""
    return make_blob_model(tmp_path_factory.mktemp("models") / "blob.onnx")


@pytest.fixture(scope="session")
def blob_detector(blob_model):
    from faceresnet import FaceDetector

    return FaceDetector(blob_model, threads=1)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of the real photos, from FACERESNET_DATA; tests that need it are skipped."""
    folder = os.environ.get("FACERESNET_DATA")
    if not folder:
        pytest.skip("FACERESNET_DATA is not set")
    return Path(folder)


def blob_image(size: tuple[int, int], *squares: tuple[float, float, int]) -> np.ndarray:
    """A grey image with red squares, each ``centre_x centre_y side`` px."""
    image = np.full((*size, 3), 127, np.uint8)
    for x, y, side in squares:
        image[
            max(0, round(y - side / 2)) : max(0, round(y + side / 2)),
            max(0, round(x - side / 2)) : max(0, round(x + side / 2)),
        ] = (255, 0, 0)
    return image
