# SPDX-License-Identifier: MIT
"""The methods of the SuperMask paper's tables, and the trainings that they need.

"img" and "msk" are registered classically by images or by masks; "nst" takes the surest view of
each voxel, "vote" the majority. The classical registration is ours, which has a pyramid and several
starts, unlike the paper's. Each method segments what it is given: no mask of a test case is used.
"""

from dataclasses import dataclass, replace
from itertools import combinations
from types import SimpleNamespace

import numpy as np

from benchmarks.supermask_networks import epochs, trained, trained_segmentor
from segsrgan.volumes import Volume, dice
from supermask.geometry import sample
from supermask.inference import predict_views
from supermask.metrics import score
from supermask.segmentation import segment, without_islands
from supermask.settings import Settings
from supermask.training import Settings as Training
from supermask.views import View
from supermask.weights import Networks, save_networks


@dataclass(frozen=True)
class Method:
    """How a row of a table comes about.

    Attributes:
        networks: which training, see `train`.
        views: indices of the views it is given; None: the high-resolution image.
        settings: of the prediction; None: the segmentor alone.
        text: of Table 4.
    """

    networks: str
    views: tuple[int, ...] | None = (0, 1, 2)
    settings: Settings | None = None
    text: str = ""


def _classical(on, fusion):
    return Settings(alignment="classical", on=on, order="segment", fusion=fusion)


ALIGNNET = Settings(alignment="alignnet", refine=False)
REFINED = Settings(alignment="alignnet", refine=True)
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
    "classical alignment": Method("both", settings=Settings(alignment="classical")),
    "aligned by the truth": Method("both", settings=Settings(alignment="none")),
}


def train(args, cases, alignnet, distance, seed):
    """The networks of every training, those of `args.runs` if they are there.

    Args:
        args: of the benchmark.
        cases: a list of `Case`.
        alignnet: trained by itself.
        distance: of the slices, mm.
        seed: int.

    Returns:
        {"apart": after stage 1, "both": after stage 2, "segmentor": trained alone on as many more
        images, "long": that one and AlignNet, "high": of high-resolution images}, each `Networks`.
    """
    names = args.methods or [*METHODS, *ABLATIONS]
    wanted = {(METHODS | ABLATIONS)[name].networks for name in names}
    folder = args.runs / f"{distance:g}mm_{seed}"
    common = settings(args, seed)
    segmentor = trained_segmentor(folder, cases, common, args.segmentor_updates)
    networks = {"apart": Networks(segmentor, alignnet)}
    apart, more = folder / "apart.h5", epochs(args.stage2_updates)
    save_networks(apart, segmentor, alignnet)
    if "both" in wanted:
        networks["both"] = trained(
            folder / "both.h5",
            cases,
            common,
            weights=str(apart),
            stage1_epochs=0,
            stage2_epochs=more,
        )
    alone = {"train": "segmentor", "stage2_epochs": 0}
    if wanted & {"segmentor", "long"}:
        # An update of stage 2 sees both views of each pair.
        changes = {"lr1": common.lr2, "batch_size": 2 * common.batch_size}
        networks["segmentor"] = trained(
            folder / "longer.h5",
            cases,
            common,
            weights=str(apart),
            stage1_epochs=more,
            **changes,
            **alone,
        )
        networks["long"] = Networks(networks["segmentor"].segmentor, alignnet)
    if "high" in wanted:
        sharp = [SimpleNamespace(views=(_sharp(case),), transforms=None) for case in cases]
        one = epochs(args.segmentor_updates)
        networks["high"] = trained(
            folder / "high.h5", sharp, common, stage1_epochs=one + 2 * more, **alone
        )
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
        {"method": name, **_tried(args, case, networks[method.networks], name, method)}
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
        if name == "aligned by the truth":
            views = [_back(view, case.transforms[k]) for k, view in enumerate(views)]
        bare = [View(view.volume, name=view.name) for view in views]
        # By name: a header that was turned back may say that another view is axial.
        settings = replace(
            method.settings,
            passes=args.passes,
            spacing=truth.spacing[0],
            reference=case.views[0].name,
        )
        result = predict_views(bare, settings, _without(networks, settings))
        found = sample(result.probability, truth.grid) >= 0.5
        between = _between(result, truth) if len(views) == 3 else None
    scores = score(found, truth.array)._asdict()
    return {**{key: float(value) for key, value in scores.items()}, "between": between}


def _without(networks, settings):
    """The networks, without AlignNet where another alignment is wanted."""
    return networks if settings.alignment == "alignnet" else Networks(networks.segmentor)


def _back(view, transform):
    """A view whose header says where the patient really was: aligned with the reference."""
    back, volume = transform.inverse(), view.volume
    direction = back.rotation @ volume.direction
    moved = Volume(volume.array, volume.spacing, back.apply(volume.origin), direction)
    return View(moved, name=view.name)


def _between(result, truth):
    """Dice between the masks of the aligned views, and of each with the truth (Table 2)."""
    masks = {view.name: view.mask.array for view in result.views}
    names = list(masks)
    pairs = {f"{a} & {b}": dice(masks[a], masks[b]) for a, b in combinations(names, 2)}
    high = sample(truth, result.mask.grid) >= 0.5
    return pairs | {f"{name} & HR": dice(masks[name], high) for name in names[1:]}
