# SPDX-License-Identifier: MIT
"""The trainings of SuperMask that two cores can do, each kept in a file.

AlignNet needs tens of thousands of pairs before it finds rotations. So it is trained by itself
first, by the true motions of simulated examinations, on large batches seen in several orientations.
"""

from dataclasses import replace

from supermask.networks import load_networks, save_networks
from supermask.training import fit

EPOCH = 50  # updates
# Learning rates of AlignNet, each with its fraction of the updates.
_RATES = ((4e-4, 0.6), (1e-4, 0.2), (3e-5, 0.2))


def trained(path, cases, settings, report=None, **changes):
    """The networks of a training.

    Args:
        path: of their weights file; the training's folder lies beside it.
        cases: a list of `Case`.
        settings: a `supermask.training.TrainingSettings`.
        report: see `supermask.training.run`.
        changes: of the settings.

    Returns:
        `Networks`, those of the file if it is there.
    """
    if not path.exists():
        settings = replace(settings, steps=EPOCH, resume=True, tensorboard=False, **changes)
        found = fit(cases, settings, path.with_suffix(""), progress=report)
        save_networks(path, found.segmentor, found.alignnet)
    return load_networks(path)


def epochs(updates):
    """How many epochs so many updates are, at least one."""
    return max(1, round(updates / EPOCH))


def trained_alignnet(folder, cases, settings, updates, report=None):
    """An AlignNet, by itself.

    Args:
        folder: of its trainings.
        cases: a list of `Case`, of any slice distances.
        settings: a `supermask.training.TrainingSettings`, for its grid, networks and augmentation.
        updates: in all, of 16 pairs each.
        report: see `supermask.training.run`.

    Returns:
        A `keras.Model`.
    """
    alone = replace(
        settings,
        train="alignnet",
        supervised_alignment="transforms",
        lambda_sim=0.0,
        precision="float32",
        batch_size=16,
        orientations=6,
        stage2_epochs=0,
    )
    weights = None
    for number, (rate, share) in enumerate(_RATES, start=1):
        path = folder / f"alignnet_{number}.h5"
        found = trained(
            path,
            cases,
            alone,
            report,
            lr1=rate,
            stage1_epochs=epochs(share * updates),
            seed=settings.seed + number,
            weights=weights,
        )
        weights = str(path)
    return found.alignnet


def trained_segmentor(folder, cases, settings, updates, report=None):
    """A segmentor, by itself, see `trained_alignnet`; the batches as the settings say."""
    alone = {"train": "segmentor", "stage2_epochs": 0}
    path = folder / "segmentor.h5"
    return trained(path, cases, settings, report, stage1_epochs=epochs(updates), **alone).segmentor


def trained_segmentors(folder, cases, settings, updates, more):
    """A segmentor, and what becomes of it in as many more updates as stage 2 has.

    Each of these has as many images as one of stage 2, and its learning rate.

    Args:
        folder: of its trainings.
        cases: a list of `Case`.
        settings: a `supermask.training.TrainingSettings`.
        updates: of the first.
        more: those that follow.

    Returns:
        Two `keras.Model`.
    """
    first = trained_segmentor(folder, cases, settings, updates)
    longer = trained(
        folder / "longer.h5",
        cases,
        replace(settings, lr1=settings.lr2, batch_size=2 * settings.batch_size),
        weights=str(folder / "segmentor.h5"),
        train="segmentor",
        stage1_epochs=epochs(more),
        stage2_epochs=0,
    )
    return first, longer.segmentor
