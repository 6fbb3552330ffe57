# SPDX-License-Identifier: MIT
"""The front door: `segsrgan predict`, `train` and `weights`."""

import json
import logging
import os
import subprocess
import sys
import types
from importlib import import_module
from pathlib import Path

import pytest
from networks.variants import write_released

from segsrgan import __version__
from segsrgan.cli.console import ProgressBar, messages
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
    "program",
    [
        *("main", "job_model", "train", "predict", "bids", "report", "strip", "synthesize"),
        *("evaluate", "doctor", "weights", "supermask_predict", "supermask_bids"),
        "supermask_simulate",
    ],
)
def test_every_command_says_its_version(program, capsys):
    with pytest.raises(SystemExit) as stop:
        import_module(f"segsrgan.cli.{program}").main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.split()[-1] == __version__


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


def test_colours_are_for_terminals_that_want_them(capsys, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")

    def shown():
        with messages("program"):
            logging.getLogger("segsrgan.test").warning("a.nii: is odd")
        assert main(["fly"]) == 2
        return capsys.readouterr().err

    assert "\033" not in shown()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    coloured = shown()
    assert "program: \033[33mwarning\033[0m: a.nii: is odd" in coloured
    assert "segsrgan: \033[31merror\033[0m: " in coloured
    for name, value in {"NO_COLOR": "1", "TERM": "dumb"}.items():
        with monkeypatch.context() as patched:
            patched.setenv(name, value)
            assert "\033" not in shown()


def test_a_log_file_has_a_line_of_progress_now_and_then_and_a_terminal_a_bar(capsys, monkeypatch):
    seconds = iter([0.0, 0.0, 10.0, 40.0, 50.0, 80.0, 90.0])
    with monkeypatch.context() as patched:
        patched.setattr("segsrgan.cli.console.time.monotonic", lambda: next(seconds))
        with ProgressBar() as progress:
            for done in (0, 1, 4, 5, 8, 10):
                progress("t2\n.nii", done, 10)
    assert capsys.readouterr().err.splitlines() == [
        "t2\\n.nii: patch 4 of 10, 0:01:00 left",
        "t2\\n.nii: patch 8 of 10, 0:00:20 left",
    ]
    with ProgressBar() as progress:
        progress("t2.nii", 10, 10, "1 of 3")
    assert capsys.readouterr().err == "t2.nii: patch 10 of 10, 1 of 3\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with ProgressBar() as progress:
        progress("t2.nii", 0, 10)
        progress("t2.nii", 10, 10, "1 of 3")
    shown = capsys.readouterr().err
    assert "10/10" in shown and "1 of 3" in shown
    with ProgressBar(quiet=True) as progress:
        progress("t2.nii", 10, 10, "1 of 3")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("segsrgan pre", {"predict "}),
        ("segsrgan predict --dry", {"--dry-run", "--dry_run"}),
        ("segsrgan predict --strip ", {"auto", "yes", "no"}),
        ("segsrgan  weights sh", {"show "}),
        ("segsrgan bids raw out gr", {"group "}),
    ],
)
def test_a_shell_completes_commands_flags_and_values(line, expected, tmp_path):
    pytest.importorskip("argcomplete")
    answer = tmp_path / "answer"
    asked = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE": "1"}
    asked |= {"_ARGCOMPLETE_STDOUT_FILENAME": str(answer), "_ARGCOMPLETE_IFS": "\n"}
    command = [sys.executable, "-m", "segsrgan.cli.main"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=os.environ | asked, cwd=root, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert set(answer.read_text().splitlines()) == expected


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
        {"name": "a", "file": "a.h5", "kind": "brain"},
        {"name": "b", "file": "b.h5"},
    ]
    monkeypatch.setattr("segsrgan.networks.registry.available", lambda: entries)
    monkeypatch.setattr("segsrgan.networks.registry.default_weights", lambda: "b")
    assert main(["weights", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["a", "the", "brain", "in"]
    assert lines[1].split()[:4] == ["*", "b", "image", "and"]


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
