# SPDX-License-Identifier: MIT
"""`segsrgan export`: what is written is the network; a failure leaves nothing behind."""

import keras
import numpy as np
import pytest
from networks.float64 import truth_and_tolerance
from networks.variants import ALL_VARIANTS, name_of, randomise

from segsrgan.cli.main import main
from segsrgan.errors import UserError
from segsrgan.inference import export as module
from segsrgan.inference.export import FORMATS, SUFFIXES, export, sample_patch
from segsrgan.networks import build_generator, load_generator, save_generator

PATCH = 16
LIBRARIES = {"savedmodel": "tensorflow", "onnx": "tf2onnx", "openvino": "openvino"}
every_format = pytest.mark.parametrize("file_format", FORMATS)


@pytest.fixture
def path_of(tmp_path):
    """Return a function: where a format is written, its libraries being there."""

    def path(file_format):
        pytest.importorskip(LIBRARIES[file_format])
        return tmp_path / f"net{SUFFIXES[file_format]}"

    return path


def argv_of(weights, file_format, path, *more):
    return [
        *("export", str(weights), "--format", file_format, "--output", str(path)),
        *("--patch", str(PATCH), *more),
    ]


@every_format
def test_what_is_written_computes_the_network_for_any_batch(tiny, path_of, file_format, capsys):
    path = path_of(file_format)
    assert main(argv_of(tiny, file_format, path)) == 0
    assert f"written: {path}" in capsys.readouterr().err
    batch = np.random.default_rng(0).random((3, *(PATCH,) * 3, 1), dtype=np.float32)
    expected, atol = truth_and_tolerance(load_generator(tiny), batch)
    result = module._RUNNERS[file_format](path, batch)
    np.testing.assert_allclose(result, expected, atol=atol)
    names = {item.name for item in path.parent.iterdir()}
    assert names == {"net.xml", "net.bin"} if file_format == "openvino" else {path.name}


@every_format
@pytest.mark.parametrize("spec", [ALL_VARIANTS[5], ALL_VARIANTS[9], ALL_VARIANTS[-2]], ids=name_of)
def test_variants_agree_when_exported(spec, path_of, file_format, tmp_path):
    path = path_of(file_format)
    save_generator(randomise(build_generator(spec)), tmp_path / "weights")
    found = export(tmp_path / "weights", file_format, path, PATCH)
    assert found > 80
    assert module._RUNNERS[file_format](path, sample_patch(PATCH)).shape[-1] == spec.channels


@every_format
def test_what_does_not_agree_is_removed(tiny, path_of, file_format, monkeypatch, capsys):
    path, real = path_of(file_format), module._RUNNERS[file_format]
    wrong = {file_format: lambda *arguments: real(*arguments) + 0.01}
    monkeypatch.setattr(module, "_RUNNERS", wrong)
    assert main(argv_of(tiny, file_format, path)) == 2
    assert "does not agree with the weights (" in capsys.readouterr().err
    assert list(path.parent.iterdir()) == []


@every_format
def test_only_overwrite_replaces(tiny, identity, path_of, file_format, capsys):
    path = path_of(file_format)
    patch = sample_patch(PATCH)
    assert main(argv_of(identity, file_format, path)) == 0
    first = module._RUNNERS[file_format](path, patch)
    assert main(argv_of(tiny, file_format, path)) == 2
    assert "exists already; --overwrite replaces it" in capsys.readouterr().err
    np.testing.assert_array_equal(module._RUNNERS[file_format](path, patch), first)
    assert main(argv_of(tiny, file_format, path, "--overwrite", "--quiet")) == 0
    assert capsys.readouterr().err == ""
    assert np.abs(module._RUNNERS[file_format](path, patch) - first).max() > 0.1
    assert all(item.name.startswith("net") for item in path.parent.iterdir())


@pytest.mark.parametrize("moment", ["export", "compare"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_interrupted_export_leaves_what_was_there(
    tiny, tmp_path, monkeypatch, capsys, moment, error
):
    path = tmp_path / "net"
    path.mkdir()
    (path / "old").write_text("precious")

    def stop(*arguments, **options):
        raise error

    if moment == "export":
        monkeypatch.setattr(keras.Model, "export", stop)
    else:
        monkeypatch.setattr("segsrgan.inference.export.agreement", stop)
    status = main(argv_of(tiny, "savedmodel", path, "--overwrite"))
    assert status == (130 if isinstance(error, KeyboardInterrupt) else 2)
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert [item.name for item in tmp_path.rglob("*")] == ["net", "old"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--format", "tflite"], "tflite"),
        (["--patch", "18"], "divisible by 4"),
        (["--patch", "None"], "None"),
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


def test_unknown_weights_are_one_line(tmp_path, capsys):
    assert main(argv_of("no such weights", "savedmodel", tmp_path / "net")) == 2
    assert "no such weights" in capsys.readouterr().err


def test_a_network_of_any_size_is_not_exported(tiny, tmp_path):
    with pytest.raises(UserError, match="what is exported has one size; try 128"):
        export(tiny, "savedmodel", tmp_path / "net", None)


@pytest.mark.parametrize("file_format", ["onnx", "openvino"])
def test_a_wrong_name_says_what_it_ends_with(tiny, tmp_path, file_format):
    with pytest.raises(UserError, match=f"ends with {SUFFIXES[file_format]}"):
        export(tiny, file_format, tmp_path / "net", PATCH)


@pytest.mark.parametrize("file_format", ["onnx", "openvino"])
def test_a_missing_library_is_named(tiny, tmp_path, monkeypatch, file_format):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    path = tmp_path / f"net{SUFFIXES[file_format]}"
    with pytest.raises(UserError, match=f"{file_format} needs .*; pip install .*{file_format}"):
        export(tiny, file_format, path, PATCH)


def test_both_files_of_openvino_are_looked_at(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: object())
    (tmp_path / "net.bin").write_text("precious")
    with pytest.raises(UserError, match="net.bin: exists already"):
        export(tiny, "openvino", tmp_path / "net.xml", PATCH)
