# SPDX-License-Identifier: MIT
"""The rules of the source: who imports whom, how long functions get, what an import does."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from startup import start_up_lines, user_environment

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCES = sorted(
    path for package in ("segsrgan", "supermask") for path in (REPOSITORY / package).rglob("*.py")
)
COMMANDS = (
    "segsrgan.job_model",
    "segsrgan.SegSRGAN_training",
    "segsrgan.cli.main",
    "segsrgan.cli.evaluate",
    "segsrgan.cli.report",
    "segsrgan.cli.synthesize",
    "segsrgan.cli.weights",
    "segsrgan.cli.supermask_predict",
    "segsrgan.cli.supermask_simulate",
)
HEAVY = {"tensorflow", "keras", "jax", "torch", "SimpleITK", "pandas", "scipy", "skimage", "h5py"}

ONEDNN = "TF_ENABLE_ONEDNN_OPTS"

# Runs main(["--help"]) of the module it is given, or only imports it; prints the seconds, the exit
# status, whether oneDNN is on, and the top-level modules that were loaded.
PROBE = f"""
import contextlib, importlib, io, os, sys, time
status, start = 0, time.perf_counter()
module = importlib.import_module(sys.argv[1])
if sys.argv[2:]:
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            status = module.main(sys.argv[2:])
        except SystemExit as stop:
            status = stop.code
seconds = time.perf_counter() - start
modules = sorted(set(name.partition(".")[0] for name in sys.modules))
print(seconds, status or 0, os.environ["{ONEDNN}"], *modules)
"""


def run(*command, program=sys.executable, **variables):
    """Runs Python, or another program beside it, as a user who has set these variables."""
    environment = user_environment(PYTHONPATH=str(REPOSITORY))
    environment.pop(ONEDNN, None)
    done = subprocess.run(
        [program, *map(str, command)],
        cwd=REPOSITORY,
        env=environment | variables,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_imports_follow_the_rules():
    run("--no-cache", program=Path(sys.executable).with_name("lint-imports"))


def test_functions_fit_a_screen_or_two():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path}: {node.name}"


def test_every_file_names_its_licence():
    licence = "# SPDX-License-Identifier: MIT\n"
    assert [path for path in SOURCES if not path.read_text().startswith(licence)] == []


def check_probe(*arguments, forbidden=HEAVY, seconds=1, onednn="1", **variables):
    """Probes in up to three fresh interpreters, since others may compute meanwhile."""
    for _ in range(3):
        words = run("-c", PROBE, *arguments, **variables).stdout.splitlines()[-1].split()
        if float(words[0]) < seconds:
            break
    assert float(words[0]) < seconds
    assert words[1:3] == ["0", onednn]
    assert not forbidden & {*words[3:]}


@pytest.mark.parametrize(
    ("module", "variables"),
    [("segsrgan", {ONEDNN: "0"}), ("supermask", {}), ("segsrgan.cli.train", {})],
)
def test_an_import_turns_onednn_on_unless_the_user_chose_and_loads_nothing(module, variables):
    onednn = variables.get(ONEDNN, "1")
    check_probe(module, forbidden=HEAVY | {"numpy"}, seconds=0.5, onednn=onednn, **variables)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_quick_and_loads_no_library(command):
    check_probe(command, "--help")


def test_tensorflow_says_something_at_its_start_that_commands_have_to_hide():
    assert start_up_lines(run("-c", "import segsrgan, tensorflow").stderr)


@pytest.mark.slow  # by default tests of killed jobs and trainings look for these lines, too
def test_an_export_hides_them_and_says_once_what_is_written(tmp_path):
    flags = f"export folded_unet_48 --format savedmodel --output {tmp_path / 'net'} --patch 32"
    said = run("-m", "segsrgan.cli.main", *flags.split()).stderr
    assert not start_up_lines(said) and said.count("written: ") == 1


def test_the_public_names_are_listed_and_found_on_first_use():
    import segsrgan

    names = "Predictor Volume load_generator read_volume segmentation write_volume".split()
    assert set(segsrgan.__all__) == {*names, "__version__"}
    assert all(getattr(segsrgan, name).__name__ == name for name in names)
    with pytest.raises(AttributeError, match="attribute nothing"):
        segsrgan.nothing  # noqa: B018 - the access is the test
