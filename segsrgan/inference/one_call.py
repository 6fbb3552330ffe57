# SPDX-License-Identifier: MIT
"""One image in one call, from file to files."""

import os
from pathlib import Path

from segsrgan.errors import UserError
from segsrgan.files import check_writable
from segsrgan.inference.predictor import Predictor
from segsrgan.volumes.nifti import write_volume


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
    """Super-resolves and segments one image and writes the results; see the paper's appendix.

    Args:
        input_file_path: image file or DICOM folder.
        step: voxels between patches, half the patch when None.
        new_resolution: voxel size of the result in mm, three numbers or one.
        patch: edge of the patches in voxels, None for the whole image.
        path_output_cortex: file of the cortex probabilities, not written when None.
        path_output_hr: file of the high-resolution image, not written when None.
        weights_path: registry name or file, the default weights when None.
        interpolation_type: setting of `Predictor`, as are `spline_order` and `interp`.
        spline_order: 0 to 5.
        by_batch: False for one patch at a time, True for several; the numbers are the same.
        interp: `"scipy"`, `"sitk"` or `"profile"`.
        path_output_cortex_mask: file of the thresholded cortex.
        path_output_mask: file of the classes, for weights with a mask head.
        series: UID of the DICOM series.
        progress: called as `progress(patches done, patches in all)`.
        **options: further settings of `Predictor`, or its `model`.

    Returns:
        A `Prediction`.

    Raises:
        TypeError: if the arguments come in the order of the released 2.2.4.
        UserError: on a wrong argument; its child `VolumeError` on an image.
    """
    patch = _patch_of_call(patch)
    names = ("cortex", "sr", "cortex_mask", "mask")
    paths = (path_output_cortex, path_output_hr, path_output_cortex_mask, path_output_mask)
    outputs = {n: Path(path) for n, path in zip(names, paths, strict=True) if path is not None}
    _check_outputs(outputs, input_file_path)
    options |= {"interp": interp, "interpolation_type": interpolation_type}
    options |= {"batch_size": 1} if by_batch is False else {}
    predictor = Predictor(weights_path, spline_order=spline_order, **options)
    if "mask" in outputs and predictor.spec.mask_classes == 0:
        raise UserError("path_output_mask needs weights with a mask head; leave it out")
    result = predictor.predict(input_file_path, patch, step, new_resolution, series, progress)
    for name, path in outputs.items():
        write_volume(result.volumes[name], path)
    return result


def _patch_of_call(patch):
    """The patch; a path in its place betrays the argument order of the released code."""
    text = os.fspath(patch) if isinstance(patch, (str, os.PathLike)) else None
    if text is None:
        return patch
    if text == "None":
        return None
    if text.isdigit():
        return int(text)
    raise TypeError(
        f"patch must be a number or None, received {text!r}. The order is the paper's: "
        "segmentation(input_file_path, step, new_resolution, patch, path_output_cortex, "
        "path_output_hr, weights_path); SegSRGAN 2.2.4 had patch eighth. Pass the arguments by name"
    )


def _check_outputs(outputs, source):
    """Raises `UserError` where writing would fail after all the work, or destroy a file."""
    seen = {}
    for name, path in outputs.items():
        if not path.name.lower().endswith((".nii", ".nii.gz")):
            raise UserError(f"{path}: results are written as NIfTI; end the name with .nii.gz")
        if not path.parent.is_dir():
            raise UserError(f"{path}: its folder does not exist; make it first")
        if path.exists() and os.path.exists(source) and path.samefile(source):
            raise UserError(f"{path}: is the input; write the {name} into another file")
        same = seen.setdefault(os.path.realpath(path), name)
        if same != name:
            raise UserError(f"{path}: is named for both {same} and {name}; take two files")
        check_writable(path.parent)
