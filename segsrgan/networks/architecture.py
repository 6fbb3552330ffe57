# SPDX-License-Identifier: MIT
"""What the networks are made of: their specs, and the generator as a sequence of layers.

Architecture: Delannoy et al. 2020, section 3.1.2 and Figure 1; the U-Net and conditional variants
are those of the released SegSRGAN 2.2.4. Nothing here computes: `segsrgan.networks.models` builds
Keras models of it, and an engine may build a graph of its own, without Keras.
"""

import math
from dataclasses import asdict, dataclass, replace

from segsrgan.networks import outputs

LAST_CONVOLUTION = "gen_1conv"
# What instance normalisation adds to the standard deviation.
EPSILON = 1e-7
# Up to so many filters a convolution with 8 times as many and stride 2 is the faster one: vector
# units compute 16 channels at once, and a kernel of 7 grows to 8, by (8/7)^3 = 1.5.
FEW_FILTERS = 6
# Edges of the blocks that a folded U-Net begins with; in the thick axis one acquired slice, if
# `slice_voxels` is 4.
FOLD = (2, 2, 4)
# Far beyond any network that could be trained; a file that claims more is damaged.
_RANGES = {
    "kernel": (1, 512),
    "mask_classes": (0, 256),
    "blocks": (1, 64),
    "growth": (1, 8),
    "head": (1, 15),
}
_LEVELS, _FEWEST_LEVELS, _MOST_LEVELS = (1, 2048), 2, 6


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
        heads: names of the optional heads of `segsrgan.networks.outputs` that it has.
        levels: channels of each level of a folded U-Net (not in the paper): its first level has
            blocks of 2x2x4 voxels for voxels, the next cubes of 4, 8, 16 voxels. `kernel`, `unet`,
            `growth` and `head` then have no effect. Empty: the paper's networks.

    Raises:
        ValueError: if a field is out of its range.
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
    heads: tuple = ()
    levels: tuple = ()

    def __post_init__(self):
        _check(self)
        _check_levels(self)
        if self.head % 2 == 0:
            raise ValueError(f"head must be odd, received {self.head}")
        if self.scaled and not self.residual:
            raise ValueError("scaled=True needs residual=True, received residual=False")
        if self.slice_voxels not in (0, 2, 4):  # patches are multiples of 4
            raise ValueError(f"slice_voxels must be 0, 2 or 4, received {self.slice_voxels}")

    @property
    def channels(self):
        """Channels of the output, those of its heads."""
        return outputs.channel_count(self)

    @property
    def multiple(self):
        """What the sizes of its input are divisible by; at least two of it lie along an axis."""
        return 2 ** (len(self.levels) or 2)

    @property
    def full_channels(self):
        """Channels, as if of whole size, of its widest feature maps."""
        return -(-self.levels[0] // math.prod(FOLD)) if self.levels else self.kernel


@dataclass(frozen=True)
class DiscriminatorSpec:
    """What distinguishes one discriminator from another.

    Attributes:
        kernel: channels of the first convolution (32 in the paper), doubled at each level.
        conditional: one further, last input channel holds the slice resolution in mm.
        mask_classes: further input channels, the mask classes of the generator.
        patch: edge of the cubic input in voxels, a power of two from 16 to 1024.
        heads: names of the generator's optional heads.

    Raises:
        ValueError: if a field is out of its range.
    """

    kernel: int = 32
    conditional: bool = False
    mask_classes: int = 0
    patch: int = 64
    heads: tuple = ()

    def __post_init__(self):
        _check(self)
        if not 16 <= self.patch <= 1024 or self.patch & (self.patch - 1):
            raise ValueError(
                "the discriminator's patch must be a power of two from 16 up, received "
                f"{self.patch}; try 32, 64 or 128"
            )

    @property
    def channels(self):
        """Input channels: those of the generator's heads, then the resolution."""
        return outputs.channel_count(self) + int(self.conditional)

    @property
    def depth(self):
        """Stride-2 convolutions, so that 2^3 voxels are left: five for the paper's 64^3."""
        return self.patch.bit_length() - 2


def default_blocks(spec):
    """The residual blocks of a `GeneratorSpec` whose `blocks` is None."""
    if spec.levels:
        return 2
    return 1 if spec.unet else 6


def _check(spec):
    object.__setattr__(spec, "heads", tuple(spec.heads))  # JSON has lists
    for name, (low, high) in _RANGES.items():
        value = getattr(spec, name, None)
        if value is not None and not (isinstance(value, int) and low <= value <= high):
            raise ValueError(
                f"{name} must be a whole number from {low} to {high}, received {value}"
            )
    known = [head.name for head in outputs.HEADS]
    for name in spec.heads:
        if name not in known:
            raise ValueError(f"heads must be some of {', '.join(known)}, received {name}")


def _check_levels(spec):
    object.__setattr__(spec, "levels", levels := tuple(spec.levels))  # JSON has lists
    low, high = _LEVELS
    if levels and not _FEWEST_LEVELS <= len(levels) <= _MOST_LEVELS:
        raise ValueError(
            f"levels must be {_FEWEST_LEVELS} to {_MOST_LEVELS} numbers, received {len(levels)}"
        )
    if not all(isinstance(n, int) and low <= n <= high for n in levels):
        raise ValueError(f"levels must be whole numbers from {low} to {high}, received {levels}")


def spec_values(spec):
    """A spec as files keep it: a dict of the JSON values that have an effect."""
    values = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(spec).items()}
    is_folded = isinstance(values.get("levels"), list) and values["levels"]
    unused = ("kernel", "unet", "growth", "head") if is_folded else ()
    return {name: value for name, value in values.items() if value != [] and name not in unused}


