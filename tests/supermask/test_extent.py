# SPDX-License-Identifier: MIT
"""How far masks and results reach."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from examinations import points_of, stack_grid

from segsrgan.volumes import Grid, Volume
from supermask.prediction import predict_views
from supermask.segmentation import SegmentorSpec
from supermask.settings import PredictionSettings
from supermask.views import View
from supermask.weights import Networks

ALIGNED = PredictionSettings(alignment="none")


@pytest.mark.parametrize("spacing", [0.99, 0.993])
def test_the_segmentors_mask_may_lie_between_the_voxels_of_its_stack(spacing):
    grid = Grid((64, 64, 64), (spacing,) * 3)
    array = np.zeros(grid.shape, np.float32)
    array[20:44, 20:44, 20:44] = 1
    segmentor = SimpleNamespace(
        spec=SegmentorSpec(kernel=1, levels=2), predict_on_batch=lambda batch: batch
    )
    view = View(Volume.from_grid(array, grid))
    found = predict_views([view], ALIGNED, Networks(segmentor=segmentor))
    assert found.mask.array.sum() == pytest.approx((24 * spacing) ** 3, rel=0.1)


def test_a_low_threshold_makes_the_result_as_large_as_the_object():
    grid = stack_grid()
    far = np.linalg.norm(points_of(grid) - points_of(grid).mean(axis=(0, 1, 2)), axis=-1)
    soft = Volume.from_grid((0.9 * np.exp(-0.5 * (far / 8) ** 2)).astype(np.float32), grid)
    image = soft.with_array(soft.array + 1)
    for threshold in (0.05, 0.3):
        found = predict_views([View(image, soft)], replace(ALIGNED, threshold=threshold)).mask
        ends = [found.array.any(axis=axes) for axes in ((1, 2), (0, 2), (0, 1))]
        assert found.array.any() and not any(end[0] or end[-1] for end in ends)
        radius = 8 * np.sqrt(2 * np.log(0.9 / threshold))
        volume = found.array.sum() * np.prod(found.spacing)
        assert volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.1)
    faint = soft.with_array(soft.array / 2)
    assert predict_views([View(image, faint)], replace(ALIGNED, threshold=0.3)).mask.array.any()
