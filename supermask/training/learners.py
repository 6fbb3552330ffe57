# SPDX-License-Identifier: MIT
"""The two networks of a training, their optimisers and what each of them minimises.

Everything here is `keras.ops`; gradients are taken in `step`. Images and masks are
(b, n, n, n, 1); i is the moving view and j the fixed one (Gu et al. 2023, section 2).
"""

import json
import math
from dataclasses import asdict, dataclass

import keras
from keras import ops

from segsrgan.networks.spatial import SpatialTransformer3D
from segsrgan.training.losses import soft_dice_loss
from segsrgan.training.optimizers import make_adam, state_of
from supermask.losses import consistency_loss, l2, similarity_loss
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


@dataclass(frozen=True)
class Objective:
    """What the networks minimise; the weights are the paper's.

    Attributes:
        lambda_sim: of the images' similarity.
        lambda1: of L_ID.
        lambda2: of the masks' similarity, with supervision "masks".
        lambda_transform: of the distance to the true motion, with supervision "transforms".
        alpha1: of L_cons1.
        alpha2: of L_cons2.
        window: of the local cross-correlation, voxels.
        supervision: "none", "masks" or "transforms".
    """

    lambda_sim: float = 1.0
    lambda1: float = 0.1
    lambda2: float = 0.05
    lambda_transform: float = 1.0
    alpha1: float = 0.05
    alpha2: float = 0.05
    window: int = 15
    supervision: str = "none"


