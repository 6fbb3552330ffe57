# SPDX-License-Identifier: MIT
"""The function of the paper's appendix: one image in, two files out."""

import os
from pathlib import Path

from segsrgan.errors import UserError
from segsrgan.files import check_writable
from segsrgan.inference import checks
from segsrgan.volumes.writing import write_volume

_SIGNATURE = (
    "segmentation(input_file_path, step, new_resolution, patch, path_output_cortex, "
    "path_output_hr, weights_path)"
)


def segmentation(
    input_file_path,
    step=None,
    new_resolution=(0.5, 0.5, 0.5),
    patch=None,
    path_output_cortex=None,
    path_output_hr=None,
    weights_path=None,
    interpolation_type="Spline",
    spline_order=3,
    by_batch=None,
    interp=None,
    *,
    path_output_cortex_mask=None,
    path_output_mask=None,
    series=None,
    progress=None,
    **options,
):
    """Super-resolves and segments one image and writes the results.

    Args:
        input_file_path: image file or DICOM folder.
        step: voxels between patches, half the patch when None.
        new_resolution: voxel size of the result in mm, three numbers or one.
        patch: edge of the patches in voxels, None for the whole image.
        path_output_cortex: file of the cortex probabilities, not written when None.
        path_output_hr: file of the high-resolution image, not written when None.
        weights_path: registry name or file, the default weights when None.
        interpolation_type: an interpolator of SimpleITK, used with `interp="sitk"`.
        spline_order: used with `interp="scipy"`.
        by_batch: False for one patch at a time, True for several; the numbers are the same.
        interp: `"scipy"`, `"sitk"` or `"profile"`, as of `Predictor`.
        path_output_cortex_mask: file of the thresholded cortex.
        path_output_mask: file of the classes, for weights with a mask head.
        series: UID of the DICOM series.
        progress: called as `progress(patches done, patches in all)`.
        **options: `geometry`, `engine`, `precision`, `batch_size`, `threads`, `max_memory`,
            `blend`, `threshold`, `model` of `Predictor`.

    Returns:
        A `Prediction`.

    Raises:
        TypeError: if the arguments come in the order of the released 2.2.4.
        UserError: on a wrong argument.
        VolumeError: if the image cannot be read or a result cannot be written.

    Example:
        >>> segmentation("t2.nii.gz", 64, (0.5, 0.5, 0.5), 128, "cortex.nii.gz", "sr.nii.gz", "w")
    """
    patch = _refuse_other_order(patch)
    patch = checks.checked_patch(patch)
    step = checks.checked_step(step, patch)
    checks.checked_resolution(new_resolution)
    outputs = {
        "cortex": path_output_cortex,
        "sr": path_output_hr,
        "cortex_mask": path_output_cortex_mask,
        "mask": path_output_mask,
    }
    outputs = {kind: Path(path) for kind, path in outputs.items() if path is not None}
    _check_outputs(outputs, input_file_path)
    if by_batch is False:
        options["batch_size"] = 1
    from segsrgan.inference.predictor import Predictor

    predictor = Predictor(
        weights_path,
        interp=interp,
        interpolation_type=interpolation_type,
        spline_order=spline_order,
        **options,
    )
    if "mask" in outputs and predictor.channels == 2:
        raise UserError("path_output_mask needs weights with a mask head; leave it out")
    result = predictor.predict(input_file_path, patch, step, new_resolution, series, progress)
    for kind, path in outputs.items():
        write_volume(getattr(result, kind), path)
    return result


def _check_outputs(outputs, source):
    """Raises `UserError` where writing would fail after all the work, or destroy a file."""
    seen = {}
    for kind, path in outputs.items():
        if not path.name.lower().endswith((".nii", ".nii.gz")):
            raise UserError(f"{path}: results are written as NIfTI; end the name with .nii.gz")
        if not path.parent.is_dir():
            raise UserError(f"{path}: its folder does not exist; make it first")
        if path.exists() and os.path.exists(source) and path.samefile(source):
            raise UserError(f"{path}: is the input; write the {kind} into another file")
        same = seen.setdefault(os.path.realpath(path), kind)
        if same != kind:
            raise UserError(f"{path}: is named for both {same} and {kind}; take two files")
        check_writable(path.parent)


def _refuse_other_order(patch):
    """Passes the patch on; a path in its place betrays the order of the released code."""
    text = os.fspath(patch) if isinstance(patch, (str, os.PathLike)) else None
    if text is None:
        return patch
    if text == "None":
        return None
    if text.isdigit():
        return int(text)
    raise TypeError(
        f"patch must be a number or None, received {text!r}. The order is the paper's: "
        f"{_SIGNATURE}; SegSRGAN 2.2.4 had patch eighth. Pass the arguments by name"
    )
