# SPDX-License-Identifier: MIT
"""Whole trainings on images painted on label maps."""

import csv
import hashlib

import keras
import numpy as np
import pytest
from training.command import GAN, PLAIN, Command
from training.heads import head, write_map, write_maps
from training.samples import free_ports, write_table
from training.test_processes import difference, finish, start

from segsrgan import load_generator
from segsrgan.cli.train import settings_of
from segsrgan.config import from_toml
from segsrgan.networks import load_discriminator
from segsrgan.SegSRGAN_training import main
from segsrgan.training import run as run_module
from segsrgan.training.run import Loop
from segsrgan.training.settings import TrainingSettings

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="by default the training is TensorFlow's"
)


@pytest.fixture
def train(tmp_path):
    write_maps(tmp_path)
    return Command(tmp_path)


def maps(train):
    return f"--synthetic {train.folder / 'maps.csv'}"


def rows(path):
    """The history without what is measured."""
    with path.open() as file:
        kept = csv.DictReader(file)
        return [{k: v for k, v in row.items() if k not in ("seconds", "waiting")} for row in kept]


def same(path, other):
    ours, theirs = (
        load_generator(p).get_weights() + load_discriminator(p).get_weights() for p in (path, other)
    )
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def look(train, monkeypatch, *flags, cycles=3):
    """What a training starts with: a digest of its first cycles and all that is told of them."""
    seen = {}

    def run(self):
        digest, resolution, label = hashlib.sha256(), [], []
        seen["cycles"], seen["memory"] = self.data.cycles(1), self.data.memory()
        batches = self.data.stream(range(1, 2), 1)
        for _ in range(2 * cycles):
            batch = next(batches)
            digest.update(b"".join(array.tobytes() for array in batch))
            resolution += batch.resolution.tolist()
            label.append(float(batch.target[..., 1].mean()))
        batches.close()
        seen["data"], seen["resolution"], seen["label"] = digest.hexdigest(), resolution, label

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "run", run)
        name = hashlib.sha256(" ".join(flags).encode()).hexdigest()
        assert train(GAN, "--tensorboard False", *flags, run=name) == 0
    return seen


def test_every_flag_reaches_the_data(train, monkeypatch):
    def seen(*flags):
        return look(train, monkeypatch, maps(train), *flags)

    (train.folder / "other").mkdir()
    other = write_maps(train.folder / "other", rows=["head1.nii.gz"])
    plain = seen()
    assert plain == seen("") and plain != look(train, monkeypatch)
    for flags in (
        "--synthetic_ratio 0.9",
        "--synthetic_thickness 1.5 6",
        "--cortex_labels 2",
        "--tissues own",
        "--seed 1",
        "--percent_val_max 0.1",
        "--contrast_max 0.1",
        "--image_patches drawn --steps 9",
        f"--synthetic {other}",
    ):
        assert seen(flags)["data"] != plain["data"], flags
    assert seen("--batch_size 4")["cycles"] < plain["cycles"]
    alone = seen("--synthetic_ratio 1")
    for flags in ("--percent_val_max 0.1", "--interp sitk"):
        assert seen("--synthetic_ratio 1", flags)["data"] != alone["data"], flags


def test_every_flag_of_drawn_images_reaches_the_data(train, monkeypatch):
    def seen(*flags, source=""):
        return look(train, monkeypatch, source, "--image_patches drawn --steps 5", *flags)

    plain, mixed = seen(), seen(source=maps(train))
    assert plain["cycles"] == mixed["cycles"] == 5 and plain["data"] != mixed["data"]
    for flags in (
        "--image_power 1 1",
        "--inverted 1",
        "--synthetic_thickness 2 3",
        "--percent_val_max 0.1",
        "--seed 1",
    ):
        assert seen(flags)["data"] != plain["data"], flags
    # What says how images are degraded in turn makes no difference.
    assert seen("--contrast_max 0.1", "--new_low_res 1 1 5")["data"] == plain["data"]