class TwoStages(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that is constant in stage 1 and falls step by step in stage 2.

    Args:
        first: of stage 1.
        second: that stage 2 begins with.
        updates: in stage 1.
        decay: factor ...
        every: ... after so many updates of stage 2.
    """

    def __init__(self, first, second, updates, decay=0.9, every=200):
        self._config = {
            "first": first,
            "second": second,
            "updates": updates,
            "decay": decay,
            "every": every,
        }

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
    """A segmentor, an AlignNet or both, and an optimiser for each.

    Args:
        segmentor: model of `build_segmentor`, or None.
        alignnet: model of `build_alignnet`, or None.
        objective: an `Objective`.
        rate: learning rate of both, a number or a Keras schedule, for Adam.
        loss_scaling: whether losses are scaled up dynamically, which float16 needs.
    """

    clip_gradient = None

    def __init__(self, segmentor, alignnet, objective, rate=1e-3, loss_scaling=False):
        self.segmentor, self.alignnet, self.objective = segmentor, alignnet, objective
        self.scaled = loss_scaling
        for name, model in self._models():
            optimizer = make_adam(model, rate, loss_scaling)
            setattr(self, f"{name}_optimizer", optimizer)
        # Positions need all digits, whatever the networks compute with.
        self._transformer = SpatialTransformer3D(dtype="float32")

    def _models(self):
        models = {"segmentor": self.segmentor, "alignnet": self.alignnet}
        return [(name, model) for name, model in models.items() if model is not None]

    def state(self):
        """All variables that a training changes, by meaning; see `state_of`."""
        result = {}
        for name, model in self._models():
            result |= state_of(name, model, getattr(self, f"{name}_optimizer"))
        return result

    def specs(self):
        """The specs of the networks there are, as dicts of JSON values."""
        return json.loads(json.dumps({name: asdict(m.spec) for name, m in self._models()}))

    def motion(self, moving, fixed, training=False):
        """The matrices (b, 3, 4) of `SpatialTransformer3D` that AlignNet finds."""
        parameters = self.alignnet([moving, fixed], training=training)
        return motion_matrices(parameters, self.alignnet.spec)

    def moved(self, volumes, matrices):
        """Volumes (b, n, n, n, 1) in the pose that matrices (b, 3, 4) bring them to."""
        return self._transformer([volumes, matrices])

    def segmentor_loss(self, batch):
        """L_seg1 of `Singles`: `(loss, metrics)`, a scalar and a dict of scalars."""
        loss = soft_dice_loss(batch.mask, self.segmentor(batch.image, training=True))
        return loss, {"segmentor_loss": loss, "dice_loss": loss}

    def consistent_segmentor_loss(self, batch):
        """L_seg2 = L_seg1 + alpha1 L_cons1 of `Pairs`; likewise."""
        there = self.motion(batch.moving, batch.fixed)
        back = self.motion(batch.fixed, batch.moving)
        images = [batch.moving, batch.fixed]
        images += [self.moved(batch.moving, there), self.moved(batch.fixed, back)]
        # All at once, so that the statistics of a batch are those of all of them.
        answers = self.segmentor(ops.concatenate(images, axis=0), training=True)
        mask_i, mask_j, of_aligned_i, of_aligned_j = ops.split(answers, 4, axis=0)
        dice = soft_dice_loss(batch.moving_mask, mask_i) + soft_dice_loss(batch.fixed_mask, mask_j)
        dice = dice / 2
        cons = consistency_loss(of_aligned_j, mask_i, of_aligned_i, mask_j)
        loss = dice + self.objective.alpha1 * cons
        return loss, {"segmentor_loss": loss, "dice_loss": dice, "consistency_1": cons}

    def alignnet_loss(self, batch):
        """L_align1 of `Pairs`; likewise."""
        loss, metrics, _ = self._alignment(batch)
        return loss, {"alignnet_loss": loss, **metrics}

    def consistent_alignnet_loss(self, batch):
        """L_align2 = L_align1 + alpha2 L_cons2 of `Pairs`; likewise."""
        loss, metrics, there = self._alignment(batch)
        back = self.motion(batch.fixed, batch.moving, training=True)
        mask_i, mask_j = (self.segmentor(x, training=False) for x in (batch.moving, batch.fixed))
        cons = consistency_loss(self.moved(mask_i, there), mask_j, self.moved(mask_j, back), mask_i)
        loss = loss + self.objective.alpha2 * cons
        return loss, {"alignnet_loss": loss, **metrics, "consistency_2": cons}

    def _alignment(self, batch):
        """L_align1, its parts, and the motion found."""
        objective, matrices = self.objective, self.motion(batch.moving, batch.fixed, training=True)
        loss, metrics = 0.0, {}
        if objective.lambda_sim:
            moved = self.moved(batch.moving, matrices)
            similarity = similarity_loss(moved, batch.fixed, objective.window)
            loss, metrics["similarity_loss"] = objective.lambda_sim * similarity, similarity
        # Antisymmetric weights cannot move an image against itself: the loss is 0 for good.
        if objective.lambda1 and not self.alignnet.spec.antisymmetric:
            identity = sum(self._identity(image) for image in (batch.moving, batch.fixed))
            loss, metrics["identity_loss"] = loss + objective.lambda1 * identity, identity
        if objective.supervision == "masks":
            moved = self.moved(batch.moving_mask, matrices)
            masks = similarity_loss(moved, batch.fixed_mask, objective.window)
            loss, metrics["mask_loss"] = loss + objective.lambda2 * masks, masks
        if objective.supervision == "transforms":
            size = self.alignnet.spec.size
            apart = motion_distance(matrices, batch.matrix, size) / (_HALF_EDGE * size)
            count = ops.maximum(ops.sum(batch.known), 1.0)
            apart = ops.sum(apart * batch.known) / count
            loss = loss + objective.lambda_transform * apart
            metrics["transform_loss"] = apart
        return loss, metrics, matrices

    def _identity(self, image):
        return l2(image, self.moved(image, self.motion(image, image, training=True)))


def motion_distance(first, second, size):
    """How far two motions lead the voxels of the grid's middle apart, (b,) voxels.

    The root of the mean square over a cube of half the grid's edge: with the difference `[D | d]`
    of the matrices and h half the cube's edge that is `|d|^2 + h^2 / 3 |D|^2`.

    Args:
        first: (b, 3, 4) of `SpatialTransformer3D`.
        second: likewise.
        size: edge of the grid, voxels.
    """
    squares = ops.square(first - second)
    shift = ops.sum(squares[:, :, 3], axis=1)
    turn = ops.sum(squares[:, :, :3], axis=(1, 2))
    # The small number keeps the slope of the root finite where both are equal.
    return ops.sqrt(shift + (_HALF_EDGE * size) ** 2 / 3 * turn + 1e-8)


def build_learners(settings, cycles, state=None):
    """The networks of a training and their optimisers, `Learners`.

    Args:
        settings: a `TrainingSettings`.
        cycles: in an epoch.
        state: the `State` that the training goes on from, or None.

    Raises:
        WeightsError: if the weights are unusable.
        ValueError: if they are for another grid than the settings say.
    """
    objective = Objective(
        settings.lambda_sim,
        settings.lambda1,
        settings.lambda2,
        settings.lambda_transform,
        settings.alpha1,
        settings.alpha2,
        settings.window,
        settings.supervised_alignment,
    )
    rate = TwoStages(
        settings.lr1,
        settings.lr2,
        settings.stage1_epochs * cycles,
        settings.decay,
        settings.decay_every,
    )
    models = _models(settings, state)
    return Learners(*models, objective, rate, settings.precision == "mixed_float16")


def _models(settings, state):
    """Segmentor and AlignNet, new or of weights; None for one that is not trained."""
    found = {}
    if settings.weights is not None:
        # Weights say how large their networks are; a state of theirs says it again.
        loaded = load_networks(settings.weights) if state is None else _of_specs(state.specs)
        found = {"segmentor": loaded.segmentor, "alignnet": loaded.alignnet}
    segmentor = alignnet = None
    if settings.trains_segmentor:
        segmentor = found.get("segmentor") or build_segmentor(_segmentor_spec(settings))
        _check_spec(settings, "segmentor", segmentor.spec, {"spacing": settings.spacing})
    if settings.trains_alignnet:
        alignnet = found.get("alignnet") or build_alignnet(_alignnet_spec(settings))
        wanted = {"size": settings.grid_size, "spacing": settings.spacing}
        _check_spec(settings, "alignnet", alignnet.spec, wanted)
    return segmentor, alignnet


def _of_specs(specs):
    segmentor, alignnet = specs.get("segmentor"), specs.get("alignnet")
    return Networks(
        segmentor and build_segmentor(SegmentorSpec(**segmentor)),
        alignnet and build_alignnet(AlignNetSpec(**alignnet)),
    )


def _segmentor_spec(settings):
    return SegmentorSpec(settings.kernel, settings.levels, settings.spacing, settings.through)


def _alignnet_spec(settings):
    return AlignNetSpec(
        settings.grid_size,
        settings.spacing,
        settings.alignnet_kernels,
        settings.hidden,
        math.radians(settings.largest_angle),
        settings.largest_shift,
        settings.antisymmetric,
        settings.through,
    )


def _check_spec(settings, name, spec, wanted):
    """Raises `ValueError` where a network of weights, or of the state, is for another grid."""
    wanted = {**wanted, "through": settings.through}
    flags = {"size": "--grid_size", "spacing": "--spacing", "through": "--through"}
    for field, value in wanted.items():
        if getattr(spec, field) != value:
            raise ValueError(
                f"{settings.weights}: its {name} has {field} "
                f"{getattr(spec, field)}, the flags say {value}; add {flags[field]} "
                f"{getattr(spec, field)}, or start without these weights"
            )
