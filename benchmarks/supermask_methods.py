# SPDX-License-Identifier: MIT
"""The methods of the SuperMask paper's tables, and the trainings that they need.

"img" and "msk" are registered classically by images or by masks; "nst" takes the surest view of
each voxel, "vote" the majority. The classical registration is ours, which has a pyramid and several
starts, unlike the paper's. Each method segments what it is given; "masks as drawn" are those of the
test case, which tell what the fusion gains where the segmentor makes no errors.
"""

import logging
import math
from dataclasses import dataclass, replace
from itertools import combinations
from types import SimpleNamespace

import numpy as np

from benchmarks.supermask_networks import epochs, trained, trained_segmentors
from segsrgan.errors import UserError
from segsrgan.volumes import Volume, dice
from supermask.geometry import sample
from supermask.metrics import score
from supermask.prediction import predict_views
from supermask.segmentation import segment, without_islands
from supermask.settings import PredictionSettings
from supermask.training import TrainingSettings as Training
from supermask.views import View
from supermask.weights import Networks, save_networks

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Method:
    """How a row of a table comes about.

    Attributes:
        networks: which training, see `train`; None: the masks that were drawn.
        views: indices of the views it is given; None: the high-resolution image.
        settings: of the prediction; None: the segmentor alone.
    """

    networks: str | None
    views: tuple[int, ...] | None = (0, 1, 2)
    settings: PredictionSettings | None = None


def _classical(on, fusion):
    return PredictionSettings(alignment="classical", on=on, order="segment", fusion=fusion)


TRUTH, DRAWN = "aligned by the truth", "masks as drawn, aligned by the truth"
ALIGNNET = PredictionSettings(alignment="alignnet", refine=False)
REFINED = PredictionSettings(alignment="alignnet", refine=True)
METHODS = {
    "Unet-LR": Method("segmentor", (0,)),
    "Unet-img-cc-nst": Method("segmentor", settings=_classical("image", "nearest")),
    "Unet-img-cc-vote": Method("segmentor", settings=_classical("image", "vote")),
    "Unet-msk-cc-nst": Method("segmentor", settings=_classical("mask", "nearest")),
    "Unet-msk-cc-vote": Method("segmentor", settings=_classical("mask", "vote")),
    "SuperMask, 1 view": Method("both", (0,), REFINED),
    "SuperMask, 2 views": Method("both", (0, 2), REFINED),
    "SuperMask": Method("both", settings=REFINED),
    "Unet-HR": Method("high", None),
}
ABLATIONS = {
    "not refined": Method("both", settings=ALIGNNET),
    "one stage": Method("apart", settings=REFINED),
    "one stage, as long": Method("long", settings=REFINED),
    "voting": Method("both", settings=replace(REFINED, fusion="vote")),
    "nearest": Method("both", settings=replace(REFINED, fusion="nearest")),
    "classical alignment": Method("both", settings=PredictionSettings(alignment="classical")),
    TRUTH: Method("both", settings=PredictionSettings(alignment="none")),
    "masks as drawn, 1 view": Method(None, (0,), PredictionSettings(alignment="none")),
    DRAWN: Method(None, settings=PredictionSettings(alignment="none")),
}


def needed(args):
    """Which trainings the chosen methods need, a set of str."""
    names = args.methods or [*METHODS, *ABLATIONS]
    return {(METHODS | ABLATIONS)[name].networks for name in names} - {None}


def train(args, cases, alignnet, distance, seed):
    """The networks of every training, those of `args.runs` if they are there.

    Args:
        args: of the benchmark.
        cases: a list of `Case`.
        alignnet: trained by itself; None where none is needed.
        distance: of the slices, mm.
        seed: int.

    Returns:
        {"apart": after stage 1, "both": after stage 2, "segmentor": trained alone on as many more
        images as stage 2 sees, "long": that one and AlignNet, "high": as that one, on
        high-resolution images}, each `Networks`.
    """
    wanted = needed(args)
    folder, common = args.runs / f"{distance:g}mm_{seed}", settings(args, seed)
    counts = args.segmentor_updates, args.stage2_updates
    networks = {}
    if wanted - {"high"}:
        segmentor, longer = trained_segmentors(folder, cases, common, *counts)
        networks = {
            "apart": Networks(segmentor, alignnet),
            "segmentor": Networks(longer),
            "long": Networks(longer, alignnet),
        }
    if "both" in wanted:
        apart = folder / "apart.h5"
        save_networks(apart, segmentor, alignnet)
        stages = {"stage1_epochs": 0, "stage2_epochs": epochs(args.stage2_updates)}
        networks["both"] = trained(folder / "both.h5", cases, common, weights=str(apart), **stages)
    if "high" in wanted:  # the same one for all distances
        sharp = [SimpleNamespace(views=(_sharp(case),), transforms=None) for case in cases]
        _, high = trained_segmentors(args.runs / f"high_{seed}", sharp, common, *counts)
        networks["high"] = Networks(high)
    return networks