def test_slice_distances_are_drawn_within_bounds_and_told_in_mm(train, monkeypatch):
    train.table = write_table(
        train.folder, ("Train", "Test"), shape=(32, 32, 32), radius=12, spacing=(0.5,) * 3
    )
    found = look(train, monkeypatch, maps(train), "--synthetic_thickness 4 5", cycles=4)
    found = found["resolution"]
    assert len(found) == 16 and found.count(3.0) == 8  # the real ones, -n 1 1 3
    synthetic = [value for value in found if value != 3.0]
    assert min(synthetic) >= 2 and max(synthetic) <= 2.5 and len(set(synthetic)) == 8


def test_the_anatomy_has_the_size_that_the_headers_tell(train, monkeypatch):
    def label(spacing):
        write_map(train.folder / "head0.nii.gz", head(), (spacing,) * 3)
        write_maps(train.folder, 0, rows=["head0.nii.gz"])
        return look(train, monkeypatch, maps(train), "--synthetic_ratio 1")["label"]

    assert np.mean(label(4.0)) > 1.5 * np.mean(label(1.0))  # the cortex fills most of a patch


def test_relative_paths_start_at_the_base_path(train, monkeypatch):
    (train.folder / "tables").mkdir()
    table = (train.folder / "maps.csv").rename(train.folder / "tables" / "maps.csv")
    found = look(train, monkeypatch, f"--synthetic {table} --base_path {train.folder}")
    write_maps(train.folder)
    assert found == look(train, monkeypatch, maps(train))


def test_the_label_is_the_cortex_of_the_map(train, monkeypatch):
    write_map(train.folder / "own.nii", np.where(head() > 0, 7, 0))
    write_maps(train.folder, header="Label_map,Cortex,Tissues", rows=["own.nii,7,own"])
    whole = look(train, monkeypatch, maps(train), "--synthetic_ratio 1")["label"]
    write_maps(train.folder)
    shell = look(train, monkeypatch, maps(train), "--synthetic_ratio 1 --seed 2")["label"]
    assert 0 < np.mean(shell) < np.mean(whole) < 1


def test_an_epoch_of_maps_alone_is_as_long_as_their_size_makes_it(train, monkeypatch):
    train.table = write_table(train.folder, ("Test",), shape=(32, 32, 32), radius=12)
    write_maps(train.folder, header="Label_map,Scale_min,Scale_max", rows=["head0.nii.gz,1,1"])
    flags = (maps(train), "--synthetic_ratio 1 --batch_size 4")
    found = look(train, monkeypatch, *flags, cycles=2)
    assert found["cycles"] == 2  # 28 voxels, patches of 16 at 0 and 8: 2^3 of them
    assert look(train, monkeypatch, *flags, "--stride 4")["cycles"] == 16  # 4^3


def test_a_training_on_maps_alone_needs_images_for_the_scores_only(train, capsys):
    train.table = write_table(train.folder, ("Test",), shape=(32, 32, 32), radius=12)
    flags = (GAN, maps(train), "--epoch 1 --batch_size 4 --is_conditional True")
    assert train(*flags, "--synthetic_ratio 1") == 0
    (row,) = rows(train.run / "history.csv")
    assert np.isfinite(float(row["dice"])) and np.isfinite(float(row["discriminator_loss"]))
    err = capsys.readouterr().err
    assert "0 training and 1 test images" in err and "2 label maps take" in err
    assert train(*flags, "--synthetic_ratio 0.9", run="other") == 2
    assert "no row has Train in the column Base" in capsys.readouterr().err


def test_train_images_that_are_not_used_are_pointed_out(train, monkeypatch, capsys):
    look(train, monkeypatch, maps(train), "--synthetic_ratio 1")
    assert "--synthetic_ratio 1: the 2 images of Train are not used" in capsys.readouterr().err


