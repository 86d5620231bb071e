"""Inference engines: images in, logits and deltas out.

OpenVINO is the default; ONNX Runtime is the alternative and serves CUDA. An engine runs on the
device that was asked for or not at all.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from jaxtyping import Float32, UInt8

from faceresnet.errors import EngineError, ModelError, last_line, needs
from faceresnet.processors import affinity
from faceresnet.spec import METADATA_KEY, ModelSpec
from faceresnet.telemetry import import_openvino

if TYPE_CHECKING:
    import onnxruntime
    import openvino

Outputs: TypeAlias = tuple[Float32[np.ndarray, "N R"], Float32[np.ndarray, "N R 4"]]
Infer: TypeAlias = Callable[[UInt8[np.ndarray, "N H W 3"]], Outputs]

#: What `open_engine` can be asked for.
ENGINES = ("openvino", "onnxruntime")

#: Threads that an engine may be asked for.
MOST_THREADS = 1_024

#: Names of the network's input and outputs in every model file.
INPUT = "images"
OUTPUTS = ("logits", "deltas")

#: ONNX Runtime's execution provider for each device name.
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}
#: Layers, each for one shape, that OpenVINO keeps prepared. After photos of 200 sizes the process
#: has 350 MB; with the 5,000 that OpenVINO would keep it has 680, grows on, and is no faster.
CACHED = 1_000
#: What to choose for CUDA: in Python, in the commands and in `batch`, where --engine is another.
_CUDA_ENGINE = (
    "CUDA needs ONNX Runtime: engine='onnxruntime', --engine onnxruntime, in batch "
    "--runtime onnxruntime"
)


@dataclass(frozen=True)
class Engine:
    """A network ready to run; may be called from several threads at once.

    Attributes:
        name: which library runs it.
        device: where it runs.
        spec: what the model file says about itself.
    """

    name: str
    device: str
    spec: ModelSpec
    _infer: Infer

    def __call__(self, images: UInt8[np.ndarray, "N H W 3"]) -> Outputs:
        """Run the network.

        Args:
            images: (N, H, W, 3) uint8 RGB; H and W multiples of ``spec.size_multiple``.

        Returns:
            ``logits`` (N, R) and ``deltas`` (N, R, 4), float32, the caller's own.

        Raises:
            ValueError: `images` is not such an array.
            EngineError: the engine failed.
        """
        multiple = self.spec.size_multiple
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise ValueError(
                f"the network takes uint8 (N, H, W, 3), got {images.dtype} {images.shape}"
            )
        if not images.size or images.shape[1] % multiple or images.shape[2] % multiple:
            raise ValueError(
                f"height and width must be multiples of {multiple} px and nothing empty, "
                f"got {images.shape}: images.letterbox pads"
            )
        return self._infer(np.ascontiguousarray(images))


def open_engine(
    path: str | os.PathLike[str],
    engine: str = "openvino",
    device: str = "cpu",
    threads: int | None = None,
    *,
    repeatable: bool = False,
) -> Engine:
    """Load a model file into an inference engine.

    Args:
        path: an .onnx file written by `faceresnet export`.
        engine: ``openvino`` or ``onnxruntime``.
        device: ``cpu``, ``gpu``, ``npu`` (OpenVINO) or ``cpu``, ``cuda``, … (ONNX Runtime).
        threads: on the CPU; by default the engine chooses, one for each core.
        repeatable: the same image gives the same outputs at every time. OpenVINO otherwise compiles
            models for the shapes that it meets often, which round a few values differently.

    Raises:
        ValueError: no engine has that name, or `threads` is outside 1..1,024.
        ModelError: the file is missing, broken or not ours.
        EngineError: the device is not available here.
        MissingExtraError: ONNX Runtime is not installed.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got '{engine}'")
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise ValueError(f"threads must lie in 1..{MOST_THREADS}, got {threads}")
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"there is no model file {path}")
    infer: Infer
    if engine == "openvino":
        spec, infer = _open_openvino(path, device.lower(), threads, repeatable)
    else:
        spec, infer = _open_onnxruntime(path, device.lower(), threads)
    return Engine(engine, device.lower(), spec, infer)


def read_spec(path: str | os.PathLike[str]) -> ModelSpec:
    """Read what a model file says about itself.

    Raises:
        ModelError: the file is missing, broken or not ours.
    """
    return _spec_of(_read_model(Path(path)), Path(path))


