# SPDX-License-Identifier: MIT
"""The generator: one frozen spec, one builder for every variant.

Architecture: Delannoy et al. 2020, section 3.1.2 and Figure 1(a); the U-Net and conditional
variants are those of the released SegSRGAN 2.2.4.
"""

from dataclasses import dataclass

import keras

from segsrgan.networks.layers import InstanceNormalization3D, OutputHead, ReflectConv3D

RESIDUAL_BLOCKS = 6


@dataclass(frozen=True)
class GeneratorSpec:
    """What distinguishes one generator from another.

    Attributes:
        kernel: channels of the first convolution (16 in the paper, 28 in the released U-Net).
        unet: U-Net with skip connections instead of the encoder, residual blocks, decoder.
        conditional: a second input holds the slice resolution in mm at every voxel.
        residual: the image output is the input minus a correction, else the output itself.
        mask_classes: classes of the additional softmax output, 0 for none.
        scaled: the correction is in tenths of the patch's standard deviation (not in the paper;
            see `OutputHead`), so that intensities of any scale and offset are served alike.
        blocks: residual blocks at the lowest resolution; None: six, in the U-Net one.
        growth: factor of the channels from one resolution to the next lower.
        head: edge of the last convolution's kernel, odd; 7 in the paper. With 3 the network is
            a third faster and, trained briefly, better.
        interp: the interpolation that its input comes from, "scipy", "sitk" or "profile" (see
            `segsrgan.volumes.resample_to`).
        slice_voxels: voxels of the input for each acquired slice, the same in every image, the
            first slice at the first voxels; 0: any number, anywhere. A network that knows where
            the slices lie learns what is missing between them many times faster.
    """

    kernel: int = 16
    unet: bool = False
    conditional: bool = False
    residual: bool = True
    mask_classes: int = 0
    scaled: bool = False
    blocks: int | None = None
    growth: int = 2
    head: int = 7
    interp: str = "scipy"
    slice_voxels: int = 0

    def __post_init__(self):
        if self.kernel < 1:
            raise ValueError(f"kernel must be at least 1, received {self.kernel}")
        if self.mask_classes < 0:
            raise ValueError(f"mask_classes must be 0 or more, received {self.mask_classes}")
        if self.growth < 1 or (self.blocks is not None and self.blocks < 1):
            raise ValueError(
                "growth and blocks must be at least 1, "
                f"received growth={self.growth}, blocks={self.blocks}"
            )
        if self.head < 1 or self.head % 2 == 0:
            raise ValueError(f"head must be odd and at least 1, received {self.head}")
        if self.scaled and not self.residual:
            raise ValueError("scaled=True needs residual=True, received residual=False")
        if self.slice_voxels not in (0, 2, 4):  # patches are multiples of 4
            raise ValueError(f"slice_voxels must be 0, 2 or 4, received {self.slice_voxels}")

    @property
    def channels(self):
        """Channels of the output: image, probability, then the mask classes."""
        return 2 + self.mask_classes


def build_generator(spec=None, patch=None, formulation="fast", head_initializer="lecun_normal"):
    """Builds the generator of a spec.

    Args:
        spec: a `GeneratorSpec`; the paper's by default.
        patch: three sizes divisible by 4, to fix the input; free when None.
        formulation: `"fast"` or `"plain"`, see `ReflectConv3D`; the same function of the same
            weights.
        head_initializer: initialiser of the last convolution.

    Returns:
        A `keras.Model` with the attribute `spec`. Input `(b, x, y, z, 1)` in [0, 1]; when
        conditional a list of it and of a map `(b, x, y, z, 1)` in mm. Output
        `(b, x, y, z, 2 + classes)`: image, probability, classes. Sizes are divisible by 4.

    Raises:
        ValueError: if a size of `patch` is not divisible by 4.
    """
    spec = spec or GeneratorSpec()
    if patch is not None and any(n % 4 for n in patch):
        raise ValueError(f"patch sizes must be divisible by 4, received {tuple(patch)}")
    shape = (*(patch or (None, None, None)), 1)
    image = keras.Input(shape, name="image")
    inputs, x = [image], image
    if spec.conditional:
        inputs.append(keras.Input(shape, name="resolution"))
        x = keras.layers.Concatenate(name="image_and_resolution")(inputs)

    conv = _ConvolutionFactory(formulation)
    body = _unet if spec.unet else _resnet
    channels = [spec.kernel * spec.growth**level for level in range(3)]
    x = body(conv, x, channels, spec.blocks)
    features = conv.plain(
        x, spec.channels, spec.head, "gen_1conv", kernel_initializer=head_initializer
    )
    output = OutputHead(spec.residual, spec.scaled, name="output")([image, features])
    model = keras.Model(inputs if spec.conditional else image, output, name="generator")
    model.spec = spec
    return model


class _ConvolutionFactory:
    """Adds convolutions, named as in the released weight files."""

    def __init__(self, formulation):
        self.formulation = formulation

    def plain(self, x, filters, size, name, **options):
        layer = ReflectConv3D(filters, size, formulation=self.formulation, name=name, **options)
        return layer(x)

    def normalised(self, x, filters, size, name, relu=True, **options):
        x = self.plain(x, filters, size, name, **options)
        # gen_block1_conv_a -> gen_block1_isnorm_a, but gen_conv1 -> gen_isnorm_conv1
        old, new = ("_conv", "_isnorm") if "block" in name else ("gen_", "gen_isnorm_")
        x = InstanceNormalization3D(name=name.replace(old, new))(x)
        return keras.layers.ReLU(name=f"{name}_relu")(x) if relu else x

    def residual_block(self, x, filters, name):
        y = self.normalised(x, filters, 3, f"{name}_conv_a")
        y = self.normalised(y, filters, 3, f"{name}_conv_b", relu=False)
        return keras.layers.Add(name=f"{name}_add")([y, x])


def _resnet(conv, x, channels, blocks):
    x = conv.normalised(x, channels[0], 7, "gen_conv1")
    x = conv.normalised(x, channels[1], 3, "gen_conv2", strides=2)
    x = conv.normalised(x, channels[2], 3, "gen_conv3", strides=2)
    for i in range(1, (blocks or RESIDUAL_BLOCKS) + 1):
        x = conv.residual_block(x, channels[2], f"gen_block{i}")
    x = conv.normalised(x, channels[1], 3, "gen_deconv1", upsampling=2)
    return conv.normalised(x, channels[0], 3, "gen_deconv2", upsampling=2)


def _unet(conv, x, channels, blocks):
    x = conv.normalised(x, channels[0], 7, "gen_conv1")
    level0 = conv.residual_block(x, channels[0], "gen_block")
    x = conv.normalised(level0, channels[1], 3, "gen_conv2", strides=2)
    level1 = conv.residual_block(x, channels[1], "gen_block1")
    x = conv.normalised(level1, channels[2], 3, "gen_conv3", strides=2)
    for i in range(2, (blocks or 1) + 2):
        x = conv.residual_block(x, channels[2], f"gen_block{i}")
    x = conv.normalised(x, channels[1], 3, "gen_deconv1", upsampling=2)
    x = keras.layers.Concatenate(name="gen_concat1")([x, level1])
    x = conv.normalised(x, channels[0], 3, "gen_deconv2", upsampling=2)
    return keras.layers.Concatenate(name="gen_concat2")([x, level0])
