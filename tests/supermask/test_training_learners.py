# SPDX-License-Identifier: MIT
"""What the two networks of SuperMask minimise, against values worked out by hand."""

import keras
import numpy as np
import pytest
from patients import patient, tiny

from segsrgan.training.losses import soft_dice_loss
from supermask.losses import l2, similarity_loss
from supermask.training.dataset import Dataset, Pairs, Singles
from supermask.training.learners import TwoStages, build_learners, motion_distance
from supermask.training.loop import motion_errors


def learners(**options):
    keras.utils.set_random_seed(1)
    return build_learners(tiny(**options), 2)


def moving_about(model, seed=1):
    """Gives an AlignNet's heads weights, so that it finds some motion."""
    rng = np.random.default_rng(seed)
    for name in ("angles", "shifts"):
        for variable in model.get_layer(name).weights:
            variable.assign(rng.normal(0, 1, variable.shape))


@pytest.fixture(scope="module")
def data():
    dataset = Dataset([patient(0)], tiny(steps=1))
    return tuple(dataset.stream(range(1, 2), lambda epoch: [Singles, Pairs]))


def value(tensor):
    return float(np.asarray(tensor))


def test_the_learning_rate_falls_in_stage_2():
    rate = TwoStages(1e-3, 1e-4, updates=10, decay=0.9, every=200)
    found = [value(rate(step)) for step in (0, 9, 10, 209, 210, 411)]
    np.testing.assert_allclose(found, [1e-3, 1e-3, 1e-4, 1e-4, 9e-5, 8.1e-5], rtol=1e-6)
    assert TwoStages(**rate.get_config()).get_config() == rate.get_config()


def test_the_distance_of_two_motions():
    still = np.eye(3, 4, dtype="float32")[None]
    shifted = still + np.array([0, 0, 0, 3.0], "float32") * np.array([[[1], [0], [0]]], "float32")
    assert value(motion_distance(still, shifted, 16)[0]) == pytest.approx(3, abs=1e-4)
    assert value(motion_distance(still, still, 16)[0]) == pytest.approx(0, abs=1e-3)

    rng = np.random.default_rng(0)
    other = still + rng.normal(0, 0.2, (1, 3, 4)).astype("float32")
    points = np.append(rng.uniform(-4, 4, (200000, 3)), np.ones((200000, 1)), axis=1)
    apart = points @ (other - still)[0].T
    expected = np.sqrt(np.mean(np.sum(apart**2, axis=1)))
    assert value(motion_distance(still, other, 16)[0]) == pytest.approx(expected, rel=0.01)


def test_the_errors_of_a_motion_are_degrees_and_mm():
    turn = np.eye(3, 4)
    turn[:2, :2] = [[0, -1], [1, 0]]
    turn[:, 3] = 0, 3, 4
    expected = pytest.approx({"angle_error": 90.0, "shift_error": 10.0})
    assert motion_errors(turn, np.eye(3, 4), 2.0) == expected


def test_losses_of_new_networks(data):
    both, (singles, pairs) = learners(), data
    loss, metrics = both.segmentor_loss(singles)
    expected = soft_dice_loss(singles.mask, both.segmentor(singles.image, training=True))
    assert value(loss) == pytest.approx(value(expected), abs=1e-5)
    assert value(metrics["dice_loss"]) == value(loss)
    # A new AlignNet leaves the moving view where it is.
    loss, metrics = both.alignnet_loss(pairs)
    expected = value(similarity_loss(pairs.moving, pairs.fixed, 5))
    assert value(loss) == pytest.approx(expected, abs=1e-5)
    assert set(metrics) == {"alignnet_loss", "similarity_loss"}