@pytest.mark.slow
def test_two_epochs_and_one_more_are_three_bit_for_bit(train):
    flags = (GAN, maps(train), "--batch_size 4 --tensorboard False")
    assert train(*flags, "--epoch 3", run="whole") == 0
    assert train(*flags, "--epoch 2") == 0
    assert train(*flags, "--epoch 3 --resume") == 0
    whole = train.folder / "whole"
    assert same(train.run / "SegSRGAN_epoch_3", whole / "SegSRGAN_epoch_3")
    assert rows(train.run / "history.csv") == rows(whole / "history.csv")


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.5, pytest.param(1, marks=pytest.mark.slow)])
def test_a_training_stopped_within_an_epoch_goes_on_bit_for_bit(ratio, train):
    flags = (PLAIN, maps(train), f"--epoch 2 --synthetic_ratio {ratio}")
    assert train(*flags, run="whole") == 0
    done = []

    def stop():
        done.append(0)
        return len(done) == 1 + 3  # asked once before the first

    run_module.run(settings_of(train.flags(*flags)), stop=stop)
    assert len(done) == 1 + 3 and not (train.run / "history.csv").exists()
    assert train(*flags, "--resume") == 0
    whole = train.folder / "whole"
    first, second = (load_generator(f / "SegSRGAN_epoch_2") for f in (whole, train.run))
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert rows(train.run / "history.csv") == rows(whole / "history.csv")


def test_the_settings_repeat_the_training_from_any_folder(train, monkeypatch):
    monkeypatch.chdir(train.folder)
    flags = "--synthetic maps.csv --synthetic_thickness 2 3 --epoch 1"
    assert train(PLAIN, flags) == 0
    kept = from_toml(train.run / "settings.toml", TrainingSettings)
    assert kept["synthetic"] == str(train.folder / "maps.csv")
    assert (kept["synthetic_ratio"], kept["synthetic_thickness"]) == (0.5, (2.0, 3.0))
    assert (kept["cortex_labels"], kept["tissues"]) == ((3, 42), "freesurfer")
    monkeypatch.chdir("/")
    again = train.folder / "again"
    outputs = ["-sf", str(again), "-dice", str(again / "d.csv"), "-mse", str(again / "m.csv")]
    assert main(["--config", str(train.run / "settings.toml"), *outputs]) == 0
    assert rows(again / "history.csv") == rows(train.run / "history.csv")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            "--synthetic none.csv",
            "none.csv: no such file; expected a CSV file with the column Label_map",
        ),
        (
            "--synthetic_ratio 0.2",
            "--synthetic_ratio: of no effect here; name the CSV of label maps",
        ),
        ("--synthetic {maps} --fit_mask", "--fit_mask learns classes"),
        ("--synthetic {maps} --synthetic_ratio 2", "--synthetic_ratio must be a number above 0"),
        ("--synthetic {maps} --synthetic_thickness 7 2", "received 7 and 2; swap them"),
        ("--synthetic {maps} --cortex_labels 5", "has no cortex: expected a value of (5,)"),
        ("--synthetic {maps} --tissues some", "invalid choice: 'some'"),
    ],
)
def test_what_cannot_be_trained_is_answered_before_anything_is_written(flags, words, train, capsys):
    assert train(PLAIN, flags.format(maps=train.folder / "maps.csv")) == 2
    assert words in capsys.readouterr().err
    assert not train.run.exists()


def test_problems_of_images_and_maps_are_listed_together(train, capsys):
    (train.folder / "image0.nii.gz").unlink()
    (train.folder / "head1.nii.gz").unlink()
    write_map(train.folder / "head0.nii.gz", head() * 0.5)
    assert train(PLAIN, maps(train)) == 2
    err = capsys.readouterr().err
    assert "data.csv: 1 problem(s)" in err and "image0.nii.gz: no such file" in err
    assert "maps.csv: 2 problem(s)" in err and "head1.nii.gz: no such file" in err
    assert "head0.nii.gz: a label map holds whole numbers" in err


@pytest.mark.slow
def test_two_workers_train_as_one(train):
    flags = f"--epoch 1 --batch_size 8 {maps(train)} --tensorboard False"
    single = start(train.table, "single", flags)
    workers = ",".join(f"localhost:{port}" for port in free_ports(2))
    flags += f" --workers {workers} --worker_index"
    both = [start(train.table, "both", f"{flags} {index}") for index in (0, 1)]
    for process in (single, *both):
        finish(process)
    folders = (train.folder / "single", train.folder / "both")
    assert difference(*folders, "SegSRGAN_epoch_1") < 1e-4
