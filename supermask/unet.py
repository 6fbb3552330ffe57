# SPDX-License-Identifier: MIT
"""The segmentor: a 3-D U-Net (Çiçek et al. 2016; Gu et al. 2023, section 2.2)."""

from dataclasses import dataclass

import keras

from supermask.geometry import THROUGH

_MOMENTUM, _EPSILON = 0.9, 1e-5


@dataclass(frozen=True)
class SegmentorSpec:
    """What distinguishes one segmentor from another.

    Attributes:
        kernel: channels of the first convolution; each level has it doubled and doubled again,
            32-64, 64-128, 128-256 in the paper.
        levels: resolutions.
        spacing: voxel size of the grid that it is trained on, mm.
        through: how slices are brought onto that grid, see `supermask.geometry.sample`.
    """

    kernel: int = 32
    levels: int = 3
    spacing: float = 1.0
    through: str = "nearest"

    def __post_init__(self):
        if self.kernel < 1 or self.levels < 1:
            raise ValueError(
                f"kernel and levels must be at least 1, received {self.kernel} and {self.levels}"
            )
        if not self.spacing > 0:
            raise ValueError(f"spacing must be positive, in mm, received {self.spacing}; try 1")
        if self.through not in THROUGH:
            raise ValueError(
                f"through must be one of {', '.join(THROUGH)}, received {self.through!r}"
            )

    @property
    def multiple(self):
        """What sizes must be divisible by."""
        return 2 ** (self.levels - 1)


def build_segmentor(spec=None):
    """Builds the segmentor of a spec.

    Args:
        spec: a `SegmentorSpec`; the paper's by default.

    Returns:
        A `keras.Model` with the attribute `spec`: images `(b, x, y, z, 1)` in [0, 1], of sizes
        divisible by `spec.multiple`, to probabilities of the same shape, float32.

    Example:
        >>> build_segmentor(SegmentorSpec(kernel=2)).output_shape
        (None, None, None, None, 1)
    """
    spec = spec or SegmentorSpec()
    image = x = keras.Input((None, None, None, 1), name="image")
    skips = []
    for level in range(spec.levels):
        wide = spec.kernel * 2**level
        if level:
            x = keras.layers.MaxPooling3D(2, name=f"pool_{level}")(x)
        x = _block(x, wide, f"down_{level}_a")
        x = _block(x, 2 * wide, f"down_{level}_b")
        skips.append(x)
    for level in reversed(range(spec.levels - 1)):
        wide = 2 * spec.kernel * 2**level
        x = keras.layers.Conv3DTranspose(2 * wide, 2, strides=2, name=f"up_{level}")(x)
        x = keras.layers.Concatenate(name=f"join_{level}")([skips[level], x])
        x = _block(x, wide, f"up_{level}_a")
        x = _block(x, wide, f"up_{level}_b")
    # Not in the compute dtype of a mixed-precision policy: probabilities are compared.
    x = keras.layers.Conv3D(1, 1, activation="sigmoid", dtype="float32", name="head")(x)
    model = keras.Model(image, x, name="segmentor")
    model.spec = spec
    return model


def _block(x, filters, name):
    x = keras.layers.Conv3D(
        filters, 3, padding="same", use_bias=False, kernel_initializer="he_normal", name=name
    )(x)
    x = keras.layers.BatchNormalization(momentum=_MOMENTUM, epsilon=_EPSILON, name=f"{name}_norm")(
        x
    )
    return keras.layers.ReLU(name=f"{name}_relu")(x)
