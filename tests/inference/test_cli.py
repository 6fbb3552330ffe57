# SPDX-License-Identifier: MIT
"""The front door: `segsrgan predict`, `train` and `weights`."""

import json
import logging
import sys
import types

import pytest
from networks.variants import write_released

from segsrgan.cli.console import messages
from segsrgan.cli.main import main
from segsrgan.networks import GeneratorSpec, build_generator


def test_predict_is_job_model(image, table, tiny):
    path = image()
    argv = ["predict", "-p", str(table(path)), "-pa", "16", "-n", "1", "-wp", str(tiny)]
    assert main(argv) == 0
    assert (path.parent / "Result_with_tiny" / "patch_16_step_8").is_dir()
    assert main(["predict", "--patch", "66"]) == 2


def test_train_gets_all_arguments(monkeypatch):
    received = []
    module = types.ModuleType("segsrgan.cli.train")
    module.main = lambda *args, **options: received.append((args, options)) or 5
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert main(["train", "--csv", "data.csv", "-n", "0.5 0.5 3"]) == 5
    arguments = ["--csv", "data.csv", "-n", "0.5 0.5 3"]
    assert received == [((arguments,), {"prog": "segsrgan train"})]


def test_ctrl_c_while_a_command_is_loaded_is_one_line_and_status_130(monkeypatch, capsys):
    def interrupt(module):
        raise KeyboardInterrupt

    monkeypatch.setattr("segsrgan.cli.main.import_module", interrupt)
    assert main(["predict"]) == 130
    assert capsys.readouterr().err == "segsrgan predict: interrupted\n"


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("predict", "train", "export", "evaluate", "weights"))


@pytest.mark.parametrize(
    "words",
    ["", "weights", "fly", "weights burn", "weights show none", "weights convert none new"],
)
def test_a_wrong_command_and_unknown_weights_are_one_line(capsys, words):
    assert main(words.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(("segsrgan: error: ", "segsrgan weights: error: "))
    assert "none" in line or "none" not in words


def test_messages_are_written_once_and_errors_each_time(capsys):
    logger = logging.getLogger("segsrgan.test")
    with messages("program"):
        for _ in range(2):
            logger.warning("%s: is odd", "a.nii")
            logger.error("b.nii: is broken")
    lines = capsys.readouterr().err.splitlines()
    broken = "program: error: b.nii: is broken"
    assert lines == ["program: warning: a.nii: is odd", broken, broken]


def test_closed_streams_change_no_status(monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert [main(["nonsense"]), main(["weights", "list"])] == [2, 0]


def test_weights_convert_writes_our_layout_and_show_says_so(tmp_path, capsys):
    new = str(tmp_path / "new.h5")
    write_released(tmp_path / "old", build_generator(GeneratorSpec(2)))
    assert main(["weights", "convert", str(tmp_path / "old"), new]) == 0
    capsys.readouterr()
    assert main(["weights", "show", new]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["layout"], shown["generator"]["kernel"]) == ("segsrgan", 2)


def test_weights_list_names_the_bundled_ones(capsys, monkeypatch):
    entries = [
        {"name": "a", "file": "a.h5", "architecture": {"kernel": 16}},
        {"name": "b", "file": "b.h5", "architecture": "U-Net"},
    ]
    monkeypatch.setattr("segsrgan.networks.registry.available", lambda: entries)
    monkeypatch.setattr("segsrgan.networks.registry.default_weights", lambda: "b")
    assert main(["weights", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["a", "kernel", "16"]
    assert lines[1].split() == ["*", "b", "U-Net"]


def test_weights_download_passes_names_and_folder(capsys, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "segsrgan.networks.registry.download",
        lambda names, folder: calls.append((names, folder)) or ["w/a"],
    )
    assert main(["weights", "download", "a", "b", "--folder", "w"]) == 0
    assert main(["weights", "download"]) == 0
    assert calls == [(["a", "b"], "w"), (None, None)]
    assert capsys.readouterr().out.splitlines() == ["w/a", "w/a"]
