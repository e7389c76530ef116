"""Runs models on segments: Keras, ONNX Runtime or OpenVINO behind one contract.

waveforms float32 [batch, num_samples] -> scores [batch, num_tags] and embeddings
[batch, channels].

ONNX Runtime and OpenVINO run what `export` wrote. They start at once, while Keras loads
TensorFlow for seconds, and importing this module loads none of the three.
"""

import abc
import contextlib
import dataclasses
import functools
import io
import os
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np

import tagger
from tagger import models
from tagger.data import workers
from tagger.models.metadata import OUTPUTS, PENULTIMATE, ModelInfo, read_graph
from tagger.options import Option
from tagger.text import TaggerError

if TYPE_CHECKING:
    import keras

ENGINES = ("onnx", "openvino", "keras")
Precision = Annotated[
    Literal["float32", "bfloat16"],
    Option(
        help="bfloat16 is faster on CPUs that have it (pip install openvino); scores"
        " change by up to 0.003"
    ),
]
PRECISIONS = ("float32", "bfloat16")
# ONNX Runtime's providers, the fastest first, with the options that keep float32.
PROVIDERS = {
    "CUDAExecutionProvider": {"use_tf32": "0"},
    "CoreMLExecutionProvider": {
        "ModelFormat": "MLProgram",
        "MLComputeUnits": "CPUAndGPU",  # the Neural Engine computes in float16
    },
    "DmlExecutionProvider": {},
    "CPUExecutionProvider": {},
}
PROVIDER_TOLERANCE = 1e-4  # largest difference of an accelerator's output
MAX_BATCH_SIZE = 4  # segments at once: more take memory and are not faster


@dataclasses.dataclass(frozen=True)
class EngineSpec:
    """Description of an engine that another process can open.

    Attributes:
        name: Name of the engine: "onnx" or "openvino".
        path: Path of a file with a graph, `.onnx` or `.keras`.
        precision: See `PRECISIONS`.
    """

    name: str
    path: str
    precision: str

    def open(self, num_threads: int | None = None) -> "Engine":
        """Opens the engine.

        Args:
            num_threads: Number of CPU threads; None: one per core that this process may
                use.
        """
        if self.name == "openvino":
            return OpenVinoEngine(self.path, self.precision, num_threads)
        return OnnxEngine(self.path, num_threads)


class Engine(abc.ABC):
    """A model that is ready to run.

    Attributes:
        name: Name of the engine, one of ENGINES.
        info: Metadata of the model.
        source: Name or path of the model, as it was given to `selection.open_engine`.
        embedding_size: Channels of an embedding.
        spec: What a worker process needs to open the same engine; None if it has to
            stay in this process.
        uses_all_cores: Whether it leaves worker processes nothing to do.
    """

    name: str
    info: ModelInfo
    source: str | None = None
    embedding_size: int
    spec: EngineSpec | None = None
    uses_all_cores: bool = False

    @abc.abstractmethod
    def run(
        self, waveforms: np.ndarray, outputs: Sequence[str] = ("scores",)
    ) -> list[np.ndarray]:
        """Runs the model on a batch of segments.

        Args:
            waveforms: float32 [batch, num_samples] at ±1.
            outputs: Names of the outputs, of OUTPUTS.

        Returns:
            The outputs in that order: scores [batch, num_tags], embedding [batch,
            channels].

        Raises:
            ValueError: the engine fails, or an output has another shape.
        """

    def predictor(self, *outputs: str) -> Callable[[np.ndarray], np.ndarray]:
        """Returns a function of waveforms that joins the outputs' channels."""
        return lambda waveforms: np.concatenate(self.run(waveforms, outputs), axis=1)


class KerasEngine(Engine):
    """A Keras model, on the backend that Keras is set to.

    Args:
        model: Model from `models.load_model`, `pretrained.load` or
            `weights.load`.
        layer: Layer whose output is the embedding, see `models.embedding_network`.

    Attributes:
        model: The model.
        network: Its part from waveforms to embeddings.

    Raises:
        ValueError: the model was not made by this project, or has no such layer.
    """

    name = "keras"
    uses_all_cores = True  # true of a CPU; with a GPU, --num-workers may still help

    def __init__(self, model: "keras.Model", layer: str = PENULTIMATE):
        self.info = models.model_info(model)
        self.model, self._layer = model, layer
        self.network = models.embedding_network(model, layer)
        self.embedding_size = self.network.output_shape[-1]

    def run(self, waveforms, outputs=("scores",)):
        number, waveforms = len(waveforms), padded(waveforms)
        if len(set(outputs)) == 1:
            network = self.network if "embedding" in outputs else self.model
            found = np.asarray(network.predict_on_batch(waveforms))
            return len(outputs) * [found[:number]]
        both = self._with_embedding.predict_on_batch(waveforms)
        return [np.asarray(both[OUTPUTS.index(name)])[:number] for name in outputs]

    def __reduce__(self):  # pickle stores the model, not what Keras has compiled
        return KerasEngine, (self.model, self._layer)

    @functools.cached_property
    def _with_embedding(self) -> "keras.Model":
        return models.with_embedding(self.model, self._layer)


