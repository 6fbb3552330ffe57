# SPDX-License-Identifier: MIT
"""The whole state of a training on disk."""

import os

import h5py
import keras
import numpy as np
import pytest
from training.command import make_gan

from segsrgan.errors import StateError
from segsrgan.networks import GeneratorSpec
from segsrgan.training.checkpoints import Progress, has_state, newest_state, save_state


def make(spec=None, seed=0, **settings):
    """A `Gan` of a generator alone, with random state."""
    gan = make_gan(spec, patch_size=8, lambadv=0.0, **settings)
    rng = np.random.default_rng(seed)
    for variable in everything(gan):
        if variable.dtype == "float32":
            variable.assign(rng.random(variable.shape, dtype="float32"))
        else:
            variable.assign(np.full(variable.shape, 7, variable.dtype))
    return gan


def everything(gan):
    return [variable for group in gan.state().values() for variable in group]


class Numbers:
    """Networks of a variable for each number."""

    def __init__(self, numbers):
        self.variables = [keras.Variable(float(number)) for number in numbers]

    def state(self):
        return {"numbers": self.variables}

    def specs(self):
        return {}


def test_a_state_comes_back_as_it_was(tmp_path):
    gan, other = make(), make(seed=1)
    progress = Progress(3, 5, {"loss": 0.1}, {"loss": 5}, 12.5, 0.5, [{"epoch": 2}], {"epoch": 2})
    assert not has_state(tmp_path)
    save_state(tmp_path, gan, progress)
    assert has_state(tmp_path)
    state = newest_state(tmp_path)
    assert state.progress == progress
    state.restore(other)
    for a, b in zip(everything(gan), everything(other), strict=True):
        np.testing.assert_array_equal(np.asarray(a.value), np.asarray(b.value))


def test_the_newest_two_are_kept_and_what_a_killed_run_left_half_written_is_removed(
    tmp_path, monkeypatch
):
    (tmp_path / "state_00001_0000009_mine.h5").touch()  # a user's copy
    for epoch, cycle in ((1, 0), (1, 9), (1, 10), (2, 0)):
        save_state(tmp_path, Numbers([1]), Progress(epoch, cycle))
    names = ["state_00001_0000009_mine.h5", "state_00001_0000010.h5", "state_00002_0000000.h5"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    host = os.uname().nodename.replace(".", "-")
    left = tmp_path / f".state_00001_0000002.h5.{host}.999999999.0123456789ab.segsrgan-partial"
    left.write_bytes(b"half")
    newest_state(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    monkeypatch.setattr(os, "fsync", lambda _: os.close(-1))  # a disk that fails
    with pytest.raises(OSError, match="state_00002_0000001"):
        save_state(tmp_path, Numbers([1]), Progress(2, 1))
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_an_unreadable_state_gives_way_to_the_one_before(tmp_path):
    for cycle in (1, 2):
        save_state(tmp_path, Numbers(range(9)), Progress(1, cycle))
    newest = max(tmp_path.iterdir())
    whole = newest.read_bytes()
    with h5py.File(newest, "r+") as file:
        file.attrs["progress"] = '{"epoch": "1", "cycle": 2}'
    assert newest_state(tmp_path).progress.cycle == 1
    newest.write_bytes(whole[:-9])
    assert newest_state(tmp_path).progress.cycle == 1
    min(tmp_path.iterdir()).write_bytes(b"nothing")
    with pytest.raises(StateError, match="no state that can be read.*start from the last snapshot"):
        newest_state(tmp_path)


@pytest.mark.parametrize("other", [{"kernel": 3}, {"residual": False}, {"scaled": True}])
def test_the_state_of_other_networks_is_refused(other, tmp_path):
    save_state(tmp_path, make(), Progress())
    (name,) = other
    message = rf"\(generator: {name} .*\); resume with the flags of the training"
    with pytest.raises(StateError, match=message):
        newest_state(tmp_path).restore(make(GeneratorSpec(**{"kernel": 2, "blocks": 1, **other})))


def test_learning_rates_are_settings_and_loss_scaling_may_be_switched(tmp_path):
    save_state(tmp_path, make(), Progress())
    other = make(seed=1, lrgen=0.5, precision="mixed_float16")
    newest_state(tmp_path).restore(other)
    inner = other.generator_optimizer.inner_optimizer
    assert float(inner.learning_rate) == 0.5
    expected = make().generator_optimizer.variables[2:]
    for a, b in zip(inner.variables[2:], expected, strict=True):
        np.testing.assert_array_equal(np.asarray(a.value), np.asarray(b.value))


def test_more_than_a_thousand_variables_keep_their_order(tmp_path):
    save_state(tmp_path, Numbers(range(1003)), Progress())
    (path,) = tmp_path.iterdir()
    with h5py.File(path, "r+") as file:
        for name in list(file["numbers"]):
            number, rest = name.split("_", 1)
            # As many digits as in version 3.0.0, with which 1000 comes before 999.
            file["numbers"].move(name, f"{int(number):03d}_{rest}x")
    other = Numbers([0] * 1003)
    newest_state(tmp_path).restore(other)
    assert [int(variable.value) for variable in other.variables] == list(range(1003))


def test_a_state_that_leads_to_other_files_is_refused(tmp_path):
    secret = tmp_path / "secret.npy"
    np.save(secret, np.arange(9.0))
    save_state(tmp_path, Numbers([1]), Progress())
    with h5py.File(next(tmp_path.glob("*.h5")), "r+") as file:
        (name,) = file["numbers"]
        del file["numbers"][name]
        external = [(str(secret), 0, h5py.h5f.UNLIMITED)]
        file["numbers"].create_dataset(name, (), "f4", external=external)
    with pytest.raises(StateError, match="no state that can be read"):
        newest_state(tmp_path)
