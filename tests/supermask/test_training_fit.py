# SPDX-License-Identifier: MIT
"""Whole trainings of SuperMask on views of a few voxels."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from patients import patient, tiny
from training.samples import rows

import supermask
from supermask.networks import load_networks
from supermask.training import fit
from supermask.training.loop import Loop
from supermask.views import View

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="the training is TensorFlow's"
)
CASES = [patient(0), patient(1)]
# Two cycles an epoch, stage 2 from the third on; one level is traced soonest.
CHANGED = {"contrast_max": 0.2, "noise": 0.05, "snapshot": 2, "levels": 1}
LAST = "SuperMask_epoch_4"


@pytest.fixture(autouse=True)
def float32():
    """Whatever precision a training sets is that training's alone."""
    yield
    assert keras.config.dtype_policy().name == "float32"


def train(folder, cases=CASES, stop=None, **options):
    return fit(cases, tiny(**options), folder, test=[patient(2)], stop=stop)


def history(folder):
    return rows(folder / "history.csv")


def column(folder, name):
    return [float(row[name]) for row in history(folder) if row.get(name)]


def arrays(networks):
    return networks.segmentor.get_weights() + networks.alignnet.get_weights()


def assert_same_weights(first, second):
    np.testing.assert_equal(arrays(first), arrays(second))


def after(cycles):
    """A wish to stop after some cycles; it is asked once before the first."""
    asked = iter(range(cycles))
    return lambda: next(asked, None) is None


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training without an interruption, `(folder, networks)`; most of its time is tracing."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(folder, **CHANGED)


def test_a_training_writes_what_it_says_and_returns_its_networks(whole):
    folder, networks = whole
    assert {path.name for path in folder.iterdir()} == {
        *("SuperMask_epoch_2", LAST, "SuperMask_best"),
        *("epoch_2.png", "epoch_4.png", "settings.toml", "history.csv"),
        *("state_00004_0000002.h5", "state_00005_0000000.h5"),
    }
    rows = history(folder)
    assert [(row["epoch"], row["stage"]) for row in rows] == list(zip("1234", "1122", strict=True))
    names = {"segmentor_loss", "dice_loss", "segmentor_gradient", "alignnet_loss"}
    names |= {"similarity_loss", "alignnet_gradient", "dice", "overlap", "overlap_before"}
    names |= {"angle_error", "shift_error", "similarity_before", "val_loss", "waiting"}
    assert all(np.isfinite(float(row[name])) for row in rows for name in names)
    assert [bool(row["consistency_1"]) for row in rows] == [False, False, True, True]
    kept = load_networks(folder / LAST)
    assert kept.metadata["training"]["kernel"] == 2 and kept.metadata["epoch"] == 4
    assert kept.segmentor.spec.spacing == kept.alignnet.spec.spacing == 5.0
    assert_same_weights(networks, kept)
    assert networks.metadata["history"]["epoch"] == 4


def test_what_a_training_returns_makes_a_prediction(whole):
    views = [View(view.volume) for view in CASES[0].views]
    found = supermask.predict(views, weights=whole[1], refine=False)
    assert found.mask.spacing == (5.0, 5.0, 5.0) and len(found.views) == 3
    # Not by the headers: the trained AlignNet has been asked.
    assert all(view.transform.angle() > 0 for view in found.views[1:])


def test_the_losses_fall(tmp_path):
    options = {"steps": 20, "stage1_epochs": 3, "stage2_epochs": 0, "lr1": 1.5e-2, "kernel": 3}
    train(tmp_path, **options, levels=1)
    dice_loss, similarity = (column(tmp_path, n) for n in ("dice_loss", "similarity_loss"))
    assert dice_loss[2] < 0.75 * dice_loss[0]
    assert similarity[2] < similarity[0]
    assert column(tmp_path, "dice")[2] > 0.6
    assert column(tmp_path, "overlap")[2] > column(tmp_path, "overlap_before")[2]


def test_supervised_alignment_learns_rotations(tmp_path):
    options = {"train": "alignnet", "supervised_alignment": "transforms", "lambda_sim": 0.0}
    options |= {"alignnet_kernels": "16", "hidden": 64, "lr1": 5e-3, "batch_size": 4, "steps": 80}
    options |= {"rotation": 30.0, "pose": 0.0, "shift": 0.0, "stage1_epochs": 3, "stage2_epochs": 0}
    # One object in many motions: to see that the loss teaches what its name says.
    case = patient(0, thick=4.0)
    networks = fit([case], tiny(**options), tmp_path, test=[case] * 4)
    assert networks.segmentor is None
    before, angle = column(tmp_path, "angle_error_before"), column(tmp_path, "angle_error")
    assert before[0] > 15 and angle[-1] < 0.5 * before[-1]
    assert column(tmp_path, "overlap")[-1] > column(tmp_path, "overlap_before")[-1]
    losses = column(tmp_path, "transform_loss")
    assert losses[-1] < 0.7 * losses[0]