def padded(waveforms: np.ndarray) -> np.ndarray:
    """Pads a batch with silent segments to a power of two.

    Keras compiles a network for every size of a batch, so few sizes should occur.
    """
    size = 1 << (len(waveforms) - 1).bit_length()
    return np.pad(waveforms, ((0, size - len(waveforms)), (0, 0)))


class _Exported(Engine):
    """A graph of ONNX, run without Keras.

    Args:
        path: Path of the `.onnx` file, or of a `.keras` file with a graph.
        num_threads: Number of CPU threads; None: one per core that this process may
            use.

    Attributes:
        path: The same.
        num_threads: Number of CPU threads.
    """

    def __init__(self, path: str | os.PathLike, num_threads: int | None):
        self.path = path
        self.num_threads = num_threads or workers.num_cores()

    def _graph(self) -> bytes:
        """Reads the graph.

        Raises:
            FileNotFoundError, ValueError: there is no such file, or it holds none.
        """
        found = read_graph(self.path)
        if found is None:
            raise TaggerError(
                f"{str(self.path)!r} holds no graph. Run tagger models export"
                f" {self.path} --to onnx, and give what it writes."
            )
        return found

    def _read(
        self,
        metadata: dict[str, str],
        inputs: dict[str, list],
        outputs: dict[str, list],
    ) -> None:
        """Reads the file's metadata, and checks its inputs and outputs.

        Args:
            metadata: The file's fields, each as JSON.
            inputs: Shapes of the inputs, by name.
            outputs: Shapes of the outputs, by name.
        """
        self.info = ModelInfo.from_texts(metadata, self.path)
        self.embedding_size = (outputs.get("embedding") or [None])[-1]
        is_whole = {*OUTPUTS} <= {*outputs} and isinstance(self.embedding_size, int)
        if list(inputs) != ["waveform"] or not is_whole:
            raise TaggerError(
                f"{str(self.path)!r} has the inputs {', '.join(inputs)} and the outputs"
                f" {', '.join(outputs)}, but an exported model has the input waveform"
                " and the outputs scores and embedding. Make it with tagger models"
                " export MODEL --to onnx."
            )

    def _checked(
        self, found: list[np.ndarray], outputs: Sequence[str], batch_size: int
    ) -> list[np.ndarray]:
        """Returns what a runtime gave, if its shapes are those of the outputs."""
        for name, one in zip(outputs, found, strict=True):
            num_channels = {
                "scores": self.info.num_tags,
                "embedding": self.embedding_size,
            }[name]
            shape = getattr(one, "shape", None)
            if shape != (batch_size, num_channels):
                raise TaggerError(
                    f"{str(self.path)!r} gives {name} of the shape {shape}, not"
                    f" {(batch_size, num_channels)}. Use a file made by tagger models"
                    " export MODEL --to onnx."
                )
        return found


