# SPDX-License-Identifier: MIT
"""The rules of the arguments, stated once; needs neither NumPy nor Keras."""

import math
from numbers import Integral, Real

from segsrgan.config import BLENDS, GEOMETRIES, INTERPOLATION_TYPES, INTERPS
from segsrgan.errors import UserError
from segsrgan.inference.engines import NAMES as ENGINES
from segsrgan.inference.engines import PRECISIONS

# Two stride-2 levels leave 2 voxels of 8, the least that can be padded by reflection.
MIN_PATCH = 8


def checked_patch(patch):
    """The patch's edge in voxels as an int, or None for the whole image.

    Raises:
        UserError: if it is not an integer, not divisible by 4 or below 8.
    """
    if patch is None:
        return None
    patch = _integer("patch", patch)
    if patch < MIN_PATCH or patch % 4:
        near = max(MIN_PATCH, 4 * round(patch / 4))
        raise UserError(
            f"patch must be divisible by 4 and at least {MIN_PATCH}, received {patch}; try {near}"
        )
    return patch


def checked_step(step, patch):
    """The step in voxels: half the patch when None, always None for the whole image.

    Raises:
        UserError: if it is not an integer between 1 and the patch.
    """
    if patch is None:
        return None
    if step is None:
        return patch // 2
    step = _integer("step", step)
    if not 1 <= step <= patch:
        raise UserError(
            f"step must be between 1 and the patch size {patch}, received {step}; try {patch // 2}"
        )
    return step


def checked_resolution(resolution):
    """The result's voxel size in mm as three floats; a single number stands for all three.

    Raises:
        UserError: if there are not one or three positive finite numbers.
    """
    values = (resolution,) * 3 if isinstance(resolution, Real) else tuple(resolution)
    if len(values) != 3:
        raise UserError(
            f"the resolution of the result needs three numbers, received {len(values)}; "
            "try 0.5,0.5,0.5"
        )
    values = tuple(float(value) for value in values)
    if not all(math.isfinite(value) and value > 0 for value in values):
        raise UserError(
            "the resolution of the result must be three positive numbers in mm, received "
            f"{','.join(f'{value:g}' for value in values)}; try 0.5,0.5,0.5"
        )
    return values


def check_predictor(
    engine="auto",
    precision="auto",
    batch_size=None,
    threads=None,
    geometry="exact",
    interp=None,
    interpolation_type="Spline",
    spline_order=3,
    blend="uniform",
    threshold=0.5,
    max_memory=None,
):
    """Raises `UserError` if an argument of `Predictor` is invalid or two of them clash."""
    _check_choice("engine", engine, ENGINES)
    _check_choice("precision", precision, PRECISIONS)
    _check_choice("geometry", geometry, GEOMETRIES)
    if interp is not None:
        _check_choice("interp", interp, INTERPS)
    _check_choice("interpolation_type", interpolation_type, INTERPOLATION_TYPES)
    _check_choice("blend", blend, BLENDS)
    if not (isinstance(spline_order, Integral) and 0 <= spline_order <= 5):
        raise UserError(f"spline_order must be between 0 and 5, received {spline_order!r}")
    if geometry == "legacy" and interp not in (None, "scipy"):
        raise UserError(
            f"the legacy geometry is defined for interp=scipy only, received {interp}; "
            "take geometry=exact"
        )
    if not 0 < threshold < 1:
        raise UserError(f"threshold must be between 0 and 1, received {threshold:g}; try 0.5")
    if max_memory is not None and not (math.isfinite(max_memory) and max_memory > 0):
        raise UserError(
            f"max_memory must be a positive number of GiB, received {max_memory:g}; try 4"
        )
    for name, value in (("batch_size", batch_size), ("threads", threads)):
        if value is not None and _integer(name, value) < 1:
            raise UserError(f"{name} must be at least 1, received {value}")


def local_workers(address):
    """The number of processes that `"local:N"` asks for, None for the address of a scheduler.

    Raises:
        UserError: if it is neither, nor the name of a scheduler file.
    """
    kind, _, rest = address.partition(":")
    if kind == "local":
        if rest.isdecimal() and int(rest) > 0:
            return int(rest)
    elif rest or address.endswith(".json"):
        return None
    raise UserError(
        "dask must be local:N, the address of a scheduler such as tcp://host:8786, or its "
        f"scheduler file (.json), received {address!r}; try local:2"
    )


def _check_choice(name, value, choices):
    if value not in choices:
        raise UserError(f"{name} must be one of {', '.join(choices)}, received {value!r}")


def _integer(name, value):
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise UserError(f"{name} must be a whole number, received {value!r}")
    return int(value)
