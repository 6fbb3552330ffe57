# SPDX-License-Identifier: MIT
"""The weights of SuperMask that ship: what their entry says, and a brain that they never saw."""

from dataclasses import replace

import numpy as np
import pytest
from examinations import apart

from segsrgan.networks import describe, registry
from segsrgan.volumes import dice, read_volume
from supermask.geometry import middle_of, sample
from supermask.networks import load_networks
from supermask.prediction import predict_views
from supermask.settings import PredictionSettings
from supermask.simulation import Simulation, simulate
from supermask.training import paint
from supermask.views import View

NAME = "supermask_fetal_small"


@pytest.fixture(scope="module")
def entry():
    (found,) = (item for item in registry.available() if item["name"] == NAME)
    return found


@pytest.fixture(scope="module")
def networks():
    return load_networks(NAME)


@pytest.fixture(scope="module")
def examinations(data_dir):
    """Three stacks of each of two left-out templates of the fetal brain, simulated.

    The brains lie among painted structures, as in the training.
    """
    found = []
    for index, name in enumerate(("GA25_operated", "GA32_operated")):
        rng, stem = np.random.default_rng(index), data_dir / "fetal_templates" / name
        image, labels = (read_volume(f"{stem}_{kind}.nii.gz") for kind in ("T2w", "labels"))
        mask = labels.with_array((labels.array > 0).astype(np.float32))
        around = paint(mask, rng, 2.5)
        share, brain = (sample(volume, around.grid) for volume in (mask, image))
        brain = np.clip(brain / np.percentile(image.array[mask.array > 0], 99), 0, 1.2)
        whole = around.with_array(share * brain + (1 - share) * around.array)
        simulation = Simulation((5.0,), spacing=2.5, angle=30.0, shift=4.0, noise=0.02)
        found.append(simulate(whole, mask, rng, simulation))
    return found


def test_the_entry_tells_what_the_file_holds(entry, networks):
    known, metadata = describe(NAME), networks.metadata
    assert entry["kind"] == "supermask" and metadata == known["metadata"]
    assert entry["architecture"] == {key: known[key] for key in ("segmentor", "alignnet")}
    assert all(metadata[key] == entry[key] for key in ("license", "scores"))
    # The file names the script that made it, the registry the card that tells of it.
    assert metadata["training"].split(";")[0] == entry["training"].split(";")[0]


def test_equal_images_stay_where_they_are(networks, examinations):
    views = [View(examinations[0].views[0].volume, name=name) for name in "ab"]
    settings = PredictionSettings(alignment="alignnet", refine=False, reference="a")
    result = predict_views(views, settings, networks)
    assert result.views[1].transform.angle() < 0.01


def test_alignnet_finds_motions_as_well_as_is_said(entry, networks, examinations):
    stated = entry["scores"]["held out"]
    before, after = [], []
    for case in examinations:
        result = predicted(case, networks, PredictionSettings(alignment="alignnet", refine=False))
        for view, true in zip(result.views[1:], case.transforms[1:], strict=True):
            before.append(true.angle())
            after.append((view.transform.inverse() @ true).angle())
    assert np.mean(after) < stated["angle_error"] + 3 and np.mean(after) < np.mean(before)


def test_three_moved_stacks_become_one_mask(networks, examinations):
    case = examinations[0]
    result = predicted(case, networks, PredictionSettings(alignment="alignnet", on="image"))
    truth = sample(case.truth, result.mask.grid) >= 0.5
    assert dice(result.mask.array, truth) > 0.7
    for view, true in zip(result.views[1:], case.transforms[1:], strict=True):
        assert (view.transform.inverse() @ true).angle() < 2
        assert apart(view.transform, true, [middle_of(case.truth.grid)]) < 1.5


def predicted(case, networks, settings):
    """The prediction of a case whose masks are not told."""
    views = [View(view.volume, name=view.name) for view in case.views]
    return predict_views(views, replace(settings, reference=views[0].name), networks)