class OnnxEngine(_Exported):
    """An exported model in ONNX Runtime.

    It uses the first installed provider of PROVIDERS that reproduces the CPU's output
    for the first segment; if that fails later, the CPU takes over.

    Args:
        path: Path of the `.onnx` file, or of a `.keras` file with a graph.
        num_threads: Number of CPU threads; None: one per core that this process may
            use.

    Attributes:
        provider: Name of ONNX Runtime's provider.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not an ONNX model, `export` did not write it, or what it
            says of itself cannot be right.
        ImportError: ONNX Runtime is not installed.

    Example:
        >>> from tagger import Tagger
        >>> engine = OnnxEngine("student.onnx")  # tagger models export made it
        >>> next(iter(Tagger(engine).tag("song.mp3")))
        'classical'
    """

    name = "onnx"

    def __init__(self, path: str | os.PathLike, num_threads: int | None = None):
        super().__init__(path, num_threads)
        self._providers, graph = self.providers(), self._graph()
        try:
            cpu = self._open("CPUExecutionProvider", graph)
        except Exception as error:  # ONNX Runtime's exception classes are not public
            raise TaggerError(
                f"ONNX Runtime cannot read {str(path)!r}: {_first_line(error)}"
            ) from error
        self._read(
            cpu.get_modelmeta().custom_metadata_map,
            {one.name: one.shape for one in cpu.get_inputs()},
            {one.name: one.shape for one in cpu.get_outputs()},
        )
        self._cpu = self._session = cpu
        self._pool = ThreadPoolExecutor(self.num_threads, initializer=_step_back)
        self.provider = None  # chosen with the first batch

    @staticmethod
    def providers() -> list[str]:
        """Returns the providers of the installed build, the fastest first.

        Raises:
            ImportError: ONNX Runtime is not installed.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError(
                "The engine onnx is not installed: pip install onnxruntime."
            ) from error
        available = onnxruntime.get_available_providers()
        return [name for name in PROVIDERS if name in available]

    @property
    def spec(self) -> EngineSpec | None:
        """What a worker process needs to open the same engine; None with a GPU."""
        if self._providers[0] != "CPUExecutionProvider":
            return None
        return EngineSpec(self.name, os.fspath(self.path), "float32")

    def __reduce__(self):  # pickle stores where the file is
        return OnnxEngine, (self.path, self.num_threads)

    def _open(self, provider: str, graph: bytes):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # our error message replaces its log
        options.intra_op_num_threads = 1  # batches are split over threads instead
        options.enable_mem_pattern = False
        session = onnxruntime.InferenceSession(
            graph,
            options,
            providers=[provider],
            provider_options=[PROVIDERS[provider]],
        )
        session.disable_fallback()
        if session.get_providers()[0] != provider:  # a library of the driver is missing
            raise RuntimeError("it could not be started")
        return session

    def run(self, waveforms, outputs=("scores",)):
        if self.provider is None:
            self._choose_provider(waveforms[:1], outputs)
        if self.provider != "CPUExecutionProvider":
            try:
                found = self._session.run(list(outputs), {"waveform": waveforms})
                return self._checked(found, outputs, len(waveforms))
            except Exception as error:  # of any kind, from the driver too
                self._providers = ["CPUExecutionProvider"]
                self._leave_provider(_first_line(error))
        size = min(MAX_BATCH_SIZE, -(-len(waveforms) // self.num_threads))
        parts = _parts(waveforms, size)
        return _joined(
            self._pool.map(lambda part: self._run_on_cpu(part, outputs), parts)
        )

    def _run_on_cpu(
        self, waveforms: np.ndarray, outputs: Sequence[str]
    ) -> list[np.ndarray]:
        try:
            found = self._cpu.run(list(outputs), {"waveform": waveforms})
        except Exception as error:  # ONNX Runtime's exception classes are not public
            raise TaggerError(
                f"ONNX Runtime cannot run {str(self.path)!r}: {_first_line(error)}"
            ) from error
        return self._checked(found, outputs, len(waveforms))

    def _choose_provider(self, segment: np.ndarray, outputs: Sequence[str]) -> None:
        """Chooses the first provider that gives the CPU's output for a segment."""
        self.provider = self._providers[0]
        while self.provider != "CPUExecutionProvider":
            try:
                self._session = self._open(self.provider, self._graph())
                found = self._session.run(list(outputs), {"waveform": segment})
            except Exception as error:  # of any kind, from the driver too
                self._leave_provider(_first_line(error))
                continue
            expected = self._run_on_cpu(segment, outputs)
            pairs = zip(found, expected, strict=True)
            far = max(np.abs(one - other).max() for one, other in pairs)
            if far <= PROVIDER_TOLERANCE:
                return
            self._leave_provider(f"its output differs from the CPU's by {far:.1e}")

    def _leave_provider(self, reason: str) -> None:
        following = [name for name in self._providers if name != self.provider]
        self._providers, left = following, self.provider
        self.provider, self._session = following[0], self._cpu
        warnings.warn(
            f"ONNX Runtime's {left} does not run {os.path.basename(self.path)!r}"
            f" ({reason}). Continuing with {self.provider}.",
            stacklevel=2,
        )


