# SPDX-License-Identifier: MIT
"""Engines: what computes the network, one file each.

The file of an engine is named after the library it imports and has two functions: `precisions()`
are those that it computes on this machine, `make(generator, precision, threads)` builds it. A
further engine is such a file, its name in `segsrgan.config.ENGINES` and its place in `choose`.

An engine has a `name`, a `precision` and the method `predict_batch(patches, resolution)`, which any
thread may call: float32 `(b, x, y, z, 1)` in [0, 1], and the resolution of the slices in mm for a
model of two inputs, to float32 `(b, x, y, z, channels)`. Whatever class the runtime has for too
little memory, it raises `MemoryError`.

Where it computes on a device with memory of its own, an engine may have two things more:
`batch_voxels`, how many voxels a batch should have there, and `device_sweep(...)`, which keeps the
volumes there and takes the arguments of `segsrgan.inference.sweep.HostSweep` but the engine.
"""

import logging
import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from segsrgan.config import ENGINES
from segsrgan.errors import UserError
from segsrgan.networks.architecture import simplified_arrays

logger = logging.getLogger(__name__)


def choose(name="auto", precision="float32"):
    """The name of the engine that computes on this machine; loads none.

    `"auto"` is tensorflow where there is a graphics card, else openvino where it is installed, else
    tensorflow; in less than float32 openvino alone computes. An unknown name is a `UserError`.
    """
    if name in ENGINES:
        return name
    if name != "auto":
        raise UserError(f"engine must be one of auto, {', '.join(ENGINES)}, received {name!r}")
    if precision != "float32":
        return "openvino"
    if graphics_card() or find_spec("openvino") is None:
        return "tensorflow"
    return "openvino"


def graphics_card(root="/"):
    """Whether there is a graphics card that TensorFlow might compute on, without loading it.

    NVIDIA's driver lists its cards below `/proc/driver/nvidia/gpus`, inside containers and WSL
    there are only device files; AMD's lists processors, and a graphics card has SIMD units.
    """
    root = Path(root)
    if _visible("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"):
        cards = ("proc/driver/nvidia/gpus/*", "dev/nvidia[0-9]*", "usr/lib/wsl/lib/libcuda.so*")
        if any(any(root.glob(pattern)) for pattern in cards):
            return True
    if not _visible("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        return False
    nodes = root.glob("sys/class/kfd/kfd/topology/nodes/*/properties")
    return any(_simd_units(node) for node in nodes)


def make_engine(generator, name="auto", precision="float32", threads=None):
    """Builds an engine around a generator, and logs which one.

    Args:
        generator: `(spec, arrays)` of `segsrgan.networks.read_generator`, or a `keras.Model`; one
            that is not of `build_generator` is computed by tensorflow alone.
        name: see `choose`.
        precision: see `choose`.
        threads: CPU threads, all of them when None.

    Raises:
        UserError: if the engine is unknown, or cannot run here or in this precision.
    """
    if hasattr(generator, "spec"):
        from segsrgan.networks.models import read_weights

        generator = generator.spec, read_weights(generator)
    if isinstance(generator, tuple):
        generator = simplified_arrays(*generator)
    elif name == "auto":
        name = "tensorflow"
    name = choose(name, precision)
    if find_spec(name) is None:
        raise UserError(f"engine {name} is not installed; pip install {name}, or take engine auto")
    module = engine_module(name)
    if precision not in module.precisions():
        raise UserError(
            f"engine {name} computes {', '.join(module.precisions())} on this machine, received "
            f"precision {precision}; take precision float32"
        )
    engine = module.make(generator, precision, threads)
    logger.info("engine: %s %s", name, precision)
    return engine


def engine_module(name):
    """The module of one of `segsrgan.config.ENGINES`, loaded now."""
    return import_module(f"segsrgan.inference.engines.{name}")


def _visible(*variables):
    """Whether none of a runtime's environment variables hides all of its devices."""
    return not any(os.environ.get(name, "all") in ("", "-1", "none", "void") for name in variables)


def _simd_units(node):
    try:
        words = node.read_text().split()
        return int(words[words.index("simd_count") + 1])
    except (OSError, ValueError, IndexError):
        return 0
