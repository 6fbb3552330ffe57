# SPDX-License-Identifier: MIT
"""Weight files: ours, the released ones, the registry and the download."""

import hashlib
import http.client
import io
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from networks.variants import RELEASED_VARIANTS, VARIANTS, name_of, randomise, run, write_released

from segsrgan.errors import WeightsError
from segsrgan.networks import (
    DiscriminatorSpec,
    GeneratorSpec,
    build_discriminator,
    build_generator,
    convert,
    describe,
    generator_shapes,
    load_discriminator,
    load_generator,
    read_generator,
    registry,
    save_generator,
)
from segsrgan.networks.models import read_weights
from segsrgan.networks.registry import PUBLISHED, blob_sha1, download
from segsrgan.networks.weights import trained_interp

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("spec", VARIANTS, ids=name_of)
def test_files_of_both_layouts_bring_back_specs_and_weights(spec, tmp_path):
    generator = randomise(build_generator(spec))
    critic = DiscriminatorSpec(2, spec.conditional, spec.mask_classes, patch=32)
    discriminator = randomise(build_discriminator(critic))
    save_generator(generator, tmp_path / "ours", discriminator, note="x")
    assert describe(tmp_path / "ours")["metadata"] == {"note": "x"}
    if spec in RELEASED_VARIANTS:
        write_released(tmp_path / "theirs", generator, discriminator, split=spec.unet)
        assert describe(tmp_path / "theirs")["layout"] == "released original"
        convert(tmp_path / "theirs", tmp_path / "converted")
        assert describe(tmp_path / "converted")["layout"] == "segsrgan"
    for path in tmp_path.iterdir():
        copy, (found, arrays) = load_discriminator(path), read_generator(path)
        assert (copy.spec, found) == (critic, spec)
        assert arrays.keys() == generator_shapes(spec).keys()
        for name, array in {**read_weights(generator), **read_weights(discriminator)}.items():
            found = arrays[name] if name in arrays else read_weights(copy)[name]
            np.testing.assert_array_equal(found, array)


def test_a_file_says_which_interpolation_its_generator_was_trained_with(tmp_path):
    save_generator(build_generator(GeneratorSpec(2, interp="profile")), tmp_path / "ours")
    assert trained_interp(tmp_path / "ours") == "profile"
    (released, *_) = sorted(GOLDEN.glob("G_*"))
    assert trained_interp(released) == read_generator(released)[0].interp == "scipy"
    (tmp_path / "none").write_text("mine")
    with pytest.raises(WeightsError, match="none: not readable as a weights file"):
        trained_interp(tmp_path / "none")


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


def test_conversion_replaces_nothing(path, tmp_path):
    (tmp_path / "new").write_text("precious")
    for new in ("w", "new"):
        with pytest.raises(WeightsError, match="exists already"):
            convert(tmp_path / "w", tmp_path / new)
    assert (tmp_path / "new").read_text() == "precious"


def test_half_the_digits_take_half_the_space(path, tmp_path):
    convert(path, tmp_path / "half", half=True)
    (spec, arrays), (found, halves) = read_generator(path), read_generator(tmp_path / "half")
    assert found == spec and {a.dtype for a in halves.values()} == {np.dtype("float32")}
    for name, array in arrays.items():
        np.testing.assert_allclose(halves[name], array, rtol=1e-3, atol=1e-7)
    large = load_generator(path)
    large.get_layer("gen_conv1").kernel.assign(1e5 * np.ones_like(arrays["gen_conv1/kernel"]))
    save_generator(large, tmp_path / "large")
    with pytest.raises(WeightsError, match="too large for float16 are gen_conv1/kernel"):
        convert(tmp_path / "large", tmp_path / "none", half=True)
    assert not (tmp_path / "none").exists()


def later_version(file):
    file.attrs["format_version"] = 99


def other_arrays(file):
    group = file["generator"]
    del group["gen_conv2/kernel"], group["gen_conv3/kernel"]
    group["gen_conv3/kernel"] = np.zeros((3, 3, 3, 4, 9))
    group["gen_conv9/kernel"] = np.zeros(3)


def not_a_number(file):
    file["generator/gen_conv1/kernel"][0, 0, 0, 0, 0] = np.nan


