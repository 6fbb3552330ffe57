# SPDX-License-Identifier: MIT
"""The whole method as one function."""

from dataclasses import asdict

from segsrgan.errors import UserError
from supermask.inference import predict_views
from supermask.patient import MOST_VIEWS
from supermask.results import REPORT, write_results
from supermask.settings import Settings
from supermask.store import check_place
from supermask.views import View, read_view


def predict(
    stacks,
    masks=None,
    weights=None,
    segsrgan=None,
    labels=None,
    output=None,
    overwrite=False,
    progress=None,
    **settings,
):
    """Makes one high-resolution mask of one, two or three stacks of a patient.

    Args:
        stacks: paths of image files or DICOM folders, or `View`s, in any order and orientation.
        masks: as many paths of the object's masks, None where there is none and for `View`s, which
            bring their own; None: none at all.
        weights: of segmentor and AlignNet: a file, a name of the registry, or `Networks`; None
            where all stacks have masks.
        segsrgan: weights of SegSRGAN, by which each stack is super-resolved first, or None.
        labels: values of the masks that make the object, see `supermask.read_view`.
        output: folder for the results as files, or None.
        overwrite: whether results in `output` are replaced.
        progress: called as `progress(what is done now, steps done, steps in all)`.
        **settings: of `supermask.Settings`: `alignment`, `refine`, `fusion`, `spacing`, ...

    Returns:
        A `Prediction`: `mask`, `probability`, `image`, `views`, `agreements`, `lost`, `warnings`.

    Raises:
        UserError: if an argument is wrong, or the stacks cannot be used, see
            `supermask.inference.predict_views`.
        VolumeError: if a file cannot be read or written.
        WeightsError: if there are no such weights.

    Example:
        >>> import supermask
        >>> stacks = ["axial.nii.gz", "coronal.nii.gz"]
        >>> masks = ["axial_mask.nii.gz", "coronal_mask.nii.gz"]
        >>> result = supermask.predict(stacks, masks, alignment="classical")
        >>> result.mask.spacing, result.views[1].transform.angle(), result.agreements[0].dice
        ((0.8, 0.8, 0.8), 4.2, 0.93)
    """
    settings = _settings(settings)
    if output is not None:
        check_place(output, REPORT, overwrite)
    if isinstance(stacks, (str, bytes, View)) or hasattr(stacks, "__fspath__"):
        raise UserError(f"stacks must be a list, received {stacks!r}")
    views = _views(list(stacks), masks, labels)
    networks, sharpener = weights, None
    if isinstance(weights, str) or hasattr(weights, "__fspath__"):
        from supermask.weights import load_networks  # loads TensorFlow

        networks = load_networks(weights)
    if segsrgan is not None:
        from supermask.sharpening import load_sharpener

        sharpener = load_sharpener(segsrgan)
    result = predict_views(views, settings, networks, sharpener, progress)
    if output is not None:
        write_results(result, output, overwrite, settings=asdict(settings))
    return result


def _settings(values):
    unknown = set(values) - set(Settings.__dataclass_fields__)
    if unknown:
        raise UserError(
            f"{', '.join(sorted(unknown))}: unknown; settings are "
            f"{', '.join(Settings.__dataclass_fields__)}"
        )
    return Settings(**values)


def _views(stacks, masks, labels):
    if isinstance(masks, (str, bytes)) or hasattr(masks, "__fspath__"):
        raise UserError(f"masks must be a list, one for each stack, received {masks!r}")
    masks = [None] * len(stacks) if masks is None else list(masks)
    if not 1 <= len(stacks) <= MOST_VIEWS or len(masks) != len(stacks):
        raise UserError(
            "expected one to three stacks and as many masks, or None, received "
            f"{len(stacks)} and {len(masks)}"
        )
    for stack, mask in zip(stacks, masks, strict=True):
        if isinstance(stack, View) and mask is not None:
            raise UserError(
                f"{stack.path}: a View brings its own mask, received {mask} besides; give "
                "View(volume, mask) or the paths of both"
            )
    return [
        stack if isinstance(stack, View) else read_view(stack, mask, labels=labels)
        for stack, mask in zip(stacks, masks, strict=True)
    ]
