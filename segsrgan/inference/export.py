# SPDX-License-Identifier: MIT
"""A generator as a file that other programs can run, checked against its source."""

import logging
import math
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from segsrgan.errors import UserError
from segsrgan.files import check_writable, remove, temporary_beside
from segsrgan.inference.settings import checked_patch
from segsrgan.networks.architecture import simplified_arrays

# What a name must end with; a SavedModel is a folder.
SUFFIXES = {"savedmodel": "", "onnx": ".onnx", "openvino": ".xml"}
FORMATS = tuple(SUFFIXES)
# Those of onnx are the extra of that name; TensorFlow is always there.
_PACKAGES = {"onnx": ("onnx", "tf2onnx", "onnxruntime"), "openvino": ("openvino",)}
# In dB; all formats keep float32, and less than this is more than rounding.
_LEAST_AGREEMENT = 80.0
# Slice resolution in mm shown to conditional generators.
_RESOLUTION = 3.0


def export(weights_path, file_format, output, patch=128, overwrite=False):
    """Writes a generator for other programs, in float32, rewritten for speed.

    It takes `(b, patch, patch, patch, 1)` in [0, 1] and gives `(b, patch, patch, patch, channels)`,
    see `segsrgan.networks.outputs`; that of a conditional generator needs no map. It computes one
    patch, and so does the plain network of the weights; unless both agree nothing is written.

    Args:
        weights_path: registry name or file, the default weights when None.
        file_format: one of `FORMATS`.
        output: the file to write, `.onnx` or `.xml` (a `.bin` of the same name comes with it), or
            the folder of a SavedModel.
        patch: edge of its patches in voxels, divisible by the weights' `spec.multiple`.
        overwrite: whether something there is replaced.

    Returns:
        The `agreement` with the plain network.

    Raises:
        UserError: on a wrong argument, without a library, if something is there already, or if
            what was written does not agree; `WeightsError` if the weights cannot be read.
    """
    output = Path(output)
    _check(file_format, output, patch, overwrite)
    from segsrgan.networks.weights import read_generator

    generator = read_generator(weights_path)
    patch = checked_patch(patch, generator[0].multiple)
    sample = sample_patch(patch)
    folder = temporary_beside(output)
    try:
        folder.mkdir()
        written = folder / output.name
        _WRITERS[file_format](simplified_arrays(*generator), patch, written)
        found = agreement(_plain_output(*generator, sample), _RUNNERS[file_format](written, sample))
        if found < _LEAST_AGREEMENT:
            raise UserError(
                f"{output}: what was written does not agree with the weights ({found:.1f} dB) "
                "and was removed; try another format, or another version of its library"
            )
        _move(folder, output)
    finally:
        remove(folder)
    return found


def agreement(reference, output):
    """How near an output comes to the reference: PSNR in dB, the peak being the reference's range.

    At most 999; 0 if the output has NaN or infinite values.
    """
    if not np.isfinite(output).all():
        return 0.0
    error = float(np.mean(np.square(np.subtract(output, reference, dtype=np.float64))))
    peak = float(np.ptp(reference)) or 1.0
    return min(10 * math.log10(peak**2 / error), 999.0) if error else 999.0


def sample_patch(size=64):
    """A patch like those of a head, float32 `(1, size, size, size, 1)` in [0, 1], always the same.

    Smooth structures on a background of 0.
    """
    from scipy import ndimage

    noise = np.random.default_rng(0).standard_normal((size,) * 3, dtype=np.float32)
    smooth = ndimage.gaussian_filter(noise, 2.0, mode="wrap")
    patch = np.clip(0.4 + smooth / (4 * smooth.std()), 0, 1)
    # A quarter of the structures is air, and there is a little noise everywhere else.
    patch = np.where(patch > 0.25, np.clip(patch + 0.01 * noise, 0, 1), 0)
    return patch.astype(np.float32)[np.newaxis, ..., np.newaxis]


def _plain_output(spec, arrays, patch):
    """The output of a generator as its layers are written, without any rewriting, in float32."""
    from keras import ops

    from segsrgan.networks.models import assign_weights, build_generator

    plain = assign_weights(build_generator(spec, formulation="plain"), arrays)
    inputs = [patch, np.full_like(patch, _RESOLUTION)] if spec.conditional else patch
    return ops.convert_to_numpy(plain(inputs, training=False))


def _check(file_format, output, patch, overwrite):
    """Raises `UserError` for what can be known before anything is loaded."""
    if file_format not in FORMATS:
        raise UserError(f"format must be one of {', '.join(FORMATS)}, received {file_format}")
    if patch is None:
        raise UserError("patch must be a number: what is exported has one size; try 128")
    str(output.absolute()).encode()  # the formats' libraries know UTF-8 alone
    suffix = SUFFIXES[file_format]
    if suffix and output.suffix != suffix:
        raise UserError(f"{output}: a name for {file_format} ends with {suffix}")
    if not suffix and output.suffix in SUFFIXES.values() and output.suffix:
        raise UserError(f"{output}: is to be a folder; take a name without {output.suffix}")
    missing = [name for name in _PACKAGES.get(file_format, ()) if find_spec(name) is None]
    if missing:
        raise UserError(
            f"{file_format} needs {', '.join(missing)}; pip install {' '.join(missing)}"
        )
    if not output.parent.is_dir():
        raise UserError(f"{output}: its folder does not exist; make it first")
    for path in _parts(output):
        if path.exists() and not overwrite:
            raise UserError(f"{path}: exists already; --overwrite replaces it")
        if path.exists() and path.is_dir() != (file_format == "savedmodel"):
            kind = "folder" if path.is_dir() else "file"
            raise UserError(f"{path}: is a {kind} and not replaced; take another name")
    check_writable(output.parent)


def _parts(output):
    # The part that names the others is the last one.
    return [output.with_suffix(".bin"), output] if output.suffix == ".xml" else [output]


def _move(folder, output):
    for path in _parts(output):
        if path.is_dir():
            # A folder that is not empty cannot be replaced in one step.
            path.rename(folder / f"{path.name}.replaced")
        (folder / path.name).rename(path)


def _write_keras(layout, generator, patch, path):
    from keras import InputSpec

    from segsrgan.networks.models import assign_weights, build_generator

    spec, arrays = generator
    model = assign_weights(build_generator(spec, (patch,) * 3), arrays)
    signature = [InputSpec(dtype="float32", shape=model.input_shape, name="image")]
    handlers = logging.root.handlers.copy()
    try:
        model.export(path, format=layout, verbose=False, input_signature=signature)
    finally:
        # TensorFlow adds one that would repeat this program's messages.
        logging.root.handlers[:] = handlers


def _write_openvino(generator, patch, path):
    from segsrgan.inference.engines.openvino import build_graph, ov

    ov.save_model(build_graph(*generator, (patch,) * 3), path, compress_to_fp16=False)


def _run_savedmodel(path, patch):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))  # owns the variables of its function
    return loaded.serve(patch).numpy()


def _run_onnx(path, patch):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: patch})[0]


def _run_openvino(path, patch):
    from segsrgan.inference.engines.openvino import core

    options = {"INFERENCE_PRECISION_HINT": "f32"}
    return core().compile_model(str(path), "CPU", options)(patch)[0]


_WRITERS = {
    "savedmodel": partial(_write_keras, "tf_saved_model"),
    "onnx": partial(_write_keras, "onnx"),
    "openvino": _write_openvino,
}
_RUNNERS = {"savedmodel": _run_savedmodel, "onnx": _run_onnx, "openvino": _run_openvino}
