# SPDX-License-Identifier: MIT
"""The two networks of a training, their optimisers and what each of them minimises.

Everything here is `keras.ops`; gradients are taken in `loop`. Images and masks are
(b, n, n, n, 1); i is the moving view and j the fixed one (Gu et al. 2023, section 2).
"""

import json
import math
from dataclasses import asdict

import keras
from keras import ops

from segsrgan.errors import UserError
from segsrgan.networks.spatial import SpatialTransformer3D
from segsrgan.training.losses import soft_dice_loss
from segsrgan.training.optimizers import make_optimizer, state_of
from supermask.losses import l2, similarity_loss
from supermask.networks import (
    AlignNetSpec,
    Networks,
    SegmentorSpec,
    build_alignnet,
    build_segmentor,
    load_networks,
    motion_matrices,
)

# Of the root mean square distance of two motions over a cube of half the grid's edge.
_HALF_EDGE = 0.25
_BUILDERS = {"segmentor": build_segmentor, "alignnet": build_alignnet}
# What the networks of weights must have in common with the settings.
_GRID = {"size": "--grid_size", "spacing": "--spacing", "through": "--through"}


class TwoStages(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate: `first` for so many updates, then `second` times `decay` every `every`."""

    def __init__(self, first, second, updates, decay=0.9, every=200):
        self._config = {"first": first, "second": second, "updates": updates}
        self._config |= {"decay": decay, "every": every}

    def __call__(self, step):
        """The rate of an update, counted from 0."""
        c = self._config
        later = ops.cast(step, "float32") - c["updates"]
        falls = ops.floor(ops.maximum(later, 0.0) / c["every"])
        return ops.where(later < 0, c["first"], c["second"] * c["decay"] ** falls)

    def get_config(self):
        """The arguments."""
        return dict(self._config)


class Learners:
    """A segmentor, an AlignNet or both, and an Adam optimiser for each.

    Args:
        segmentor: model of `build_segmentor`, or None.
        alignnet: model of `build_alignnet`, or None.
        settings: a `TrainingSettings`: the weights of the losses, their window, the precision.
        rate: learning rate of both, a number or a Keras schedule.
    """

    clip_gradient = None

    def __init__(self, segmentor, alignnet, settings, rate=1e-3):
        self.segmentor, self.alignnet, self.settings = segmentor, alignnet, settings
        self.scaled = settings.precision == "mixed_float16"
        models = {"segmentor": segmentor, "alignnet": alignnet}
        self.models = {name: model for name, model in models.items() if model is not None}
        for name, model in self.models.items():
            setattr(
                self, f"{name}_optimizer", make_optimizer(model, rate, loss_scaling=self.scaled)
            )
        # Positions need all digits, whatever the networks compute with.
        self._transformer = SpatialTransformer3D(dtype="float32")

    def state(self):
        """All variables that a training changes, by meaning; see `state_of`."""
        result = {}
        for name, model in self.models.items():
            result |= state_of(name, model, getattr(self, f"{name}_optimizer"))
        return result

    def specs(self):
        """The specs of the networks there are, as dicts of JSON values."""
        return json.loads(json.dumps({n: asdict(m.spec) for n, m in self.models.items()}))

    def motion(self, moving, fixed, training=False):
        """The matrices (b, 3, 4) of `SpatialTransformer3D` that AlignNet finds."""
        parameters = self.alignnet([moving, fixed], training=training)
        return motion_matrices(parameters, self.alignnet.spec)

    def moved(self, volumes, matrices):
        """Volumes (b, n, n, n, 1) in the pose that matrices (b, 3, 4) bring them to."""
        return self._transformer([volumes, matrices])

    # Each loss is of a batch, and returns a scalar and a dict of scalars to be recorded.

    def segmentor_loss(self, batch):
        """L_seg1 of `Singles`."""
        loss = soft_dice_loss(batch.mask, self.segmentor(batch.image, training=True))
        return loss, {"segmentor_loss": loss, "dice_loss": loss}

    def consistent_segmentor_loss(self, batch):
        """L_seg2 = L_seg1 + alpha1 L_cons1 of `Pairs`."""
        there = self.motion(batch.moving, batch.fixed)
        back = self.motion(batch.fixed, batch.moving)
        images = [batch.moving, batch.fixed]
        images += [self.moved(batch.moving, there), self.moved(batch.fixed, back)]
        # All at once, so that the statistics of a batch are those of all of them.
        answers = self.segmentor(ops.concatenate(images, axis=0), training=True)
        mask_i, mask_j, of_aligned_i, of_aligned_j = ops.split(answers, 4, axis=0)
        dice = soft_dice_loss(batch.moving_mask, mask_i) + soft_dice_loss(batch.fixed_mask, mask_j)
        dice = dice / 2
        cons = l2(of_aligned_j, mask_i) + l2(of_aligned_i, mask_j)  # Eq. 2
        loss = dice + self.settings.alpha1 * cons
        return loss, {"segmentor_loss": loss, "dice_loss": dice, "consistency_1": cons}

    def alignnet_loss(self, batch):
        """L_align1 of `Pairs`."""
        loss, metrics, _ = self._alignment(batch)
        return loss, {"alignnet_loss": loss, **metrics}

    def consistent_alignnet_loss(self, batch):
        """L_align2 = L_align1 + alpha2 L_cons2 of `Pairs`."""
        loss, metrics, there = self._alignment(batch)
        back = self.motion(batch.fixed, batch.moving, training=True)
        mask_i, mask_j = (self.segmentor(x, training=False) for x in (batch.moving, batch.fixed))
        cons = l2(self.moved(mask_i, there), mask_j) + l2(self.moved(mask_j, back), mask_i)  # Eq. 2
        loss = loss + self.settings.alpha2 * cons
        return loss, {"alignnet_loss": loss, **metrics, "consistency_2": cons}

    def _alignment(self, batch):
        """L_align1, its parts, and the motion found."""
        s, matrices = self.settings, self.motion(batch.moving, batch.fixed, training=True)
        loss, metrics = 0.0, {}
        if s.lambda_sim:
            moved = self.moved(batch.moving, matrices)
            similarity = similarity_loss(moved, batch.fixed, s.window)
            loss, metrics["similarity_loss"] = s.lambda_sim * similarity, similarity
        # Antisymmetric weights cannot move an image against itself: the loss is 0 for good.
        if s.lambda1 and not self.alignnet.spec.antisymmetric:
            identity = sum(self._identity(image) for image in (batch.moving, batch.fixed))
            loss, metrics["identity_loss"] = loss + s.lambda1 * identity, identity
        if s.supervised_alignment == "masks":
            moved = self.moved(batch.moving_mask, matrices)
            masks = similarity_loss(moved, batch.fixed_mask, s.window)
            loss, metrics["mask_loss"] = loss + s.lambda2 * masks, masks
        if s.supervised_alignment == "transforms":
            size = self.alignnet.spec.size
            apart = motion_distance(matrices, batch.matrix, size) / (_HALF_EDGE * size)
            apart = ops.sum(apart * batch.known) / ops.maximum(ops.sum(batch.known), 1.0)
            loss, metrics["transform_loss"] = loss + s.lambda_transform * apart, apart
        return loss, metrics, matrices

    def _identity(self, image):
        return l2(image, self.moved(image, self.motion(image, image, training=True)))


def motion_distance(first, second, size):
    """How far two motions (b, 3, 4) lead the voxels of a grid's middle apart, (b,) voxels.

    The root of the mean square over a cube of half the grid's edge `size`: with the difference
    `[D | d]` of the matrices and h half the cube's edge that is `|d|^2 + h^2 / 3 |D|^2`.
    """
    squares = ops.square(first - second)
    shift = ops.sum(squares[:, :, 3], axis=1)
    turn = ops.sum(squares[:, :, :3], axis=(1, 2))
    # The small number keeps the slope of the root finite where both are equal.
    return ops.sqrt(shift + (_HALF_EDGE * size) ** 2 / 3 * turn + 1e-8)


def build_learners(settings, cycles, state=None):
    """The `Learners` of a training with so many cycles an epoch, perhaps going on from a `State`.

    Raises `WeightsError` if the weights are unusable, `UserError` if they are for another grid.
    """
    s = settings
    rate = TwoStages(s.lr1, s.lr2, s.stage1_epochs * cycles, s.decay, s.decay_every)
    loaded, specs, models = Networks(), {}, {}
    # Weights say how large their networks are; a state of theirs says it again.
    if s.weights is not None and state is None:
        loaded = load_networks(s.weights)
    elif s.weights is not None:
        specs = state.specs
    for name, spec in _specs(s).items():
        model = getattr(loaded, name)
        if model is None:
            model = _BUILDERS[name](type(spec)(**specs[name]) if name in specs else spec)
        _check_grid(s.weights, name, model.spec, spec)
        models[name] = model
    return Learners(models.get("segmentor"), models.get("alignnet"), s, rate)


def _specs(s):
    """The specs of the networks that settings train."""
    result = {}
    if s.trains_segmentor:
        result["segmentor"] = SegmentorSpec(s.kernel, s.levels, s.spacing, s.through)
    if s.trains_alignnet:
        result["alignnet"] = AlignNetSpec(
            s.grid_size,
            s.spacing,
            s.alignnet_kernels,
            s.hidden,
            math.radians(s.largest_angle),
            s.largest_shift,
            s.antisymmetric,
            s.through,
        )
    return result


def _check_grid(weights, name, spec, expected):
    """Raises `UserError` where a network of weights, or of the state, is for another grid."""
    for field, flag in _GRID.items():
        value, requested = getattr(spec, field, None), getattr(expected, field, None)
        if value != requested:
            raise UserError(
                f"{weights}: its {name} has {field} {value}, the flags say {requested}; add {flag} "
                f"{value}, or start without these weights"
            )