def _read_model(path: Path) -> openvino.Model:
    # Not Core.read_model: it shows a file that is no model to every front end, and some print logs.
    reader = import_openvino().frontend.FrontEndManager().load_by_framework("onnx")
    try:
        return reader.convert(reader.load(str(path)))
    except Exception as error:  # its exceptions share no public base class
        raise ModelError(f"{path} is no readable ONNX model: {last_line(error)}") from error


def _spec_of(model: openvino.Model, path: Path) -> ModelSpec:
    """Specification that OpenVINO found among the metadata of an ONNX file."""
    key = ["framework", METADATA_KEY]
    metadata = {METADATA_KEY: model.get_rt_info(key).value} if model.has_rt_info(key) else {}
    return ModelSpec.from_metadata(metadata, str(path))


def _check_names(inputs: set[str], outputs: set[str], path: Path) -> None:
    if INPUT not in inputs or not outputs.issuperset(OUTPUTS):
        raise ModelError(
            f"{path} has the inputs {sorted(inputs)} and outputs {sorted(outputs)}, expected "
            f"'{INPUT}' and {list(OUTPUTS)}: export it again with 'faceresnet export'"
        )


def _open_openvino(
    path: Path, device: str, threads: int | None, repeatable: bool
) -> tuple[ModelSpec, Infer]:
    core = import_openvino().Core()
    available = [name.lower() for name in core.available_devices]
    if device not in available and f"{device}.0" not in available:
        raise EngineError(
            f"OpenVINO has no device '{device}' here, only: {', '.join(available)}"
            + (f" ({_CUDA_ENGINE})" if device == "cuda" else "")
        )
    model = _read_model(path)
    spec = _spec_of(model, path)
    _check_names(
        {name for port in model.inputs for name in port.names},
        {name for port in model.outputs for name in port.names},
        path,
    )
    options: dict[str, object] = {"PERFORMANCE_HINT": "LATENCY"}
    if device == "cpu":
        options["CPU_RUNTIME_CACHE_CAPACITY"] = CACHED
    if spec.precision in ("fp32", "int8"):
        # Left alone, OpenVINO runs float layers in bfloat16 where the CPU can.
        options["INFERENCE_PRECISION_HINT"] = "f32"
    if device == "cpu" and threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
        # OpenVINO binds threads to cores where it can: otherwise one that slept between two calls
        # may be woken on the core of another, and both take turns for 4 ms. But threads of some
        # cores only would be bound to the first ones, so that detectors side by side, in threads or
        # processes, would share these while others idle.
        if threads < affinity():
            options["ENABLE_CPU_PINNING"] = False
    return spec, _OpenVino(model, device.upper(), options, repeatable=repeatable)


class _OpenVino:
    """A model in OpenVINO, compiled for the shapes that it meets.

    A model compiled for one shape runs up to twice as fast as one for any shape (int8 at 640×512,
    two threads: 5.9 against 12 ms), but compiling takes as long as some fifty runs. So the first
    shape gets its own model, the others share the one for any shape, and a shape that has spent
    enough time there gets its own, too; the `KEPT` that were used last stay. Only the one for any
    shape gives the same outputs whatever came before (`repeatable`).
    """

    KEPT = 4
    #: A shape gets its own model when it has run for this many times the time to compile one:
    #: half of that is what its own model would have saved.
    PATIENCE = 2.0

    def __init__(
        self,
        model: openvino.Model,
        device: str,
        options: dict[str, object],
        *,
        repeatable: bool = False,
    ) -> None:
        self._model = model
        self._repeatable = repeatable
        self._device = device
        self._options = options
        self._lock = threading.Lock()
        self._own: OrderedDict[tuple[int, ...], _Compiled] = OrderedDict()
        self._any: _Compiled | None = None
        self._spent_s: dict[tuple[int, ...], float] = defaultdict(float)
        self._compile_s = 0.0

    def __call__(self, images: UInt8[np.ndarray, "N H W 3"]) -> Outputs:
        try:
            compiled = self._choose(images.shape)
            start = time.perf_counter()
            outputs = compiled(images)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed: {last_line(error)}") from error
        if compiled is self._any:
            with self._lock:
                self._spent_s[images.shape] += time.perf_counter() - start
        return outputs

    def _choose(self, shape: tuple[int, ...]) -> _Compiled:
        with self._lock:
            if shape in self._own:
                self._own.move_to_end(shape)
                return self._own[shape]
            first = not self._own
            late = self._spent_s[shape] > self.PATIENCE * self._compile_s
            if (first or late) and not self._repeatable:
                start = time.perf_counter()
                self._own[shape] = self._compile(shape)
                self._compile_s = time.perf_counter() - start
                self._spent_s.pop(shape, None)
                if len(self._own) > self.KEPT:
                    self._own.popitem(last=False)
                return self._own[shape]
            if self._any is None:
                self._any = self._compile((-1, -1, -1, 3))
            return self._any

    def _compile(self, shape: tuple[int, ...]) -> _Compiled:
        model = self._model.clone()
        model.reshape(list(shape))
        core = import_openvino().Core()
        return _Compiled(core.compile_model(model, self._device, self._options))


