# SPDX-License-Identifier: MIT
"""Pictures of volumes, to see at a glance what goes into a network and what it has learnt."""

import numpy as np

_SHEET_TITLES = ("LR", "HR", "label")
# A patch of 64 voxels is shown three times its size.
_TILE = 192
_GAP = 4
_HEADING = 20
_WHITE = 255
_RED = np.array([255, 40, 40], np.float32)


def patch_picture(lr, output, target, channels):
    """Draws the middle planes of a patch, side by side.

    ```
          LR   SR   HR   label  prediction
    yz    [ ]  [ ]  [ ]  [ ]    [ ]
    xz    ...
    xy    ...
    ```

    The first axis of a plane points to the right, the second up. LR, SR and HR share one grey
    scale, from the darkest to the brightest voxel of the HR patch; label and prediction go from
    black at 0 to white at 1. What is not a number is black.

    Args:
        lr: (x, y, z, 1), the interpolated low-resolution patch.
        output: (x, y, z, 2 or more), the generator's answer: image, probability, classes.
        target: (x, y, z, 2 or more), image, label, classes.
        channels: `{Head: slice}`, see `segsrgan.networks.outputs.output_channels`; what is a
            probability of one class has two columns, its truth and its prediction.

    Returns:
        uint8 (height, width, 3), RGB.

    Raises:
        ValueError: if the patches' sizes differ.
    """
    lr, output, target = (np.asarray(array, np.float32) for array in (lr, output, target))
    if not lr.shape[:3] == output.shape[:3] == target.shape[:3]:
        raise ValueError(
            "lr, output and target must be of one patch (x, y, z, channels), received "
            f"{lr.shape}, {output.shape} and {target.shape}"
        )
    hr = target[..., 0]
    low, high = float(hr.min()), float(hr.max())
    images = {"LR": lr[..., 0], "SR": output[..., 0], "HR": hr}
    columns = {title: (image, low, high) for title, image in images.items()}
    for head, part in channels.items():
        if head.activation == "sigmoid":
            whose = "" if head.name == "cortex" else f"{head.name} "
            columns[f"{whose}label"] = (target[..., part.start], 0.0, 1.0)
            columns[f"{whose}prediction"] = (output[..., part.start], 0.0, 1.0)
    return planes_picture(columns)


def planes_picture(images):
    """Draws the middle planes of volumes, side by side, as `patch_picture` does.

    Args:
        images: `{title: (volume (x, y, z), value drawn black, value drawn white)}`.

    Returns:
        uint8 (height, width, 3), RGB.
    """
    columns = [_column(_grey(*image)) for image in images.values()]
    return _titled(columns, tuple(images))


def side_views(lr, hr, label):
    """The middle plane yz of a sample, seen from the side: the thick axis z points up.

    LR and HR share one grey scale, from the darkest to the brightest voxel of HR.

    Args:
        lr: (x, y, z).
        hr: (x, y, z).
        label: (x, y, z), inside above 0.5.

    Returns:
        list of three uint8 (z, y, 3), RGB: LR, HR, and HR with the label in red.
    """
    low, high = float(hr.min()), float(hr.max())
    lr, hr, label = (np.rot90(array[len(array) // 2]) for array in (lr, hr, label))
    views = [np.stack([_grey(plane, low, high)] * 3, axis=-1) for plane in (lr, hr, hr)]
    inside = label > 0.5
    views[2][inside] = (views[2][inside] / 2 + _RED / 2).astype(np.uint8)
    return views


def contact_sheet(rows):
    """Draws samples below each other.

    ```
               LR   HR   label
    sample 1   [ ]  [ ]  [ ]
    sample 2   ...
    ```

    Args:
        rows: sequence of `side_views`, all of one size.

    Returns:
        uint8 (height, width, 3), RGB.
    """
    columns = zip(*rows, strict=True)
    return _titled([_below_each_other(column) for column in columns], _SHEET_TITLES)


def _grey(volume, low, high):
    """Intensities as uint8, `low` black and `high` white."""
    scaled = np.nan_to_num((volume - low) / max(high - low, 1e-12), nan=0, posinf=1, neginf=0)
    return (255 * scaled.clip(0, 1)).round().astype(np.uint8)


def _column(volume):
    """The three middle planes of a volume below each other, enlarged."""
    planes = [np.rot90(volume.take(n // 2, axis)) for axis, n in enumerate(volume.shape)]
    width = max(plane.shape[1] for plane in planes)
    planes = [np.pad(p, [(0, 0), (0, width - p.shape[1])]) for p in planes]
    return _below_each_other(planes)


def _below_each_other(planes):
    """Planes of one width (height, width[, 3]), enlarged, with a gap below each."""
    factor = max(1, round(_TILE / max(max(plane.shape[:2]) for plane in planes)))
    planes = [plane.repeat(factor, axis=0).repeat(factor, axis=1) for plane in planes]
    return np.concatenate([_framed(plane, (0, _GAP), (0, 0)) for plane in planes])


def _framed(plane, *frame):
    """A plane in white."""
    frame += ((0, 0),) * (plane.ndim - len(frame))
    return np.pad(plane, frame, constant_values=_WHITE)


def _titled(columns, titles):
    """Columns side by side under their titles."""
    from PIL import Image, ImageDraw  # slow to import

    columns = [_framed(column, (_HEADING, 0), (_GAP, 0)) for column in columns]
    picture = Image.fromarray(np.concatenate(columns, axis=1)).convert("RGB")
    draw = ImageDraw.Draw(picture)
    for index, title in enumerate(titles):
        draw.text((index * columns[0].shape[1] + _GAP, _GAP), title, fill=(0, 0, 0))
    return np.asarray(picture)
