# SPDX-License-Identifier: MIT
"""The generator computed by OpenVINO, on the processor."""

import threading
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec

import numpy as np

from segsrgan.errors import UserError

# Compiled models kept, one per patch size; whole images of many sizes must not pile them up.
_KEPT = 4
# Our name, OpenVINO's name of the precision and of the capability of the processor.
_PRECISIONS = {
    "float32": ("f32", "FP32"),
    "float16": ("f16", "FP16"),
    "bfloat16": ("bf16", "BF16"),
}
# Of oneDNN, of the C++ library, of Linux.
_OUT_OF_MEMORY = ("out_of_memory", "out of memory", "bad_alloc", "allocate")


def check_available():
    """Raises `UserError` if OpenVINO is not installed."""
    if find_spec("openvino") is None:
        raise UserError("OpenVINO is not installed; pip install openvino (or 'SegSRGAN[openvino]')")


@cache
def core():
    """OpenVINO's `Core`, the only one of this process, kept to its end.

    Each brings a signal stack for its thread and takes it along when it goes, whoever uses it by
    then: the next Ctrl-C would be a segmentation fault.
    """
    import openvino as ov

    return ov.Core()


def precisions():
    """Precisions that the processor computes itself; others would be converted back and forth."""
    capabilities = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return tuple(name for name, (_, key) in _PRECISIONS.items() if key in capabilities)


def version():
    """What the speed and the last digits of its results depend on."""
    import openvino as ov

    return f"openvino {ov.__version__}"


def make(model, precision="float32", threads=None):
    """Builds the engine."""
    return OpenVINOEngine(model, precision, threads)


class OpenVINOEngine:
    """Runs a Keras generator, compiled per patch size.

    Args:
        model: a `keras.Model`, see `openvino_graph.build_graph`. Its weights are taken as they
            are when a patch size is first seen.
        precision: `"float32"`, `"float16"` or `"bfloat16"`; input and output are float32.
        threads: CPU threads, OpenVINO's choice when None.
    """

    def __init__(self, model, precision="float32", threads=None):
        self._model = model
        self._precision = precision
        self._options = {
            # Unless told otherwise OpenVINO takes bfloat16 where the processor has it.
            "INFERENCE_PRECISION_HINT": _PRECISIONS[precision][0],
            # Several jobs on one computer would all be pinned to its first cores.
            "ENABLE_CPU_PINNING": False,
        }
        if threads is not None:
            self._options["INFERENCE_NUM_THREADS"] = threads
        self._requests = {}
        self._lock = threading.Lock()

    def predict_batch(self, patches, resolution=None):
        """Computes one batch, see `Engine.predict_batch`; patch by patch, which is as fast."""
        shape = tuple(patches.shape[1:4])
        with self._lock, _memory_errors():
            request = self._requests.get(shape)
            if request is None:
                if len(self._requests) == _KEPT:
                    self._requests.pop(next(iter(self._requests)))
                request = self._requests[shape] = self._compile(shape)
            result = request.get_output_tensor()
            outputs = np.empty((len(patches), *result.get_shape()[1:]), np.float32)
            for patch, output in zip(patches, outputs, strict=True):
                request.infer([np.ascontiguousarray(patch[np.newaxis], dtype=np.float32)])
                output[...] = result.data[0]
        return outputs

    def _compile(self, shape):
        from segsrgan.inference.engines.openvino_graph import build_graph

        graph = build_graph(self._model, shape, self._precision)
        graph.reshape([1, *shape, 1])
        return core().compile_model(graph, "CPU", self._options).create_infer_request()


@contextmanager
def _memory_errors():
    """Gives OpenVINO's errors of allocation, which are RuntimeErrors with a text, their class."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).lower()
        if any(words in text for words in _OUT_OF_MEMORY):
            raise MemoryError(str(error)) from error
        raise