class _Compiled:
    """A compiled model with as many infer requests as there are calls at the same time."""

    def __init__(self, model: openvino.CompiledModel) -> None:
        self._model = model
        self._tensor: type[openvino.Tensor] = import_openvino().Tensor
        self._ports = [model.output(name) for name in OUTPUTS]
        self._idle: queue.LifoQueue[openvino.InferRequest] = queue.LifoQueue()

    def __call__(self, images: UInt8[np.ndarray, "N H W 3"]) -> Outputs:
        try:
            request = self._idle.get_nowait()
        except queue.Empty:
            request = self._model.create_infer_request()
        # Passing the images to `infer` instead takes a tenth of a millisecond longer. OpenVINO
        # cannot share memory that is read-only: it copies that.
        request.set_input_tensor(self._tensor(images, shared_memory=images.flags.writeable))
        request.infer(share_outputs=True)
        # Copies, because the next call writes over the request's own memory.
        logits, deltas = (request.get_tensor(port).data.copy() for port in self._ports)
        self._idle.put(request)
        return logits, deltas


def _open_onnxruntime(path: Path, device: str, threads: int | None) -> tuple[ModelSpec, Infer]:
    available = _import_onnxruntime().get_available_providers()
    provider = PROVIDERS.get(device)
    if provider is None or provider not in available:
        devices = [name for name, provider in PROVIDERS.items() if provider in available]
        raise EngineError(f"ONNX Runtime has no device '{device}' here, only: {', '.join(devices)}")
    session = open_session(path, threads=threads, provider=provider)
    if session.get_providers()[0] != provider:
        # It would go on, silently, on the CPU.
        raise EngineError(
            f"ONNX Runtime could not start on '{device}' and would fall back to "
            f"{session.get_providers()[0]}: check the driver and the installed CUDA libraries"
        )
    session.disable_fallback()
    spec = ModelSpec.from_metadata(session.get_modelmeta().custom_metadata_map, str(path))
    _check_names(
        {port.name for port in session.get_inputs()},
        {port.name for port in session.get_outputs()},
        path,
    )

    def infer(images: UInt8[np.ndarray, "N H W 3"]) -> Outputs:
        try:
            logits, deltas = session.run(OUTPUTS, {INPUT: images})
        except Exception as error:  # its exceptions share no public base class
            raise EngineError(f"ONNX Runtime failed: {last_line(error)}") from error
        return logits, deltas

    return spec, infer


def open_session(
    path: str | Path,
    *,
    threads: int | None = None,
    provider: str = PROVIDERS["cpu"],
    whose: str = "",
) -> onnxruntime.InferenceSession:
    """A model file of any network in ONNX Runtime.

    Args:
        path: of the .onnx file.
        threads: for each run; all cores without.
        provider: ONNX Runtime's name of what computes.
        whose: what a message calls the network, if the path does not tell.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
        ModelError: the file is missing or cannot be run.
    """
    runtime = _import_onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = runtime.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:  # its exceptions share no public base class
        what = f"{whose} from {path}" if whose else path
        raise ModelError(f"ONNX Runtime cannot load {what}: {last_line(error)}") from error
    return session


def _import_onnxruntime() -> ModuleType:
    with needs("the engine onnxruntime", "onnxruntime"):
        import onnxruntime
    return onnxruntime
