# SPDX-License-Identifier: MIT
"""`segsrgan export`: what is written is the network; a failure leaves nothing behind."""

import logging
import math

import numpy as np
import pytest
from networks.float64 import truth_and_tolerance
from networks.variants import randomise

from segsrgan.cli.main import main
from segsrgan.errors import UserError
from segsrgan.inference import export as module
from segsrgan.inference.export import FORMATS, SUFFIXES, agreement, export, sample_patch
from segsrgan.networks import GeneratorSpec, build_generator, save_generator

PATCH = 16
LIBRARIES = {"savedmodel": "tensorflow", "onnx": "tf2onnx", "openvino": "openvino"}
# All kinds of layers that a network can have.
SPEC = GeneratorSpec(
    2, unet=True, conditional=True, mask_classes=3, scaled=True, blocks=1, growth=1, head=3
)
every_format = pytest.mark.parametrize("file_format", FORMATS)


def argv_of(weights, file_format, path, *more):
    return [
        *("export", str(weights), "--format", file_format, "--output", str(path)),
        *("--patch", str(PATCH), *more),
    ]


@every_format
def test_what_is_written_computes_the_network_for_any_batch(
    tmp_path, file_format, capsys, monkeypatch
):
    pytest.importorskip(LIBRARIES[file_format])
    model = randomise(build_generator(SPEC))
    save_generator(model, tmp_path / "weights")
    path = tmp_path / "new" / f"net{SUFFIXES[file_format]}"
    path.parent.mkdir()
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest's own
    assert main(argv_of(tmp_path / "weights", file_format, path)) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"written: {path} (")
    batch = np.random.default_rng(0).random((3, *(PATCH,) * 3, 1), dtype=np.float32)
    expected, atol = truth_and_tolerance(model, [batch, np.full_like(batch, 3.0)])
    result = module._RUNNERS[file_format](path, batch)
    np.testing.assert_allclose(result, expected, atol=atol)
    names = {item.name for item in path.parent.iterdir()}
    assert names == {"net.xml", "net.bin"} if file_format == "openvino" else {path.name}


def content_of(path):
    """The text of a file, or of the files of a folder."""
    files = [path] if path.is_file() else sorted(path.iterdir())
    return "".join(file.read_text() for file in files)


@pytest.fixture
def path_of(tmp_path, monkeypatch):
    """Return a function: where a format is written; its writer keeps the weights' sum as text."""

    def write(generator, patch, path):
        text = str(sum(array.sum() for array in generator[1].values()))
        if not path.suffix:
            path.mkdir()
        for file in module._parts(path) if path.suffix else [path / "file"]:
            file.write_text(text)

    output = np.arange(8.0)
    monkeypatch.setattr(module, "find_spec", lambda name: object())
    monkeypatch.setattr(module, "_WRITERS", dict.fromkeys(FORMATS, write))
    monkeypatch.setattr(module, "_RUNNERS", dict.fromkeys(FORMATS, lambda *_: output))
    monkeypatch.setattr(module, "_plain_output", lambda *_: output)
    return lambda file_format: tmp_path / f"net{SUFFIXES[file_format]}"


@every_format
def test_what_does_not_agree_is_removed(tiny, path_of, file_format, monkeypatch, capsys):
    path = path_of(file_format)
    monkeypatch.setattr(module, "_plain_output", lambda *_: np.arange(8) + 0.01)
    assert main(argv_of(tiny, file_format, path)) == 2
    assert "does not agree with the weights (" in capsys.readouterr().err
    assert list(path.parent.iterdir()) == []


@every_format
def test_only_overwrite_replaces(tiny, identity, path_of, file_format, capsys):
    path = path_of(file_format)
    assert main(argv_of(identity, file_format, path)) == 0
    first, parts = content_of(path), module._parts(path)
    capsys.readouterr()
    assert main(argv_of(tiny, file_format, path)) == 2
    assert "exists already; --overwrite replaces it" in capsys.readouterr().err
    assert [content_of(part) for part in parts] == [first] * len(parts)
    assert main(argv_of(tiny, file_format, path, "--overwrite", "--quiet")) == 0
    assert capsys.readouterr().err == ""
    assert all(content_of(part) != first for part in parts)
    assert sorted(path.parent.iterdir()) == sorted(parts)


@pytest.mark.parametrize("moment", ["_WRITERS", "agreement"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_interrupted_export_leaves_what_was_there(
    tiny, path_of, monkeypatch, capsys, moment, error
):
    path = path_of("savedmodel")
    path.mkdir()
    (path / "old").write_text("precious")

    def stop(*arguments):
        raise error

    stopped = {"savedmodel": stop} if moment == "_WRITERS" else stop
    monkeypatch.setattr(module, moment, stopped)
    status = main(argv_of(tiny, "savedmodel", path, "--overwrite"))
    assert status == (130 if isinstance(error, KeyboardInterrupt) else 2)
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert [item.name for item in path.parent.rglob("*")] == ["net", "old"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--format", "tflite"], "tflite"),
        (["--patch", "18"], "divisible by 4"),
        (["--output", "none/net"], "none/net: its folder does not exist"),
        (["--output", "net.onnx"], "is to be a folder; take a name without .onnx"),
        (["--output", "file"], "file: is a file and not replaced"),
        (["--no_such_flag"], "--no_such_flag"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_arguments_are_one_line(tiny, tmp_path, monkeypatch, capsys, more, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("precious")
    assert main([*argv_of(tiny, "savedmodel", "net", "--overwrite"), *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("segsrgan export: error: ")
    assert words in line
    assert [item.name for item in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("file_format", ["onnx", "openvino"])
def test_a_wrong_name_or_size_or_missing_library_is_named(tiny, tmp_path, monkeypatch, file_format):
    suffix = SUFFIXES[file_format]
    with pytest.raises(UserError, match=f"ends with {suffix}"):
        export(tiny, file_format, tmp_path / "net", PATCH)
    with pytest.raises(UserError, match="what is exported has one size; try 128"):
        export(tiny, file_format, tmp_path / f"net{suffix}", None)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"{file_format} needs .*; pip install .*{file_format}"):
        export(tiny, file_format, tmp_path / f"net{suffix}", PATCH)


def test_both_files_of_openvino_are_looked_at(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: object())
    (tmp_path / "net.bin").write_text("precious")
    with pytest.raises(UserError, match="net.bin: exists already"):
        export(tiny, "openvino", tmp_path / "net.xml", PATCH)


def test_the_peak_is_the_references_range():
    # Range 4; errors 0.4 and three times 0, mean square 0.04: 10 log10(16 / 0.04) dB.
    reference = np.array([-1, 3, 0.2, 0.7])
    assert agreement(reference, [-0.6, 3, 0.2, 0.7]) == pytest.approx(10 * math.log10(400))


def test_equal_and_useless_outputs():
    same = np.array([1.0, 1.0, 0.1])
    assert agreement(same, same) == agreement([1, 1], [1, 1]) == 999
    assert agreement(same, same * np.nan) == agreement(same, same * np.inf) == 0


def test_the_sample_has_structure_background_and_the_right_range():
    patch = sample_patch(32)
    assert patch.shape == (1, 32, 32, 32, 1)
    assert patch.dtype == np.float32
    assert patch.min() == 0 and 0.9 < patch.max() <= 1
    assert 0.1 < (patch == 0).mean() < 0.5
    np.testing.assert_array_equal(patch, sample_patch(32))
