# SPDX-License-Identifier: MIT
"""Files from strangers: what they may not hold, found before any data are read."""

import json
import os
from functools import partial

import h5py
import numpy as np
import pytest
from networks.variants import write_released

from segsrgan.errors import WeightsError
from segsrgan.networks import GeneratorSpec, build_generator, hdf5, read_generator
from segsrgan.networks.hdf5 import read_arrays
from supermask.networks import AlignNetSpec, build_alignnet, load_networks, save_networks

NAME = "gen_conv1/kernel"
SHAPE = (7, 7, 7, 1, 2)
BYTES = 4 * 7**3 * 2


def replaced(file, dtype="float32", **options):
    del file["generator"][NAME]
    file["generator"].create_dataset(NAME, SHAPE, dtype, **options)


def virtual_dataset(file):
    del file["generator"][NAME]
    layout = h5py.VirtualLayout(SHAPE, "float32")
    layout[...] = h5py.VirtualSource("secret.h5", "numbers", SHAPE)
    file["generator"].create_virtual_dataset(NAME, layout)


def external_link(file):
    del file["generator"][NAME]
    file["generator"][NAME] = h5py.ExternalLink("secret.h5", "numbers")


def soft_link_to_a_network(file):
    file.move("generator", "other")
    file["generator"] = h5py.SoftLink("/other")


def two_names(file):
    group = file["generator/gen_isnorm_conv1"]
    del group["shift"]
    group["shift"] = group["scale"]


def a_group_in_itself(file):
    file["generator/again"] = file["generator"]


def a_data_type(file):
    file["generator/float"] = np.dtype("float32")


ATTACKS = {
    "external storage": (partial(replaced, external=[("secret", 0, BYTES)]), "in other files"),
    "virtual dataset": (virtual_dataset, "in other files"),
    "external link": (external_link, "link"),
    "soft link": (soft_link_to_a_network, "link"),
    "two names": (two_names, "several names"),
    "a group in itself": (a_group_in_itself, "several names"),
    "text": (partial(replaced, data=np.full(SHAPE, b"a"), dtype="S1"), "expected numbers"),
    "references": (partial(replaced, dtype=h5py.ref_dtype), "expected numbers"),
    "a data type": (a_data_type, "expected groups and arrays"),
    "compressed": (partial(replaced, compression="gzip"), "in chunks"),
    "nothing stored": (replaced, "but 0 bytes are stored"),
}


@pytest.fixture
def nothing_read(monkeypatch):
    """Fails a test in which an array is read."""

    def fail(*_):
        raise AssertionError("read data")

    monkeypatch.setattr(h5py.Dataset, "__array__", fail)
    monkeypatch.setattr(h5py.Dataset, "__getitem__", fail)


@pytest.mark.parametrize(("attack", "words"), ATTACKS.values(), ids=ATTACKS)
def test_only_plain_arrays_of_the_file_itself_are_read(attack, words, path, nothing_read):
    with h5py.File(path, "r+") as file:
        attack(file)
    with pytest.raises(WeightsError, match=words) as error:
        read_generator(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("link", [h5py.SoftLink("/G/a"), h5py.ExternalLink("secret.h5", "numbers")])
def test_files_of_the_released_layout_have_no_links_either(link, path, nothing_read):
    write_released(path, build_generator(GeneratorSpec(2)))
    with h5py.File(path, "r+") as file:
        group = file["G"]
        group.move("G_gen_conv1/kernel:0", "a")
        group["G_gen_conv1/kernel:0"] = link
    with pytest.raises(WeightsError, match="link"):
        read_generator(path)


def test_a_small_file_that_declares_32_gib_is_refused_unread(tmp_path, nothing_read):
    path = tmp_path / "w"
    for group, name in (("generator", "gen_conv9/kernel"), ("G", "G_gen_conv1/kernel:0")):
        with h5py.File(path, "w") as file:
            file.attrs["format"] = "segsrgan" if group == "generator" else "another"
            file.create_group(group).attrs["spec"] = json.dumps({"kernel": 2})
            file[group].attrs["weight_names"] = np.array([name.encode(), b"G_gen_1conv/kernel:0"])
            file[group].create_dataset(name, (2**23, 2**10), "float32")
        assert os.path.getsize(path) < 20_000
        with pytest.raises(WeightsError, match=r"declares \(8388608, 1024\), but 0 bytes"):
            read_generator(path)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ('{"kernel": 1000000000}', "from 1 to 512, received 1000000000"),
        ('{"kernel": 512, "blocks": 64}', "misshapen gen_conv1/kernel"),
        ('{"colour": 1}', "colour"),
        ("[1]", "not readable as a weights file"),
        ("{", "not readable as a weights file"),
        ("[" * 100_000, "not readable as a weights file"),
        ('{"kernel": 2}' + " " * hdf5.LONGEST_TEXT, "expected a short text"),
        (np.arange(3), "expected a short text"),
    ],
    ids=range(8),
)
def test_a_spec_is_checked_before_the_arrays(spec, message, path, nothing_read):
    with h5py.File(path, "r+") as file:
        file["generator"].attrs["spec"] = spec
    with pytest.raises(WeightsError, match=message):
        read_generator(path)


def test_arrays_of_any_number_type_are_read_as_they_are(tmp_path):
    arrays = {"a/b": np.arange(3), "c": np.float64(0.1), "d/e/f": np.zeros((0, 2), bool)}
    with h5py.File(tmp_path / "file", "w") as file:
        for name, array in arrays.items():
            file[name] = array
        found = read_arrays(file, {name: array.shape for name, array in arrays.items()}, None)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_weights_of_supermask_are_read_with_the_same_care(path):
    save_networks(path, alignnet=build_alignnet(AlignNetSpec(size=32, kernels=(2,))))
    with h5py.File(path, "r+") as file:
        shape = file["alignnet/conv_1/kernel"].shape
        del file["alignnet/conv_1/kernel"]
        source = [("secret", 0, BYTES)]
        file["alignnet"].create_dataset("conv_1/kernel", shape, "float32", external=source)
    with pytest.raises(WeightsError, match="in other files"):
        load_networks(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "a Git LFS pointer.*lfs pull",
        ),
        ("\n<!DOCTYPE html>\n<html>", "a web page; download the file itself"),
    ],
)
def test_what_stands_in_the_place_of_weights_is_named(content, words, tmp_path):
    (tmp_path / "weights").write_text(content)
    with pytest.raises(WeightsError, match=words):
        read_generator(tmp_path / "weights")
