# SPDX-License-Identifier: MIT
"""The networks that a training begins with."""

import math

from supermask.alignnet import AlignNetSpec, build_alignnet
from supermask.training.learners import Learners, Objective, TwoStages
from supermask.unet import SegmentorSpec, build_segmentor
from supermask.weights import Networks, load_networks


def build_learners(settings, cycles, state=None):
    """The networks of a training and their optimisers, `Learners`.

    Args:
        settings: a `Settings`.
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
        given = load_networks(settings.weights) if state is None else _of_specs(state.specs)
        found = {"segmentor": given.segmentor, "alignnet": given.alignnet}
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
        settings.filters,
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