def another_network(file):
    file.clear()
    file.attrs.clear()
    file.create_group("dense").attrs["weight_names"] = [b"dense/kernel:0"]
    file["dense/dense/kernel:0"] = np.zeros((2, 2))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (later_version, ["format version 99", "newer"]),
        (
            other_arrays,
            [
                "missing gen_conv2/kernel",
                "superfluous gen_conv9/kernel",
                "misshapen gen_conv3/kernel: expected (3, 3, 3, 4, 8), received (3, 3, 3, 4, 9)",
            ],
        ),
        (not_a_number, ["not finite gen_conv1/kernel"]),
        (another_network, ["no SegSRGAN generator"]),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_all_reasons(path, change, words):
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(WeightsError) as error:
        load_generator(path)
    for word in (str(path), *words):
        assert word in str(error.value)


@pytest.mark.parametrize("part", [b"", b"not hdf5", b"\x89HDF\r\n\x1a\n" + b"\0" * 99, None])
def test_an_unreadable_file_is_refused_by_name(content, part, path):
    path.write_bytes(content[: len(content) // 2] if part is None else part)
    with pytest.raises(WeightsError, match=f"{path}: not readable as a weights file"):
        load_generator(path)


def test_a_file_that_cannot_be_written_leaves_the_old_one(content, path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("segsrgan.networks.weights.h5py.Group.create_group", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_generator(build_generator(GeneratorSpec(2, unet=True)), path)
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


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


def test_a_damaged_bundled_file_is_refused(path, tmp_path, monkeypatch):
    entry = {"name": "x", "file": "w", "sha256": "0" * 64}
    (tmp_path / "registry.json").write_text(json.dumps({"default": "x", "weights": [entry]}))
    monkeypatch.setattr(registry, "weights_folder", lambda: tmp_path)
    with pytest.raises(WeightsError, match="damaged"):
        load_generator("x")
    path.unlink()
    with pytest.raises(WeightsError, match="missing"):
        load_generator()


def test_a_file_of_the_current_folder_does_not_stand_in_for_bundled_weights(tmp_path, monkeypatch):
    name = registry.default_weights()
    (tmp_path / name).write_text("something else")
    monkeypatch.chdir(tmp_path)
    assert registry.resolve(name).parent == registry.weights_folder()
    assert registry.resolve(f"./{name}").read_text() == "something else"


def test_git_blob_sha1_is_the_one_git_computes():
    # git hash-object of a file holding "hello\n"
    assert blob_sha1(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


@pytest.fixture
def repository(monkeypatch):
    """Return what the published repository holds, name -> content, and what it was asked for."""
    files, asked = {name: name.encode() for name in PUBLISHED}, []
    entries = [
        {"name": name, "download_url": f"https://host/{name}", "sha": blob_sha1(content)}
        for name, content in files.items()
    ]

    def urlopen(url, timeout):
        asked.append(url)
        content = files.get(url.removeprefix("https://host/"), json.dumps(entries).encode())
        if isinstance(content, Exception):
            raise content
        return io.BytesIO(content)

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    return files, asked


def test_download_verifies_and_keeps_what_is_right(tmp_path, repository):
    _, asked = repository
    assert [path.read_bytes().decode() for path in download(folder=tmp_path)] == list(PUBLISHED)
    asked.clear()
    download(PUBLISHED[:1], tmp_path)
    assert len(asked) == 1  # the listing alone


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"wrong", ["differs from its SHA-1"]),
        (OSError("Name or service not known"), ["could not be fetched", "com/koopa31/SegSRGAN"]),
        (http.client.IncompleteRead(b"half"), ["could not be fetched"]),
    ],
)
def test_what_cannot_be_downloaded_leaves_nothing(tmp_path, repository, content, words):
    repository[0][PUBLISHED[0]] = content
    with pytest.raises(WeightsError) as error:
        download(PUBLISHED[:1], tmp_path)
    for word in words if isinstance(content, bytes) else [*words, str(tmp_path)]:
        assert word in str(error.value)
    assert not list(tmp_path.iterdir())


def test_download_of_an_unknown_name_lists_the_published_ones():
    with pytest.raises(WeightsError, match=PUBLISHED[0]):
        download(["nonsense"])
