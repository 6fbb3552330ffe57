# SPDX-License-Identifier: MIT
"""What a predictor and a job may be asked for, each rule stated once; needs no NumPy, no Keras."""

import logging
import math
from dataclasses import dataclass
from functools import partial
from numbers import Real

from segsrgan.config import (
    BLENDS,
    ENGINES,
    GEOMETRIES,
    INTERPOLATION_TYPES,
    INTERPS,
    PRECISIONS,
    Rule,
    check,
    setting,
)
from segsrgan.errors import UserError

_logger = logging.getLogger(__name__)

# What patches are divisible by; weights may ask for more, see `GeneratorSpec.multiple`.
_MULTIPLE = 4
_WHOLE = Rule(int)
_method = partial(setting, group="method")
_computing = partial(setting, group="computing")
# What the numbers of a result depend on, besides weights and resolution; kept in its record.
_NUMBERS = (
    *("geometry", "interp", "interpolation_type", "spline_order", "blend", "threshold"),
    *("precision", "thickness", "gap", "consistency", "flips", "islands", "strip", "maps"),
)


@dataclass(frozen=True, kw_only=True)
class PredictorSettings:
    """The settings of `Predictor`, flags of `job_model.py`; `UserError` if wrong, or two clash."""

    interp: str | None = _method(
        None,
        "interpolation before the network: cubic splines, --interpolation_type, or splines that "
        "know the slice profile (default: what the weights were trained with)",
        flag="-int",
        choices=INTERPS,
    )
    interpolation_type: str = _method(
        "Spline",
        f"with --interp sitk: {', '.join(INTERPOLATION_TYPES)}",
        flag="-it",
        choices=INTERPOLATION_TYPES,
        metavar="TYPE",
    )
    thickness: float | None = _method(
        None,
        "of the slices, mm (default: what DICOM or a BIDS sidecar says, else what the voxels "
        "clearly show, else the distance of the slices); means --interp profile, not with "
        "--geometry legacy",
        "> 0",
        metavar="MM",
    )
    gap: float | None = _method(
        None,
        "between the slices, mm: their thickness is so much less than their distance; otherwise "
        "as --thickness",
        ">= 0",
        metavar="MM",
    )
    flips: int = setting(
        1,
        "mean over so many mirrored inputs, 1, 2, 4 or 8: better, and as many times slower",
        metavar="N",
    )
    spline_order: int = setting(3, interval="[0, 5]")
    batch_size: int | None = _computing(
        None, "patches computed at once (default: as many as are fast and fit in memory)", ">= 1"
    )
    max_memory: float | None = _computing(
        None,
        "memory that the program may take, as far as it can be foreseen; what does not fit is "
        "refused (default: what is free)",
        "> 0",
        metavar="GIB",
    )
    geometry: str = _method(
        "exact", "legacy: the released SegSRGAN 2.2.4, with its misplacement", choices=GEOMETRIES
    )
    blend: str = _method(
        "uniform", "mean of overlapping patches (default: uniform, as in the paper)", choices=BLENDS
    )
    consistency: str = _method(
        "on",
        "on: what the network's image contradicts in the scan, beyond its noise, is taken back; "
        "never with --geometry legacy",
        choices=("on", "off"),
    )
    islands: str = _method(
        "drop",
        "parts of the cortex mask below 2 %% of the largest one's volume; kept with --geometry "
        "legacy",
        choices=("drop", "keep"),
    )
    strip: str = setting(
        "auto",
        "find the brain first, and segment that alone; auto: where there is a head around it; not "
        "with --geometry legacy",
        choices=("auto", "yes", "no"),
    )
    maps: bool = setting(
        False,
        "write maps of doubt, too: where the network contradicts the scan, and where patches and "
        "flips disagree; the first not with --consistency off, none with --geometry legacy",
    )
    threshold: float = _method(
        0.5, "probability from which a voxel belongs to the cortex mask", "(0, 1)", metavar="P"
    )
    engine: str = _computing(
        "auto",
        "what computes; auto: tensorflow on a graphics card, else openvino where it is installed",
        choices=("auto", *ENGINES),
    )
    precision: str = _computing(
        "float32",
        "of the engine's numbers; less than float32 only where the processor computes with it",
        choices=(*PRECISIONS, "auto"),
        metavar="{" + ",".join(PRECISIONS) + "}",
    )
    threads: int | None = _computing(None, "processor threads (default: all)", ">= 1")

    def __post_init__(self):
        check(self)
        if self.precision == "auto":  # the name of the default in version 3.0
            object.__setattr__(self, "precision", "float32")
        if self.flips not in (1, 2, 4, 8):
            raise UserError(f"flips must be 1, 2, 4 or 8, received {self.flips}; try 8")
        if self.thickness is not None and self.gap is not None:
            raise UserError(
                f"thickness and gap say the same, received {self.thickness:g} and {self.gap:g} mm; "
                "leave one out"
            )
        if self.geometry == "legacy":
            self._check_legacy()
            object.__setattr__(self, "consistency", "off")
            object.__setattr__(self, "islands", "keep")
            object.__setattr__(self, "strip", "no")
        if self.thickness is not None or self.gap is not None:
            if self.interp not in (None, "profile"):
                raise UserError(
                    f"thickness and gap need interp=profile, received {self.interp}; leave one out"
                )
            object.__setattr__(self, "interp", "profile")
        if self.maps and self.consistency == "off":
            _logger.warning("with consistency=off there is no map of what the network invented")

    def _check_legacy(self):
        for name in ("thickness", "gap", "strip", "maps"):
            value = getattr(self, name)
            if value not in (None, "no", "auto") and value is not False:
                raise UserError(
                    f"the legacy geometry knows no {name}, received {value}; leave {name} out or "
                    "take geometry=exact"
                )
        if self.interp not in (None, "scipy"):
            raise UserError(
                f"the legacy geometry is defined for interp=scipy only, received {self.interp}; "
                "take geometry=exact"
            )

    def interp_used(self, trained):
        """The interpolation before the network, whose weights were `trained` with one."""
        return "scipy" if self.geometry == "legacy" else self.interp or trained

    def record(self):
        """What the numbers of a result depend on, a dict of JSON values."""
        return {name: getattr(self, name) for name in _NUMBERS}


