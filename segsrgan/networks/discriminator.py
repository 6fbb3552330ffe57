# SPDX-License-Identifier: MIT
"""The discriminator (Delannoy et al. 2020, section 3.1.2 and Figure 1(b))."""

from dataclasses import dataclass

import keras

MIN_SIZE = 16


@dataclass(frozen=True)
class DiscriminatorSpec:
    """What distinguishes one discriminator from another.

    Attributes:
        kernel: channels of the first convolution (32 in the paper), doubled at each level.
        conditional: one further, last input channel holds the slice resolution in mm.
        mask_classes: further input channels, the mask classes of the generator.
        patch: edge of the cubic input in voxels, a power of two from 16 up.
    """

    kernel: int = 32
    conditional: bool = False
    mask_classes: int = 0
    patch: int = 64

    def __post_init__(self):
        if self.kernel < 1:
            raise ValueError(f"kernel must be at least 1, received {self.kernel}")
        if self.patch < MIN_SIZE or self.patch & (self.patch - 1):
            raise ValueError(
                f"the discriminator's patch must be a power of two from {MIN_SIZE} up, received "
                f"{self.patch}; try 32, 64 or 128"
            )

    @property
    def channels(self):
        """Input channels: image, label, mask classes, resolution."""
        return 2 + self.mask_classes + int(self.conditional)

    @property
    def depth(self):
        """Stride-2 convolutions, so that 2^3 voxels are left: five for the paper's 64^3."""
        return self.patch.bit_length() - 2


def build_discriminator(spec=None):
    """Builds the critic: patches `(b, p, p, p, channels)` to one number each, `(b, 1)`.

    Stride-2 convolutions of 4^3 with bias and LeakyReLU(0.01), then a 2^3 convolution to one
    channel without bias. Channels: image, label, mask classes, resolution map (conditional).

    Returns:
        A `keras.Model` with the attribute `spec`.
    """
    spec = spec or DiscriminatorSpec()
    patches = keras.Input((spec.patch,) * 3 + (spec.channels,), name="patches")
    x = patches
    for level in range(spec.depth):
        x = keras.layers.Conv3D(
            spec.kernel * 2**level,
            4,
            strides=2,
            padding="same",
            kernel_initializer="he_normal",
            name=f"conv_dis_{level + 1}",
        )(x)
        x = keras.layers.LeakyReLU(negative_slope=0.01, name=f"conv_dis_{level + 1}_relu")(x)
    # Scores are compared with each other: too few digits in a mixed-precision policy's dtype.
    x = keras.layers.Conv3D(
        1, 2, use_bias=False, kernel_initializer="he_normal", dtype="float32", name="dis_decision"
    )(x)
    score = keras.layers.Reshape((1,), dtype="float32", name="score")(x)
    model = keras.Model(patches, score, name="discriminator")
    model.spec = spec
    return model
