# SPDX-License-Identifier: MIT
"""What belongs to the class: from label values, or from probabilities."""

import logging

import numpy as np

from segsrgan.errors import UserError

logger = logging.getLogger(__name__)

_TOLERANCE = 1e-3  # of label values and of 0 and 1: scaling and interpolation round
_SPARSE = (slice(None, None, 3),) * 3  # enough voxels to see how many values there are
_MANY = 300  # more than the atlases in use have


def are_labels(array, path, values=None):
    """Tell label values, which are whole numbers, from probabilities.

    Args:
        array: (x, y, z) float32, finite.
        path: of the file, for messages.
        values: the label values asked for, or None.

    Returns:
        Whether they are label values.

    Raises:
        UserError: if they are neither, or probabilities where label values are asked for.
    """
    # Plane by plane: no copies as large as the image.
    if all(np.all(np.abs(plane - np.rint(plane)) <= _TOLERANCE) for plane in array):
        return True
    low, high = float(array.min()), float(array.max())
    if low < -_TOLERANCE or high > 1 + _TOLERANCE:
        raise UserError(
            f"{path}: expected labels (whole numbers) or probabilities (0 to 1), received "
            f"fractions between {low:.4g} and {high:.4g}; check that this is the segmentation, "
            "and that it was not interpolated"
        )
    if values is not None:
        raise UserError(
            f"{path}: expected the labels {_text(values)}, received probabilities (fractions "
            "between 0 and 1); choose no labels there, --threshold makes the class"
        )
    return False


def in_class(array, labels, values, threshold, path):
    """The voxels of the class.

    Args:
        array: (x, y, z) float32.
        labels: whether it holds label values; else probabilities.
        values: label values that make the class, None: every one but 0.
        threshold: probability from which a voxel belongs to it.
        path: of the file, for the warning where none of `values` occurs.

    Returns:
        A bool array (x, y, z).
    """
    result = np.empty(array.shape, bool)
    for inside, plane in zip(result, array, strict=True):
        if not labels:
            inside[...] = plane >= threshold
        elif values is None:
            inside[...] = np.rint(plane) != 0
        else:
            inside[...] = np.isin(np.rint(plane), values)
    if labels and values is None and len(np.unique(np.rint(array[_SPARSE]))) > _MANY:
        logger.warning(
            "%s: has more than %d values, as an image has; expected a segmentation", path, _MANY
        )
    if values is not None and not result.any():
        found = np.unique(np.rint(array))
        logger.warning("%s: has none of the labels %s, only %s", path, _text(values), _text(found))
    return result


def _text(values, shown=12):
    text = ", ".join(f"{value:g}" for value in values[:shown])
    return text + (" ..." if len(values) > shown else "")