class OpenVinoEngine(_Exported):
    """An exported model in OpenVINO, on the CPU.

    Args:
        path: Path of the `.onnx` file, or of a `.keras` file with a graph.
        precision: "float32" or "bfloat16".
        num_threads: Number of CPU threads; None: one per core that this process may
            use.

    Raises:
        FileNotFoundError, ValueError: see `OnnxEngine`.
        ImportError: OpenVINO is not installed.
    """

    name = "openvino"

    def __init__(
        self,
        path: str | os.PathLike,
        precision: str = "float32",
        num_threads: int | None = None,
    ):
        super().__init__(path, num_threads)
        self.precision = precision
        openvino = _openvino()
        self._lock = threading.Lock()
        self.check_precision(precision)
        with _without_cap():
            self._request, model = self._compiled(openvino.Core())
        metadata = {}
        if model.has_rt_info("framework"):
            metadata = model.get_rt_info("framework").value  # what ONNX calls metadata
        self._read(metadata, _ports(model.inputs), _ports(model.outputs))

    @staticmethod
    def check_precision(precision: str) -> None:
        """Checks that the CPU computes in a precision.

        Raises:
            ValueError: it does not.
            ImportError: OpenVINO is not installed.
        """
        if precision == "float32":
            return
        with _without_cap():
            core = _openvino().Core()
            capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if "BF16" not in capabilities:
            raise TaggerError(
                "This CPU does not compute in bfloat16. Omit `precision=bfloat16`."
            )

    def _compiled(self, core):
        """Returns a request for the compiled model, and the model as it was read."""
        precision = {"float32": "f32", "bfloat16": "bf16"}[self.precision]
        options = {
            "PERFORMANCE_HINT": "LATENCY",  # all threads work on one batch
            "INFERENCE_NUM_THREADS": self.num_threads,
            # Worker processes would all bind their threads to the first core.
            "ENABLE_CPU_PINNING": False,
            # Never inherited: by default, OpenVINO takes bfloat16 where the CPU has it.
            "INFERENCE_PRECISION_HINT": precision,
        }
        graph = self._graph()
        try:
            model = core.read_model(io.BytesIO(graph))
            return core.compile_model(
                model, "CPU", options
            ).create_infer_request(), model
        except Exception as error:  # RuntimeError and others, from C++
            raise TaggerError(
                f"OpenVINO cannot read {str(self.path)!r}: {_first_line(error)}"
            ) from error

    @property
    def spec(self) -> EngineSpec:
        """What a worker process needs to open the same engine."""
        return EngineSpec(self.name, os.fspath(self.path), self.precision)

    def __reduce__(self):  # pickle stores where the file is
        return OpenVinoEngine, (self.path, self.precision, self.num_threads)

    def run(self, waveforms, outputs=("scores",)):
        parts = _parts(waveforms, MAX_BATCH_SIZE)
        return _joined(self._run_part(part, outputs) for part in parts)

    def _run_part(
        self, waveforms: np.ndarray, outputs: Sequence[str]
    ) -> list[np.ndarray]:
        with self._lock:  # the request's memory belongs to one thread at a time
            try:
                found = self._request.infer({"waveform": waveforms})
            except Exception as error:  # RuntimeError and others, from C++
                raise TaggerError(
                    f"OpenVINO cannot run {str(self.path)!r}: {_first_line(error)}"
                ) from error
            arrays = [np.array(found[output]) for output in outputs]
        return self._checked(arrays, outputs, len(waveforms))


def _openvino():
    """Returns the package openvino.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise ImportError(
            "The engine openvino is not installed: pip install openvino."
        ) from error
    return openvino


def _parts(waveforms: np.ndarray, size: int) -> list[np.ndarray]:
    return [waveforms[n : n + size] for n in range(0, len(waveforms), size)]


def _joined(parts: Iterable[list[np.ndarray]]) -> list[np.ndarray]:
    """Joins the outputs of the parts of a batch."""
    return [np.concatenate(output) for output in zip(*parts, strict=True)]


def _ports(ports) -> dict[str, list]:
    """Returns the shapes of OpenVINO's inputs or outputs, None for open lengths."""
    return {
        port.any_name: [
            axis.get_length() if axis.is_static else None for axis in port.partial_shape
        ]
        for port in ports
    }


@contextlib.contextmanager
def _without_cap() -> Iterator[None]:
    """Lifts our cap of oneDNN: OpenVINO needs AMX, and has a oneDNN of its own."""
    name = "ONEDNN_MAX_CPU_ISA"
    is_ours = os.environ.get(name) == tagger.ONEDNN_CAP
    if is_ours:
        del os.environ[name]
    try:
        yield
    finally:
        if is_ours:
            os.environ[name] = tagger.ONEDNN_CAP


def _first_line(error: Exception) -> str:
    return textwrap.shorten((str(error).strip() or repr(error)).splitlines()[0], 200)


def _step_back() -> None:
    """Lowers this thread's priority below the decoder's: a small model waits for it."""
    if sys.platform == "linux":  # elsewhere, threads have no priority of their own
        with contextlib.suppress(OSError):
            os.nice(10)