def checked_patch(patch, multiple=_MULTIPLE):
    """The patch's edge in voxels, an int; None for the whole image.

    It is divisible by `multiple`, that of the weights where they are known, and at least twice it.
    """
    if patch is None:
        return None
    patch = _WHOLE.checked(patch, "patch")
    if patch < 2 * multiple or patch % multiple:
        near = max(2 * multiple, multiple * round(patch / multiple))
        weights = "" if multiple == _MULTIPLE else " for these weights"
        raise UserError(
            f"patch must be divisible by {multiple} and at least {2 * multiple}{weights}, received "
            f"{patch}; try {near}"
        )
    return patch


def checked_step(step, patch):
    """The step in voxels, from 1 to the patch: half of it when None; None for the whole image."""
    if patch is None or step is None:
        return patch and patch // 2
    step = _WHOLE.checked(step, "step")
    if not 1 <= step <= patch:
        raise UserError(
            f"step must be between 1 and the patch size {patch}, received {step}; try {patch // 2}"
        )
    return step


def checked_resolution(resolution):
    """The result's voxel size in mm as three positive floats, of three numbers or one for all axes.

    They may also be a text with commas or blanks, such as `"0.5,0.5,0.5"`; "auto" stays as it is.
    """
    if resolution == "auto":
        return resolution
    values = [resolution] if isinstance(resolution, Real) else resolution
    if isinstance(resolution, str):
        values = resolution.replace(",", " ").split()
    try:
        values = [float(value) for value in values]
    except (TypeError, ValueError):
        values = []
    values = values * 3 if len(values) == 1 else values
    if len(values) != 3 or not all(math.isfinite(value) and value > 0 for value in values):
        raise UserError(
            "the resolution of the result must be one or three positive numbers in mm, or auto, "
            f"received {resolution!r}; try 0.5,0.5,0.5"
        )
    return tuple(values)


def parse_pairs(patches, steps=None):
    """The (patch, step) pairs of `--patch` and `--step`, each once; (None, None): the whole image.

    Patches are sizes by comma, steps one group per patch by comma, values by blank; without any
    they are half of each patch.

    Examples:
        >>> parse_pairs("64,128", "32 64,64")
        ((64, 32), (64, 64), (128, 64))
    """
    sizes = [checked_patch(_number("patch", word)) for word in patches.split(",")]
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
            raise UserError(f"step has no value for patch {patch} in {steps!r}; try {patch // 2}")
        values = [_number("step", word) for word in words] or [None]
        pairs += [(patch, checked_step(value, patch)) for value in values]
    return tuple(dict.fromkeys(pairs))


def local_workers(address):
    """The number of processes that "local:N" asks for; None for a scheduler's address or file."""
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


def _number(name, word):
    return None if word.strip().lower() == "none" else _WHOLE.checked(_WHOLE.parse(word), name)