def assemble(spec, builder, image, resolution=None):
    """Builds a generator with whatever layers a builder makes.

    A builder has the methods `convolution(x, filters, kernel_size, name, strides=1, upsampling=1)`
    (reflect padding, no bias; nearest upsampling goes first; one number or three),
    `normalisation(x, name)`, `relu(x, name)`, `add(tensors, name)`, `concatenate(tensors, name)`
    (of channels), `fold(x, name)` (blocks of `FOLD` voxels become channels, ordered by place in
    the block, then channel), `unfold(x, name)` back, and `head(image, features, spec, name)`. A
    layer's weights are `<name>/kernel`, or `<name>/scale` and `<name>/shift`. `image` and
    `resolution`, of a conditional generator, are what it takes for a tensor, of one channel each;
    so is the output, of `spec.channels`.
    """
    inputs = [image] if resolution is None else [image, resolution]
    if spec.levels:
        inputs = [builder.fold(x, f"fold_{i}") for i, x in enumerate(inputs)]
    x = inputs[0] if resolution is None else builder.concatenate(inputs, "image_and_resolution")
    blocks = spec.blocks or default_blocks(spec)
    if spec.levels:
        x = _folded_unet(builder, x, spec.levels, blocks)
        x = builder.convolution(x, spec.channels * math.prod(FOLD), 3, LAST_CONVOLUTION)
        features = builder.unfold(x, "unfold")
    else:
        body = _unet if spec.unet else _resnet
        x = body(builder, x, [spec.kernel * spec.growth**level for level in range(3)], blocks)
        features = builder.convolution(x, spec.channels, spec.head, LAST_CONVOLUTION)
    return builder.head(image, features, spec, "output")


def _folded_unet(builder, x, levels, blocks):
    # Blocks of 2x2x4 voxels, then cubes of 4 and so on: the first step leaves the thick axis alone.
    steps = [1, (2, 2, 1), *[2] * (len(levels) - 2)]
    skipped = []
    for level, (channels, step) in enumerate(zip(levels, steps, strict=True)):
        x = _normalised(builder, x, channels, 3, f"gen_conv{level + 1}", strides=step)
        # The first level costs most and learns least.
        for i in range(1, (blocks if level else 1) + 1):
            x = _residual_block(builder, x, channels, f"gen_block{level + 1}_{i}")
        skipped.append(x)
    for level in reversed(range(1, len(levels))):
        channels, step = levels[level - 1], steps[level]
        x = _normalised(builder, x, channels, 3, f"gen_deconv{level}", upsampling=step)
        x = builder.concatenate([x, skipped[level - 1]], f"gen_concat{level}")
    return _normalised(builder, x, levels[0], 3, "gen_deconv0")