EARLY = [pytest.param(cycles, marks=pytest.mark.slow) for cycles in (1, 4)]


@pytest.mark.parametrize("cycles", [*EARLY, 5])
def test_a_stopped_training_goes_on_bit_for_bit(whole, cycles, tmp_path):
    # Stopped within stage 1, at its end, within stage 2.
    train(tmp_path, stop=after(cycles), **CHANGED)
    assert not (tmp_path / LAST).exists()
    networks = train(tmp_path, resume=True, **CHANGED)
    assert_same_weights(whole[1], networks)
    rows = [
        row | {"seconds": "", "waiting": ""} for f in (whole[0], tmp_path) for row in history(f)
    ]
    assert rows[:4] == rows[4:]


@pytest.mark.slow
def test_a_failure_leaves_a_state_to_go_on_from(whole, tmp_path, monkeypatch):
    close = Loop._close_epoch

    def fail(self):
        if self.progress.epoch == 2:
            raise KeyboardInterrupt
        close(self)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_close_epoch", fail)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, **CHANGED)
    assert_same_weights(whole[1], train(tmp_path, resume=True, **CHANGED))
    assert not list(tmp_path.glob(".*partial"))


def assert_near(first, second):
    for name in ("segmentor", "alignnet"):
        models = (getattr(networks, name).trainable_variables for networks in (first, second))
        for a, b in zip(*models, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6)


@pytest.mark.slow
def test_stage_2_starts_from_stage_1(tmp_path):
    together, apart = tmp_path / "together", tmp_path / "apart"
    last = fit(CASES, tiny(snapshot=1, lr2=1e-9), together)
    first = load_networks(together / "SuperMask_epoch_2")
    assert_near(first, last)
    # The weights of a stage 1 may be those of another training.
    options = {"weights": str(together / "SuperMask_epoch_2"), "stage1_epochs": 0, "kernel": 7}
    networks = fit(CASES, tiny(lr2=1e-9, **options), apart)
    assert networks.segmentor.spec.kernel == 2
    assert_near(first, networks)
    fit(CASES, tiny(lr2=1e-9, resume=True, **{**options, "stage2_epochs": 3}), apart)
    assert [row["stage"] for row in history(apart)] == ["2", "2", "2"]


def test_one_network_alone(tmp_path):
    case = patient(0, planes=("axial",))
    networks = train(tmp_path, [case], train="segmentor", stage1_epochs=1, stage2_epochs=0)
    assert networks.alignnet is None
    assert load_networks(tmp_path / "SuperMask_best").alignnet is None
    assert "alignnet_loss" not in history(tmp_path)[0]
    with pytest.raises(ValueError, match="two views at least"):
        train(tmp_path / "both", [case])


def test_weights_of_another_grid_are_refused(whole, tmp_path):
    folder, _ = whole
    start = str(folder / LAST)
    with pytest.raises(ValueError, match=r"segmentor has spacing 5.0.*say 4.0; add --spacing 5.0"):
        train(tmp_path, weights=start, spacing=4.0)
    with pytest.raises(ValueError, match="resume with the flags of the training"):
        train(folder, kernel=3, resume=True)


BFLOAT16 = pytest.param("mixed_bfloat16", marks=pytest.mark.slow)
FLOAT16 = pytest.param("mixed_float16", marks=pytest.mark.gpu)  # scales the losses


@pytest.mark.parametrize("precision", [BFLOAT16, FLOAT16])
def test_fewer_bits_do_as_well(precision, tmp_path):
    train(tmp_path, stage1_epochs=1, stage2_epochs=1, precision=precision)
    assert all(np.isfinite(column(tmp_path, "val_loss")))
    assert len(history(tmp_path)) == 2


def test_half_precision_without_a_gpu_is_refused(tmp_path):
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match="mixed_float16 needs a GPU.*mixed_bfloat16"):
        train(tmp_path / "run", precision="mixed_float16")
    assert not (tmp_path / "run").exists()
