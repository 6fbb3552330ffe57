# SPDX-License-Identifier: MIT
"""Weight files: ours, the released ones, the registry and the download."""

import hashlib
import http.client
import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from networks.variants import VARIANTS, inputs_for, name_of, randomise, run, write_released

from segsrgan.errors import WeightsError
from segsrgan.networks import (
    DiscriminatorSpec,
    GeneratorSpec,
    build_discriminator,
    build_generator,
    convert,
    describe,
    load_discriminator,
    load_generator,
    registry,
    save_generator,
)
from segsrgan.networks.registry import PUBLISHED, blob_sha1, download

GOLDEN = Path(__file__).parent / "golden"
every_variant = pytest.mark.parametrize("spec", VARIANTS, ids=name_of)


@every_variant
def test_our_file_brings_back_spec_and_output(spec, tmp_path):
    model = randomise(build_generator(spec))
    save_generator(model, tmp_path / "w", note="x")
    copy = load_generator(tmp_path / "w")
    assert copy.spec == spec
    np.testing.assert_array_equal(run(copy, inputs_for(spec)), run(model, inputs_for(spec)))
    assert describe(tmp_path / "w")["metadata"] == {"note": "x"}


@every_variant
def test_released_layout_brings_back_spec_and_output(spec, tmp_path):
    generator = randomise(build_generator(spec))
    critic = DiscriminatorSpec(2, spec.conditional, spec.mask_classes, patch=32)
    discriminator = randomise(build_discriminator(critic))
    write_released(tmp_path / "w", generator, discriminator, split=spec.unet)
    copy = load_generator(tmp_path / "w")
    assert copy.spec == spec
    np.testing.assert_array_equal(run(copy, inputs_for(spec)), run(generator, inputs_for(spec)))
    assert load_discriminator(tmp_path / "w").spec == critic


@pytest.mark.parametrize("name", [p.name for p in sorted(GOLDEN.glob("G_*"))])
def test_released_original_gave_the_same_output(name):
    patches = np.load(GOLDEN / "patches.npz")
    y = run(load_generator(GOLDEN / name), patches[f"{name}_x"][None, ..., None])[0]
    np.testing.assert_allclose(np.moveaxis(y, -1, 0), patches[f"{name}_y"], atol=1e-4)


@pytest.mark.parametrize("formulation", ["fast", "plain"])
@pytest.mark.parametrize("name", ["G_kernel8", "G_cond_kernel4"])
def test_released_weights_give_the_originals_patches_and_answers(name, formulation, data_dir):
    path = data_dir / "original" / name
    patch = np.load(path.with_name(f"{name}_patch.npz"))
    image = patch["x"][None, ..., None]
    model = load_generator(path, formulation=formulation)
    inputs = [image, np.full_like(image, 3.0)] if model.spec.conditional else image
    expected = np.moveaxis(patch["y"], 0, -1)
    np.testing.assert_allclose(run(model, inputs)[0], expected, atol=1e-4)
    channels = [expected[None]] + inputs[1:] if model.spec.conditional else [expected[None]]
    answer = run(load_discriminator(path), np.concatenate(channels, axis=-1))
    np.testing.assert_allclose(np.ravel(answer), np.ravel(patch["d"]), atol=1e-4)