def _resnet(builder, x, channels, blocks):
    x = _normalised(builder, x, channels[0], 7, "gen_conv1")
    x = _normalised(builder, x, channels[1], 3, "gen_conv2", strides=2)
    x = _normalised(builder, x, channels[2], 3, "gen_conv3", strides=2)
    for i in range(1, blocks + 1):
        x = _residual_block(builder, x, channels[2], f"gen_block{i}")
    x = _normalised(builder, x, channels[1], 3, "gen_deconv1", upsampling=2)
    return _normalised(builder, x, channels[0], 3, "gen_deconv2", upsampling=2)


def _unet(builder, x, channels, blocks):
    x = _normalised(builder, x, channels[0], 7, "gen_conv1")
    level0 = _residual_block(builder, x, channels[0], "gen_block")
    x = _normalised(builder, level0, channels[1], 3, "gen_conv2", strides=2)
    level1 = _residual_block(builder, x, channels[1], "gen_block1")
    x = _normalised(builder, level1, channels[2], 3, "gen_conv3", strides=2)
    for i in range(2, blocks + 2):
        x = _residual_block(builder, x, channels[2], f"gen_block{i}")
    x = _normalised(builder, x, channels[1], 3, "gen_deconv1", upsampling=2)
    x = builder.concatenate([x, level1], "gen_concat1")
    x = _normalised(builder, x, channels[0], 3, "gen_deconv2", upsampling=2)
    return builder.concatenate([x, level0], "gen_concat2")


def _residual_block(builder, x, filters, name):
    y = _normalised(builder, x, filters, 3, f"{name}_conv_a")
    y = _normalised(builder, y, filters, 3, f"{name}_conv_b", relu=False)
    return builder.add([y, x], f"{name}_add")


def _normalised(builder, x, filters, size, name, relu=True, **options):
    x = builder.convolution(x, filters, size, name, **options)
    # The names of the released weight files: gen_block1_conv_a -> gen_block1_isnorm_a, but
    # gen_conv1 -> gen_isnorm_conv1.
    old, new = ("_conv", "_isnorm") if "block" in name else ("gen_", "gen_isnorm_")
    x = builder.normalisation(x, name.replace(old, new))
    return builder.relu(x, f"{name}_relu") if relu else x


class _Shapes(dict):
    """A builder of shapes alone, which it holds: a tensor is its number of channels."""

    def convolution(self, x, filters, kernel_size, name, strides=1, upsampling=1):
        self[f"{name}/kernel"] = (*(kernel_size,) * 3, x, filters)
        return filters

    def normalisation(self, x, name):
        self[f"{name}/scale"] = self[f"{name}/shift"] = (x,)
        return x

    def relu(self, x, name):
        return x

    def add(self, tensors, name):
        return tensors[0]

    def concatenate(self, tensors, name):
        return sum(tensors)

    def fold(self, x, name):
        return x * math.prod(FOLD)

    def unfold(self, x, name):
        return x // math.prod(FOLD)

    def head(self, image, features, spec, name):
        return features


def generator_shapes(spec):
    """The weights of a generator: dict, `<layer>/<weight>` -> shape, a tuple of int."""
    shapes = _Shapes()
    assemble(spec, shapes, 1, 1 if spec.conditional else None)
    return dict(shapes)


def discriminator_shapes(spec):
    """The weights of a discriminator, as `generator_shapes` gives a generator's."""
    shapes, channels = {}, spec.channels
    for level in range(spec.depth):
        filters = spec.kernel * 2**level
        shapes[f"conv_dis_{level + 1}/kernel"] = (4, 4, 4, channels, filters)
        shapes[f"conv_dis_{level + 1}/bias"] = (filters,)
        channels = filters
    return shapes | {"dis_decision/kernel": (2, 2, 2, channels, 1)}


def simplified_arrays(spec, arrays):
    """`(spec, arrays)` of the generator of the image alone that computes what another one does.

    The resolution map of a conditional generator holds one number everywhere. Reflect padding
    leaves it constant, so the first convolution adds one number per channel to all voxels, and
    the instance normalisation that follows takes it away again: the map and its part of the
    kernel can be left out.
    """
    if not spec.conditional:
        return spec, arrays
    first = "gen_conv1/kernel"
    image = arrays[first].shape[3] // 2  # channels; as many are the map's
    return replace(spec, conditional=False), {**arrays, first: arrays[first][..., :image, :]}
