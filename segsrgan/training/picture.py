# SPDX-License-Identifier: MIT
"""Pictures of volumes, to see at a glance what a network has learnt."""

import numpy as np

_TITLES = ("LR", "SR", "HR", "label", "prediction")
# A patch of 64 voxels is shown three times its size.
_TILE = 192
_GAP = 4
_HEADING = 20
_WHITE = 255


def patch_picture(lr, output, target):
    """Draws the middle planes of a patch, side by side.

    ```
          LR   SR   HR   label  prediction
    yz    [ ]  [ ]  [ ]  [ ]    [ ]
    xz    ...
    xy    ...
    ```

    The first axis of a plane points to the right, the second up. LR, SR and HR share one grey
    scale, from the darkest to the brightest voxel of the HR patch; label and prediction go from
    black at 0 to white at 1. What is no number is black.

    Args:
        lr: (x, y, z, 1), the interpolated low-resolution patch.
        output: (x, y, z, 2 or more), the generator's answer: image, probability, classes.
        target: likewise, image and label.

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
    low, high = float(target[..., 0].min()), float(target[..., 0].max())
    images = [(image, low, high) for image in (lr[..., 0], output[..., 0], target[..., 0])]
    images += [(image, 0.0, 1.0) for image in (target[..., 1], output[..., 1])]
    return planes_picture(dict(zip(_TITLES, images, strict=True)))


def planes_picture(images):
    """Draws the middle planes of volumes, side by side, as `patch_picture` does.

    Args:
        images: `{title: (volume (x, y, z), value drawn black, value drawn white)}`.

    Returns:
        uint8 (height, width, 3), RGB.
    """
    columns = [_column(_grey(*image)) for image in images.values()]
    return _titled(columns, tuple(images))


def _grey(volume, low, high):
    """Intensities as uint8, `low` black and `high` white."""
    scaled = np.nan_to_num((volume - low) / max(high - low, 1e-12), nan=0, posinf=1, neginf=0)
    return (255 * scaled.clip(0, 1)).round().astype(np.uint8)


def _column(volume):
    """The three middle planes of a volume below each other, enlarged."""
    factor = max(1, round(_TILE / max(volume.shape)))
    planes = [np.rot90(volume.take(n // 2, axis)) for axis, n in enumerate(volume.shape)]
    width = max(plane.shape[1] for plane in planes)
    planes = [np.pad(p, [(0, 0), (0, width - p.shape[1])]) for p in planes]
    planes = [plane.repeat(factor, axis=0).repeat(factor, axis=1) for plane in planes]
    return np.concatenate([np.pad(p, [(0, _GAP), (0, 0)], constant_values=_WHITE) for p in planes])


def _titled(columns, titles):
    """Columns side by side under their titles."""
    from PIL import Image, ImageDraw  # slow to import

    frame = [(_HEADING, 0), (_GAP, 0)]
    columns = [np.pad(column, frame, constant_values=_WHITE) for column in columns]
    picture = Image.fromarray(np.concatenate(columns, axis=1)).convert("RGB")
    draw = ImageDraw.Draw(picture)
    for index, title in enumerate(titles):
        draw.text((index * columns[0].shape[1] + _GAP, _GAP), title, fill=(0, 0, 0))
    return np.asarray(picture)
