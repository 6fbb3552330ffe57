# SPDX-License-Identifier: MIT
"""Every setting of SuperMask's training reaches what it is for."""

import hashlib
from dataclasses import fields

import keras
import numpy as np
import pytest
from patients import tiny

from segsrgan.volumes import Volume, write_volume
from supermask.training.run import Loop, run

CHANGED = {
    "labels": ("2", "data"),
    "repeats": (2, "data views"),
    "slices": (12.0, "data"),
    "test_share": (0.0, "views test"),
    "grid_size": (24, "data specs"),
    "spacing": (4.0, "data specs"),
    "through": ("linear", "data specs"),
    "rotation": (5.0, "data"),
    "pose": (90.0, "data"),
    "shift": (3.0, "data"),
    "contrast_max": (0.5, "data"),
    "noise": (0.1, "data"),
    "train": ("alignnet", "specs"),
    "kernel": (3, "specs weights"),
    "orientations": (2, "data rate"),
    "levels": (1, "specs"),
    "alignnet_kernels": ("3", "specs"),
    "hidden": (9, "specs"),
    "largest_angle": (30.0, "specs"),
    "largest_shift": (0.3, "specs"),
    "antisymmetric": (False, "specs"),
    "stage1_epochs": (3, "loop rate"),
    "stage2_epochs": (3, "loop"),
    "steps": (3, "data rate"),
    "batch_size": (3, "data"),
    "lr1": (0.1, "rate"),
    "lr2": (0.1, "rate"),
    "decay": (0.5, "rate"),
    "decay_every": (7, "rate"),
    "window": (3, "objective"),
    "supervised_alignment": ("masks", "objective"),
    "lambda_sim": (2.0, "objective"),
    "lambda1": (2.0, "objective"),
    "lambda2": (2.0, "objective"),
    "lambda_transform": (2.0, "objective"),
    "alpha1": (2.0, "objective"),
    "alpha2": (2.0, "objective"),
    "precision": ("mixed_bfloat16", "precision"),
    "seed": (1, "data weights"),
    "snapshot": (2, "loop"),
    "state_minutes": (1.0, "loop"),
    "tensorboard": (True, "records"),
}
# Shown to work by tests of their own.
ELSEWHERE = {"csv", "synthetic_cases", "weights", "snapshot_folder", "resume"}
ELSEWHERE |= {"multi_gpu", "workers", "worker_index"}


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masks")
    points = np.indices((16, 16, 16)) - 7.5
    for index in range(2):
        radius = np.linalg.norm(points * np.array([1, 1.3, 1.6]).reshape(3, 1, 1, 1), axis=0)
        array = (radius < 7).astype(np.uint8) + (radius < 5)
        write_volume(Volume(array, (3.0 + index,) * 3), folder / f"m{index}.nii.gz")
    return folder


def digest(batches):
    found = hashlib.sha256()
    for batch in batches:
        found.update(b"".join(array.tobytes() for array in batch))
    return found.hexdigest()


def fingerprint(masks, folder, **options):
    """Everything that a training starts with, without the training."""
    seen = {}

    def look(self):
        learners, data = self.networks, self.data
        seen["data"] = digest(self.batches(range(1, 2)))
        seen["views"] = len(data.singles)
        seen["test"] = None if self.test is None else digest(self.test.fixed_singles())
        seen["specs"] = learners.specs()
        models = [m for m in (learners.segmentor, learners.alignnet) if m is not None]
        seen["weights"] = sum(float(np.abs(w).sum()) for m in models for w in m.get_weights())
        seen["objective"] = learners.objective
        seen["rate"] = learners.alignnet_optimizer._learning_rate.get_config()
        seen["loop"] = self.epochs, self.stage1_epochs, self.snapshot, self.state_minutes
        seen["precision"] = models[-1].get_layer("conv_1").compute_dtype
        seen["records"] = self.history._board is None

    options = {"repeats": 1, "slices": 10.0, "test_share": 0.5, "steps": None, **options}
    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.setattr(Loop, "run", look)
        run(tiny(synthetic_cases=masks, snapshot_folder=folder, **options))
    assert keras.config.dtype_policy().name == "float32"
    return seen


def test_every_setting_reaches_what_it_is_for(masks, tmp_path):
    settings = {item.name for item in fields(type(tiny()))}
    assert settings == CHANGED.keys() | ELSEWHERE
    plain = fingerprint(masks, tmp_path / "plain")
    assert fingerprint(masks, tmp_path / "again") == plain
    for name, (value, parts) in CHANGED.items():
        also = {"stage2_epochs": 0} if name == "train" else {}
        other = fingerprint(masks, tmp_path / name, **{name: value, **also})
        unchanged = [part for part in parts.split() if plain[part] == other[part]]
        assert not unchanged, f"--{name} {value} changes nothing of {unchanged}"