def test_conversion_keeps_both_networks(tmp_path):
    generator = randomise(build_generator(GeneratorSpec(2, unet=True)))
    discriminator = randomise(build_discriminator(DiscriminatorSpec(2, patch=32)))
    write_released(tmp_path / "old", generator, discriminator)
    convert(tmp_path / "old", tmp_path / "new")
    assert describe(tmp_path / "new")["layout"] == "segsrgan"
    for load, model in ((load_generator, generator), (load_discriminator, discriminator)):
        for a, b in zip(load(tmp_path / "new").get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_conversion_replaces_nothing(tmp_path):
    save_generator(build_generator(GeneratorSpec(2)), tmp_path / "w")
    (tmp_path / "new").write_text("precious")
    for new in ("w", "new"):
        with pytest.raises(WeightsError, match="exists already"):
            convert(tmp_path / "w", tmp_path / new)
    assert (tmp_path / "new").read_text() == "precious"


def test_a_file_of_a_later_version_is_refused(tmp_path):
    save_generator(build_generator(GeneratorSpec(2)), tmp_path / "w")
    with h5py.File(tmp_path / "w", "r+") as file:
        file.attrs["format_version"] = 99
    with pytest.raises(WeightsError, match="format version 99.*newer"):
        load_generator(tmp_path / "w")


def test_a_file_that_does_not_fit_is_refused_with_the_list(tmp_path):
    save_generator(build_generator(GeneratorSpec(2)), tmp_path / "w")
    with h5py.File(tmp_path / "w", "r+") as file:
        group = file["generator"]
        del group["gen_conv2/kernel"], group["gen_conv3/kernel"]
        group["gen_conv3/kernel"] = np.zeros((3, 3, 3, 4, 9))
        group["gen_conv9/kernel"] = np.zeros(3)
    with pytest.raises(WeightsError) as error:
        load_generator(tmp_path / "w")
    message = str(error.value)
    assert str(tmp_path / "w") in message
    assert "missing gen_conv2/kernel" in message
    assert "superfluous gen_conv9/kernel" in message
    assert (
        "misshapen gen_conv3/kernel: expected (3, 3, 3, 4, 8), received (3, 3, 3, 4, 9)" in message
    )


def test_weights_that_are_not_numbers_are_refused(tmp_path):
    save_generator(build_generator(GeneratorSpec(2)), tmp_path / "w")
    with h5py.File(tmp_path / "w", "r+") as file:
        file["generator/gen_conv1/kernel"][0, 0, 0, 0, 0] = np.nan
    with pytest.raises(WeightsError, match="w: .*not finite gen_conv1/kernel"):
        load_generator(tmp_path / "w")


def test_weights_are_read_without_keras():
    code = (
        "import sys, segsrgan.networks\n"
        "spec, arrays = segsrgan.networks.read_generator()\n"
        "assert arrays['gen_conv1/kernel'].shape[-1] == spec.kernel\n"
        "print([name for name in ('keras', 'tensorflow', 'jax') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_weights_of_another_network_are_refused(tmp_path):
    with h5py.File(tmp_path / "w", "w") as file:
        file.attrs["layer_names"] = [b"dense"]
        file.create_group("dense").attrs["weight_names"] = [b"dense/kernel:0"]
        file["dense/dense/kernel:0"] = np.zeros((2, 2))
    with pytest.raises(WeightsError, match="no SegSRGAN generator"):
        load_generator(tmp_path / "w")


@pytest.mark.parametrize("content", [b"", b"not hdf5", b"\x89HDF\r\n\x1a\n" + b"\0" * 99])
def test_an_unreadable_file_is_refused_by_name(content, tmp_path):
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(WeightsError, match=f"{tmp_path / 'w'}: not readable as a weights file"):
        load_generator(tmp_path / "w")


def test_a_truncated_file_is_refused(tmp_path):
    save_generator(build_generator(GeneratorSpec(2)), tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    (tmp_path / "w").write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match="not readable as a weights file"):
        load_generator(tmp_path / "w")


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    save_generator(build_generator(GeneratorSpec(2)), tmp_path / "w")
    before = (tmp_path / "w").read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("segsrgan.networks.weights.h5py.Group.create_group", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_generator(build_generator(GeneratorSpec(2, unet=True)), tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["w"]


def test_an_unknown_name_lists_the_known_ones():
    known = registry.available()[0]["name"]
    with pytest.raises(WeightsError, match=f"nonsense: no such weights.*{known}"):
        load_generator("nonsense")


def test_every_bundled_file_is_described_whole_and_loadable():
    names = [entry["name"] for entry in registry.available()]
    assert registry.default_weights() in names
    for entry in registry.available():
        assert {"name", "file", "sha256", "architecture", "training", "license", "scores"} <= set(
            entry
        )
        content = (registry.weights_folder() / entry["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"]
        if entry.get("kind") == "supermask":
            continue  # tests/supermask/test_networks.py
        for name in (entry["name"], f"weights/{entry['name']}"):
            assert load_generator(name).spec == GeneratorSpec(**entry["architecture"])


def test_a_damaged_bundled_file_is_refused(tmp_path, monkeypatch):
    save_generator(build_generator(GeneratorSpec(2)), tmp_path / "w.h5")
    entry = {"name": "w", "file": "w.h5", "sha256": "0" * 64}
    content = {"default": "w", "weights": [entry]}
    (tmp_path / "registry.json").write_text(json.dumps(content))
    monkeypatch.setattr(registry, "weights_folder", lambda: tmp_path)
    with pytest.raises(WeightsError, match="damaged"):
        load_generator("w")


def test_a_file_of_the_current_folder_does_not_stand_in_for_bundled_weights(tmp_path, monkeypatch):
    name = registry.default_weights()
    (tmp_path / name).write_text("something else")
    monkeypatch.chdir(tmp_path)
    assert registry.resolve(name).parent == registry.weights_folder()
    assert registry.resolve(f"./{name}").read_text() == "something else"


class Repository:
    """A stand-in for the published repository."""

    def __init__(self, files):
        self.files = files
        self.asked = []

    def __call__(self, url):
        self.asked.append(url)
        if "contents" in url:
            listing = [
                {"name": n, "download_url": f"https://host/{n}", "sha": blob_sha1(c)}
                for n, c in self.files.items()
            ]
            return json.dumps(listing).encode()
        return self.files[url.rsplit("/", 1)[1]]


def test_git_blob_sha1_is_the_one_git_computes():
    # git hash-object of a file holding "hello\n"
    assert blob_sha1(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_download_verifies_and_keeps_what_is_right(tmp_path):
    repository = Repository({name: name.encode() for name in PUBLISHED})
    paths = download(folder=tmp_path, fetch=repository)
    assert [p.read_bytes().decode() for p in paths] == list(PUBLISHED)
    repository.asked.clear()
    download(PUBLISHED[:1], tmp_path, repository)
    assert len(repository.asked) == 1  # the listing alone


def test_download_refuses_a_file_that_differs(tmp_path):
    repository = Repository({name: b"right" for name in PUBLISHED})

    def tampered(url):
        return repository(url) if "contents" in url else b"wrong"

    with pytest.raises(WeightsError, match="differs from its SHA-1"):
        download(PUBLISHED[:1], tmp_path, tampered)
    assert not list(tmp_path.iterdir())


def test_download_without_a_network_names_the_address_and_the_folder(tmp_path):
    def offline(url):
        raise OSError("Name or service not known")

    with pytest.raises(WeightsError, match="github.com/koopa31/SegSRGAN") as error:
        download(folder=tmp_path, fetch=offline)
    assert str(tmp_path) in str(error.value)


def test_a_download_that_breaks_off_is_explained(tmp_path):
    def broken(url):
        raise http.client.IncompleteRead(b"half")

    with pytest.raises(WeightsError, match="could not be fetched"):
        download(folder=tmp_path, fetch=broken)


def test_download_of_an_unknown_name_lists_the_published_ones():
    with pytest.raises(WeightsError, match=PUBLISHED[0]):
        download(["nonsense"])
