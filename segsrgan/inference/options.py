# SPDX-License-Identifier: MIT
"""The texts of the command line, turned into values; needs neither NumPy nor Keras."""

from segsrgan.errors import UserError
from segsrgan.inference import checks


def parse_resolution(text):
    """Three floats in mm from `"0.5,0.5,0.5"` or `"0.5 0.5 0.5"`; one number stands for three.

    Raises:
        UserError: if they are not one or three positive numbers.
    """
    words = text.replace(",", " ").split()
    try:
        values = [float(word) for word in words]
    except ValueError:
        raise UserError(
            f"new_low_res must be three numbers in mm, received {text!r}; try 0.5,0.5,0.5"
        ) from None
    return checks.checked_resolution(values * 3 if len(values) == 1 else values)


def parse_pairs(patches, steps=None):
    """The (patch, step) pairs of `--patch` and `--step`.

    Args:
        patches: sizes by comma, `None` for the whole image: `"64,128"`.
        steps: one group per patch by comma, values by blank: `"32 64,64"`; half of each patch
            when None.

    Returns:
        A tuple of pairs without repetition; `(None, None)` is the whole image.

    Raises:
        UserError: if a value is invalid, or there are not as many groups as patches.

    Example:
        >>> parse_pairs("64,128", "32 64,64")
        ((64, 32), (64, 64), (128, 64))
    """
    sizes = [checks.checked_patch(_number("patch", word)) for word in patches.split(",")]
    groups = [""] * len(sizes) if steps is None else steps.split(",")
    if len(groups) != len(sizes):
        raise UserError(
            f"step needs one group per patch: received {len(sizes)} patch sizes ({patches}) and "
            f"{len(groups)} groups of steps ({steps}); separate groups by a comma, values by a "
            "blank"
        )
    pairs = []
    for patch, group in zip(sizes, groups, strict=True):
        words = group.split()
        if not words and steps is not None and patch is not None:
            raise UserError(f"step has no value for patch {patch} in {steps!r}")
        values = [_number("step", word) for word in words] or [None]
        pairs += [(patch, checks.checked_step(value, patch)) for value in values]
    return tuple(dict.fromkeys(pairs))


def _number(name, word):
    word = word.strip()
    if word.lower() == "none":
        return None
    try:
        return int(word)
    except ValueError:
        raise UserError(f"{name} must be a whole number or None, received {word!r}") from None
