# SPDX-License-Identifier: MIT
"""Whole trainings on images painted on label maps, or drawn in any orientation."""

import hashlib
from contextlib import closing
from functools import partial
from itertools import islice

import keras
import numpy as np
import pytest
from training.command import PLAIN, TINY, Command
from training.heads import head, write_map, write_maps
from training.samples import rows, write_table

from segsrgan import load_generator
from segsrgan.cli.train import settings_of
from segsrgan.training import run as run_module
from segsrgan.training.run import Loop

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="by default the training is TensorFlow's"
)
SMALL = f"--patch_size 16 --stride 8 {TINY} --batch_size 2 --lambadv 0 --tensorboard False"


@pytest.fixture
def train(tmp_path):
    write_maps(tmp_path)
    return Command(tmp_path)


@pytest.fixture
def look(train, monkeypatch):
    """A function that starts a training and returns what its data are, without the updates."""
    found = {}

    def run(self):
        digest, resolution, label = hashlib.sha256(), [], []
        with closing(self.data.stream(range(1, 2), 1)) as batches:
            for batch in islice(batches, 6):
                digest.update(b"".join(array.tobytes() for array in batch))
                resolution += batch.resolution.tolist()
                label.append(float(batch.target[..., 1].mean()))
        found.update(cycles=self.data.cycles(1), memory=self.data.memory())
        found.update(test=self.test.patches, label=np.mean(label))
        found.update(data=digest.hexdigest(), resolution=resolution)

    def start(*flags, maps=train.folder / "maps.csv"):
        source = [f"--synthetic {maps}"] if maps else []
        name = hashlib.sha256(repr((maps, flags)).encode()).hexdigest()
        with monkeypatch.context() as patch:
            patch.setattr(Loop, "run", run)
            assert train(SMALL, *source, *flags, run=name) == 0
        return dict(found)

    return start


def test_every_flag_reaches_the_data(train, look, capsys):
    (train.folder / "other").mkdir()
    other = write_maps(train.folder / "other", rows=["head1.nii.gz"])
    plain = look()
    assert plain == look("") and plain != look(maps=None)
    for flags in (
        "--synthetic_ratio 0.9",
        "--synthetic_thickness 1.5 6",
        "--cortex_labels 2",
        "--tissues own",
        "--seed 1",
        "--percent_val_max 0.1",
        "--contrast_max 0.1",
        f"--synthetic {other}",
    ):
        assert look(flags)["data"] != plain["data"], flags
    assert look("--batch_size 4")["cycles"] < plain["cycles"]
    alone = look("--synthetic_ratio 1")
    for flags in ("--percent_val_max 0.1", "--interp sitk"):
        assert look("--synthetic_ratio 1", flags)["data"] != alone["data"], flags
    # The same for images that are drawn.
    drawn = partial(look, "--image_patches drawn --steps 5", maps=None)
    real, mixed = drawn(), look("--image_patches drawn --steps 5")
    assert real["cycles"] == mixed["cycles"] == 5
    assert len({found["data"] for found in (plain, real, mixed)}) == 3
    for flags in (
        "--image_power 1 1",
        "--inverted 1",
        "--synthetic_thickness 2 3",
        "--percent_val_max 0.1",
        "--seed 1",
    ):
        assert drawn(flags)["data"] != real["data"], flags
    # What says how images are degraded in turn makes no difference.
    assert drawn("--contrast_max 0.1", "--new_low_res 1 1 5")["data"] == real["data"]
    assert drawn("--rotation 20")["data"] == real["data"]
    assert "--rotation and --elastic are of no effect" in capsys.readouterr().err
    assert look("--image_patches drawn", maps=None)["cycles"] == look(maps=None)["cycles"]


def test_slice_distances_are_drawn_within_bounds_and_told_in_mm(train, look):
    write_table(train.folder, ("Train", "Test"), shape=(32,) * 3, radius=12, spacing=(0.5,) * 3)
    found = look("--synthetic_thickness 4 5")["resolution"]
    assert len(found) == 12 and found.count(3.0) == 6  # the real ones, -n 1 1 3
    synthetic = [value for value in found if value != 3.0]
    assert min(synthetic) >= 2 and max(synthetic) <= 2.5 and len(set(synthetic)) == 6