def settings(args, seed):
    """What all trainings have in common, `supermask.training.Settings`."""
    return Training(
        grid_size=args.grid_size,
        spacing=args.spacing,
        kernel=args.kernel,
        alignnet_kernels=args.alignnet_kernels,
        hidden=64,
        largest_angle=60.0,
        rotation=args.angle,
        shift=args.shift / args.spacing,
        contrast_max=0.2,
        window=7,
        supervised_alignment="transforms",
        precision=args.precision,
        seed=seed,
        stage1_epochs=1,
        snapshot=10**6,
    )


def _sharp(case):
    """The high-resolution image and truth of a case, as a view."""
    return View(case.image, case.truth.with_array(case.truth.array.astype(np.float32)))


def try_methods(args, case, networks):
    """The scores of every method on a case.

    Args:
        args: of the benchmark.
        case: a `Case`.
        networks: of `train`.

    Returns:
        A list of dicts: `method`, the paper's scores, and for three views `between`, the Dice
        between the masks of the aligned views and the truth.
    """
    chosen = {**METHODS, **ABLATIONS}
    return [
        {"method": name, **_tried(args, case, networks.get(method.networks), name, method)}
        for name, method in chosen.items()
        if not args.methods or name in args.methods
    ]


def _tried(args, case, networks, name, method):
    truth, between = case.truth, None
    if method.settings is None:
        view = _sharp(case) if method.views is None else case.views[0]
        answer = segment(networks.segmentor, View(view.volume), truth.grid)
        # As a prediction, which ends around the object.
        whole = without_islands(View(view.volume, Volume.from_grid(answer, truth.grid)))
        found = whole.mask.array >= 0.5
    else:
        views = [case.views[k] for k in method.views]
        if method.networks is not None:
            views = [View(view.volume, name=view.name) for view in views]
        if name in (TRUTH, DRAWN):
            views = [_back(view, case.transforms[k]) for k, view in enumerate(views)]
        # By name: a header that was turned back may say that another view is axial.
        settings = replace(
            method.settings,
            passes=args.passes,
            spacing=truth.spacing[0],
            reference=case.views[0].name,
        )
        try:
            result = predict_views(views, settings, _without(networks, settings))
        except UserError as error:  # as where the masks to be registered are empty
            logger.warning("%s: %s", name, error)
            found = np.zeros(truth.array.shape, bool)
        else:
            found = sample(result.probability, truth.grid) >= 0.5
            between = _between(result, truth) if len(views) == 3 else None
    scores = score(found, truth.array)._asdict()
    scores = {key: float(v) if math.isfinite(v) else None for key, v in scores.items()}
    return {**scores, "between": between}


def _without(networks, settings):
    """The networks, without AlignNet where another alignment is wanted."""
    if networks is None or settings.alignment == "alignnet":
        return networks
    return Networks(networks.segmentor)


def _back(view, transform):
    """A view whose header says where the patient really was: aligned with the reference."""
    back, volume = transform.inverse(), view.volume
    grid = replace(
        volume.grid,
        origin=tuple(back.apply(volume.origin)),
        direction=back.rotation @ volume.direction,
    )
    mask = None if view.mask is None else Volume.from_grid(view.mask.array, grid)
    return View(Volume.from_grid(volume.array, grid), mask, name=view.name)


def _between(result, truth):
    """Dice between the masks of the aligned views, and of each with the truth (Table 2)."""
    masks = {view.name: view.mask.array for view in result.views}
    names = list(masks)
    pairs = {f"{a} & {b}": dice(masks[a], masks[b]) for a, b in combinations(names, 2)}
    high = sample(truth, result.mask.grid) >= 0.5
    return pairs | {f"{name} & HR": dice(masks[name], high) for name in names[1:]}
