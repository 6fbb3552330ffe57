# SPDX-License-Identifier: MIT
"""A generator as a file that other programs can run, checked against its source."""

import logging
from importlib.util import find_spec
from pathlib import Path

from segsrgan.errors import UserError
from segsrgan.files import check_writable, remove, temporary_beside
from segsrgan.inference import checks

logger = logging.getLogger(__name__)

# What a name must end with; a SavedModel is a folder.
SUFFIXES = {"savedmodel": "", "onnx": ".onnx", "openvino": ".xml"}
FORMATS = tuple(SUFFIXES)
_PACKAGES = {
    "savedmodel": (),  # TensorFlow is always there
    "onnx": ("onnx", "tf2onnx", "onnxruntime"),
    "openvino": ("openvino",),
}
# All formats keep float32: less than this is no rounding.
_LEAST_PSNR = 80.0


def export(weights_path, file_format, output, patch=128, overwrite=False):
    """Writes a generator for other programs, in float32, rewritten for speed.

    The result takes `(b, patch, patch, patch, 1)` in [0, 1] and gives
    `(b, patch, patch, patch, 2 + classes)`: image, probability, classes. That of a conditional
    generator needs no map of the resolution, see `segsrgan.networks.simplified`. It computes one
    patch, and so does the plain network of the weights; unless both agree nothing is written.

    Args:
        weights_path: registry name or file, the default weights when None.
        file_format: one of `FORMATS`.
        output: the file to write, `.onnx` or `.xml` (a `.bin` of the same name comes with it), or
            the folder of a SavedModel.
        patch: edge of its patches in voxels, divisible by 4.
        overwrite: whether something there is replaced.

    Returns:
        The `Agreement` with the plain network.

    Raises:
        UserError: on a wrong argument, if a library is missing, if there is something
            already, or if what was written does not agree with the source.
        WeightsError: if the weights are unknown or not a generator's.
    """
    output, patch = Path(output), checks.checked_patch(patch)
    _check(file_format, output, patch, overwrite)
    from segsrgan.inference.agreement import compare, plain_output, sample_patch
    from segsrgan.networks import load_generator, simplified

    model = load_generator(weights_path)
    sample = sample_patch(patch)
    folder = temporary_beside(output)
    try:
        folder.mkdir()
        written = folder / output.name
        _WRITERS[file_format](simplified(model, (patch,) * 3), written)
        agreement = compare(plain_output(model, sample), _RUNNERS[file_format](written, sample))
        if not agreement.holds(_LEAST_PSNR):
            raise UserError(
                f"{output}: what was written does not agree with the weights ({agreement}) and "
                "was removed; try another format, or another version of its library"
            )
        _move(folder, output)
    finally:
        remove(folder)
    return agreement


def _check(file_format, output, patch, overwrite):
    """Raises `UserError` for what can be known before anything is loaded."""
    if file_format not in FORMATS:
        raise UserError(f"format must be one of {', '.join(FORMATS)}, received {file_format}")
    if patch is None:
        raise UserError("patch must be a number: what is exported has one size; try 128")
    suffix = SUFFIXES[file_format]
    if suffix and output.suffix != suffix:
        raise UserError(f"{output}: a name for {file_format} ends with {suffix}")
    if not suffix and output.suffix in SUFFIXES.values() and output.suffix:
        raise UserError(f"{output}: is to be a folder; take a name without {output.suffix}")
    missing = [name for name in _PACKAGES[file_format] if find_spec(name) is None]
    if missing:
        raise UserError(
            f"{file_format} needs {', '.join(missing)}; pip install {' '.join(missing)} "
            f"(or 'SegSRGAN[{file_format}]')"
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
    """What is written, the part that names the others last."""
    return [output.with_suffix(".bin"), output] if output.suffix == ".xml" else [output]


def _move(folder, output):
    for path in _parts(output):
        if path.is_dir():
            # A folder that is not empty cannot be replaced in one step.
            path.rename(folder / f"{path.name}.replaced")
        (folder / path.name).rename(path)


def _write_savedmodel(model, path):
    model.export(path, format="tf_saved_model", verbose=False, input_signature=_signature(model))


def _write_onnx(model, path):
    model.export(path, format="onnx", verbose=False, input_signature=_signature(model))


def _signature(model):
    from keras import InputSpec

    return [InputSpec(dtype="float32", shape=model.input_shape, name="image")]


def _write_openvino(model, path):
    import openvino as ov

    from segsrgan.inference.engines.openvino_graph import build_graph

    ov.save_model(build_graph(model, model.input_shape[1:4]), path, compress_to_fp16=False)


def _run_savedmodel(path, patch):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    return loaded.serve(patch).numpy()


def _run_onnx(path, patch):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    return session.run(None, {entry.name: patch})[0]


def _run_openvino(path, patch):
    from segsrgan.inference.engines.openvino_engine import core

    options = {"INFERENCE_PRECISION_HINT": "f32"}
    return core().compile_model(str(path), "CPU", options)(patch)[0]


_WRITERS = {
    "savedmodel": _write_savedmodel,
    "onnx": _write_onnx,
    "openvino": _write_openvino,
}
_RUNNERS = {
    "savedmodel": _run_savedmodel,
    "onnx": _run_onnx,
    "openvino": _run_openvino,
}