def test_labels_show_the_cortex_of_the_map_in_its_size(train, look):
    write_map(train.folder / "small.nii", head())
    write_map(train.folder / "large.nii", head(), (4.0, 4.0, 4.0))
    write_map(train.folder / "whole.nii", np.where(head() > 0, 7, 0))
    labels = []
    for row in ("small.nii,,", "large.nii,,", "whole.nii,7,own"):
        maps = write_maps(train.folder, 0, "Label_map,Cortex,Tissues", [row], row[:5] + ".csv")
        labels.append(look("--synthetic_ratio 1", maps=maps)["label"])
    assert labels[1] > 1.5 * labels[0] > 0  # the cortex fills most of a patch
    assert 1 > labels[2] > labels[0]


def test_paths_start_at_the_base_path_or_where_the_settings_were_written(
    train, look, monkeypatch, capsys
):
    monkeypatch.chdir(train.folder)
    first = look(maps="maps.csv")
    (settings,) = train.folder.glob("*/settings.toml")
    monkeypatch.chdir("/")
    assert look("--config", settings, maps=None) == first
    (train.folder / "tables").mkdir()
    train.table, maps = (
        (train.folder / name).rename(train.folder / "tables" / name)
        for name in ("data.csv", "maps.csv")
    )
    assert look("--base_path", train.folder, maps=maps) == first
    assert train(PLAIN, f"--synthetic {maps}", run="lost") == 2
    assert capsys.readouterr().err.count("no such file") == 2 * 3 + 2


def test_a_training_on_maps_alone_needs_images_for_the_scores_only(train, look, capsys):
    header, rows = "Label_map,Scale_min,Scale_max", ["head0.nii.gz,1,1"]
    maps = write_maps(train.folder, 1, header, rows)
    flags = "--synthetic_ratio 1 --batch_size 4"
    assert look(flags, maps=maps)["cycles"] == 2  # 28 voxels, patches at 0 and 8: 2^3 of them
    assert "--synthetic_ratio 1: the 2 images of Train are not used" in capsys.readouterr().err
    write_table(train.folder, ("Test",), shape=(32, 32, 32), radius=12)
    found = look(flags, "--stride 4", maps=maps)
    assert found["cycles"] == 16 and found["test"] > 0  # 4^3
    err = capsys.readouterr().err
    assert "0 training and 1 test images" in err and "label maps take" in err
    assert train(PLAIN, f"--synthetic {maps} --synthetic_ratio 0.9") == 2
    assert "no row has Train in the column Base" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.5, 1])
def test_a_training_stopped_within_an_epoch_goes_on_bit_for_bit(ratio, train):
    flags = (PLAIN, f"--synthetic {train.folder / 'maps.csv'}")
    flags += (f"--epoch 2 --synthetic_ratio {ratio}",)
    assert train(*flags, run="whole") == 0
    asked = iter([False, False, False, True])  # once before the first cycle
    run_module.run(settings_of(train.flags(*flags)), stop=lambda: next(asked))
    assert not list(asked) and not (train.run / "history.csv").exists()
    assert train(*flags, "--resume") == 0
    runs = train.folder / "whole", train.run
    first, second = (load_generator(run / "SegSRGAN_epoch_2") for run in runs)
    np.testing.assert_equal(first.get_weights(), second.get_weights())
    first, second = (rows(run / "history.csv") for run in runs)
    for a, b in zip(first, second, strict=True):
        assert {k for k in a if a[k] != b[k]} <= {"seconds", "waiting"}  # what is measured


def test_what_cannot_be_trained_is_answered_before_anything_is_written(train, capsys):
    maps = train.folder / "maps.csv"

    def answer(flags):
        assert train(PLAIN, flags) == 2 and not train.run.exists()
        return capsys.readouterr().err

    assert "none.csv: no such file; expected a CSV" in answer("--synthetic none.csv")
    assert "invalid choice: 'some'" in answer(f"--synthetic {maps} --tissues some")
    assert "expected a value of (5,)" in answer(f"--synthetic {maps} --cortex_labels 5")
    # Problems of images and maps are listed together.
    (train.folder / "image0.nii.gz").unlink()
    (train.folder / "head1.nii.gz").unlink()
    write_map(train.folder / "head0.nii.gz", head() * 0.5)
    err = answer(f"--synthetic {maps}")
    assert "data.csv: 1 problem(s)" in err and "image0.nii.gz: no such file" in err
    assert "maps.csv: 2 problem(s)" in err and "head1.nii.gz: no such file" in err
    assert "head0.nii.gz: a label map holds whole numbers" in err
