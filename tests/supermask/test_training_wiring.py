# SPDX-License-Identifier: MIT
"""Every setting of SuperMask's training reaches what it is for."""

import hashlib
from dataclasses import fields
from itertools import zip_longest

import keras
import numpy as np
import pytest
from patients import tiny, write_masks

from supermask.training.dataset import Singles
from supermask.training.loop import Loop
from supermask.training.run import run

DATA = {"labels": "2", "repeats": 2, "slices": 12.0, "test_share": 0.0, "grid_size": 24}
DATA |= {"spacing": 4.0, "through": "linear", "rotation": 5.0, "pose": 90.0, "shift": 3.0}
DATA |= {
    "seed": 1,
    "contrast_max": 0.5,
    "noise": 0.1,
    "orientations": 2,
    "steps": 3,
    "batch_size": 3,
}
SPECS = {"kernel": 3, "levels": 1, "alignnet_kernels": "3", "hidden": 9, "largest_angle": 30.0}
SPECS |= {"largest_shift": 0.3, "antisymmetric": False}
RATE = {"lr1": 0.1, "lr2": 0.1, "decay": 0.5, "decay_every": 7}
LOOP = {"snapshot": 2, "state_minutes": 1.0, "stage2_epochs": 3, "stage1_epochs": 3}
# What changes by them, too.
ALSO = dict.fromkeys(("grid_size", "spacing", "through"), "specs")
ALSO |= dict.fromkeys(("steps", "orientations", "stage1_epochs"), "rate")
ALSO |= {"repeats": "views", "test_share": "views test", "kernel": "weights", "seed": "weights"}
OBJECTIVE = ("lambda_sim", "lambda1", "lambda2", "lambda_transform", "alpha1", "alpha2", "window")
OTHERS = {"precision", "supervised_alignment", "tensorboard", "train", *OBJECTIVE}
# Shown to work by tests of their own.
ELSEWHERE = {"csv", "synthetic_cases", "weights", "snapshot_folder", "resume"}
ELSEWHERE |= {"multi_gpu", "workers", "worker_index"}


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    return write_masks(tmp_path_factory.mktemp("masks"))


def digest(batches):
    arrays = (array for batch in batches for array in batch)
    return hashlib.sha256(b"".join(map(np.ndarray.tobytes, arrays))).hexdigest()


def fingerprint(masks, folder, **options):
    """Everything that a training starts with, without the training."""
    seen = {}

    def look(self):
        learners, data, models = self.networks, self.data, self.networks.models.values()
        seen["data"] = digest(self.batches(range(1, 2)))
        seen["views"] = len(data.singles)
        seen["test"] = None if self.test is None else digest(self.test.fixed(Singles))
        seen["specs"] = learners.specs()
        seen["weights"] = sum(float(np.abs(w).sum()) for m in models for w in m.get_weights())
        seen["losses"] = learners.settings
        seen["rate"] = learners.alignnet_optimizer._learning_rate.get_config()
        stages = [self.stage(epoch) for epoch in range(1, self.epochs + 1)]
        seen["loop"] = stages, self.snapshot, self.state_minutes
        seen["precision"] = learners.alignnet.get_layer("conv_1").compute_dtype
        seen["records"] = self.history._board is None

    options = {"repeats": 1, "slices": 10.0, "test_share": 0.5, "steps": None, **options}
    with pytest.MonkeyPatch().context() as patch:
        patch.setattr(Loop, "run", look)
        run(tiny(synthetic_cases=masks, snapshot_folder=folder, **options))
    assert keras.config.dtype_policy().name == "float32"
    return seen


@pytest.fixture(scope="module")
def plain(masks, tmp_path_factory):
    return fingerprint(masks, tmp_path_factory.mktemp("plain"))


def test_no_setting_is_forgotten(masks, plain, tmp_path):
    known = {*DATA, *SPECS, *RATE, *LOOP} | OTHERS | ELSEWHERE
    assert {item.name for item in fields(type(tiny()))} == known
    # In another folder, which is a setting, too.
    assert fingerprint(masks, tmp_path) | {"losses": None} == plain | {"losses": None}


def test_every_setting_reaches_what_it_is_for(masks, plain, tmp_path):
    # Four at once, which change different things.
    groups = [[(k, v, part) for k, v in group.items()] for group, part in
              ((DATA, "data"), (SPECS, "specs"), (RATE, "rate"), (LOOP, "loop"))]  # fmt: skip
    for changes in zip_longest(*groups):
        changes = [change for change in changes if change]
        options = {name: value for name, value, _ in changes}
        other = fingerprint(masks, tmp_path / "_".join(options), **options)
        for name, value, part in changes:
            for changed in f"{part} {ALSO.get(name, '')}".split():
                assert plain[changed] != other[changed], f"--{name} {value}: the same {changed}"


def test_what_is_minimised_recorded_and_trained_is_as_the_settings_say(masks, plain, tmp_path):
    options = dict.fromkeys(OBJECTIVE, 3) | {"supervised_alignment": "masks"}
    options |= {"precision": "mixed_bfloat16", "tensorboard": True}
    other = fingerprint(masks, tmp_path / "other", **options, train="alignnet", stage2_epochs=0)
    assert {name: getattr(other["losses"], name) for name in options} == options
    assert set(plain["specs"]) == {"segmentor", "alignnet"} and set(other["specs"]) == {"alignnet"}
    assert (plain["precision"], other["precision"]) == ("float32", "bfloat16")
    assert (plain["records"], other["records"]) == (True, False)