def test_every_weight_of_alignnets_loss_has_its_part(data):
    pairs = data[1]
    both = learners(antisymmetric=False)
    moving_about(both.alignnet)
    there = both.motion(pairs.moving, pairs.fixed)
    itself = [both.moved(x, both.motion(x, x)) for x in pairs[:2]]
    parts = {
        "similarity_loss": similarity_loss(both.moved(pairs.moving, there), pairs.fixed, 5),
        "identity_loss": sum(value(l2(x, y)) for x, y in zip(pairs[:2], itself, strict=True)),
        "mask_loss": similarity_loss(both.moved(pairs.moving_mask, there), pairs.fixed_mask, 5),
        "transform_loss": np.mean(np.asarray(motion_distance(there, pairs.matrix, 16))) / 4,
    }
    lambdas = {"lambda_sim": 2.0, "lambda1": 3.0, "lambda2": 5.0, "lambda_transform": 5.0}
    for supervision, name in (("masks", "mask_loss"), ("transforms", "transform_loss")):
        both.settings = tiny(**lambdas, supervised_alignment=supervision)
        loss, metrics = both.alignnet_loss(pairs)
        weights = {"similarity_loss": 2.0, "identity_loss": 3.0, name: 5.0}
        total = sum(weight * value(parts[key]) for key, weight in weights.items())
        assert value(loss) == pytest.approx(total, rel=1e-4)
        for key in weights:
            assert value(metrics[key]) == pytest.approx(value(parts[key]), rel=1e-4)
    assert value(parts["identity_loss"]) > 0.01
    lambdas |= {"lambda_sim": 0.0, "lambda1": 0.0}
    both.settings = tiny(**lambdas, supervised_alignment="transforms")
    loss, metrics = both.alignnet_loss(pairs)
    assert value(loss) == pytest.approx(5 * value(parts["transform_loss"]), rel=1e-4)
    assert set(metrics) == {"alignnet_loss", "transform_loss"}


def test_pairs_of_unknown_motion_do_not_count_for_the_transforms(data):
    pairs = data[1]
    both = learners(supervised_alignment="transforms", lambda_sim=0.0)
    wrong = pairs.matrix + np.array([[[0, 0, 0, 100.0]]], "float32")
    matrix = np.stack([pairs.matrix[0], wrong[1]])
    mixed = pairs._replace(matrix=matrix, known=np.array([1, 0], "float32"))
    alone = Pairs(*(array[:1] for array in pairs))
    first, second = (value(both.alignnet_loss(batch)[0]) for batch in (mixed, alone))
    assert first == pytest.approx(second, rel=1e-5)
    nothing = pairs._replace(known=np.zeros(2, "float32"))
    assert value(both.alignnet_loss(nothing)[0]) == 0


def test_the_consistency_of_views_that_are_not_moved(data):
    both, pairs = learners(), data[1]
    images = np.concatenate([pairs.moving, pairs.fixed] * 2)
    mask_i, mask_j, *_ = np.split(np.asarray(both.segmentor(images, training=True)), 4)
    loss, metrics = both.consistent_segmentor_loss(pairs)
    cons = 2 * value(l2(mask_i, mask_j))
    assert value(metrics["consistency_1"]) == pytest.approx(cons, rel=1e-4)
    dice = value(soft_dice_loss(pairs.moving_mask, mask_i))
    dice = (dice + value(soft_dice_loss(pairs.fixed_mask, mask_j))) / 2
    assert value(metrics["dice_loss"]) == pytest.approx(dice, abs=1e-4)
    assert value(loss) == pytest.approx(dice + 0.05 * cons, abs=1e-4)


def test_the_consistency_of_alignment_moves_the_masks_that_are_seen(data):
    both, pairs = learners(), data[1]
    moving_about(both.alignnet)
    mask_i, mask_j = (both.segmentor(x, training=False) for x in (pairs.moving, pairs.fixed))
    there, back = both.motion(pairs.moving, pairs.fixed), both.motion(pairs.fixed, pairs.moving)
    cons = value(l2(both.moved(mask_i, there), mask_j))
    cons += value(l2(both.moved(mask_j, back), mask_i))
    loss, metrics = both.consistent_alignnet_loss(pairs)
    assert value(metrics["consistency_2"]) == pytest.approx(cons, rel=1e-4)
    plain, _ = both.alignnet_loss(pairs)
    assert value(loss) == pytest.approx(value(plain) + 0.05 * cons, rel=1e-4)
    assert cons > 0.01
