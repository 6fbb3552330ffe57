# SPDX-License-Identifier: MIT
"""The rules of the source: who imports whom, how long functions get, what an import costs."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCES = sorted(
    path for package in ("segsrgan", "supermask") for path in (REPOSITORY / package).rglob("*.py")
)
COMMANDS = (
    "segsrgan.job_model",
    "segsrgan.SegSRGAN_training",
    "segsrgan.cli.main",
    "segsrgan.cli.evaluate",
    "segsrgan.cli.synthesize",
    "segsrgan.cli.weights",
    "segsrgan.cli.supermask_predict",
    "segsrgan.cli.supermask_simulate",
)
HEAVY = {"tensorflow", "keras", "jax", "torch", "SimpleITK", "pandas", "scipy", "skimage", "h5py"}

# Runs main(["--help"]) of the module it is given, or only imports it; prints the seconds, the exit
# status and the top-level modules that were loaded.
PROBE = """
import contextlib, importlib, io, sys, time
status, start = 0, time.perf_counter()
module = importlib.import_module(sys.argv[1])
if sys.argv[2:]:
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            status = module.main(sys.argv[2:])
        except SystemExit as stop:
            status = stop.code
seconds = time.perf_counter() - start
print(seconds, status or 0, *sorted({name.partition(".")[0] for name in sys.modules}))
"""


def functions(path):
    """Yield (name, lines) of every function in a file."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.end_lineno - node.lineno + 1


def test_imports_follow_the_rules():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        capture_output=True,
        encoding="utf-8",
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_functions_fit_a_screen_or_two():
    lengths = {f"{path}:{name}": n for path in SOURCES for name, n in functions(path)}
    assert {name: n for name, n in lengths.items() if n > 60} == {}


def test_every_file_names_its_licence():
    licence = "# SPDX-License-Identifier: MIT\n"
    assert [path for path in SOURCES if not path.read_text().startswith(licence)] == []


def probe(*arguments):
    """Run PROBE in a fresh interpreter; return seconds (the best of three), status, modules."""
    runs = []
    for _ in range(3):
        command = [sys.executable, "-c", PROBE, *arguments]
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", cwd=REPOSITORY, timeout=120
        )
        assert done.returncode == 0, done.stderr
        runs.append(done.stdout.splitlines()[-1].split())
        if float(runs[-1][0]) < 0.5:
            break
    best = min(runs, key=lambda run: float(run[0]))
    return float(best[0]), int(best[1]), set(best[2:])


@pytest.mark.parametrize("module", ["segsrgan", "supermask", "segsrgan.cli.train"])
def test_packages_and_settings_of_trainings_load_nothing(module):
    seconds, _, modules = probe(module)
    assert not modules & (HEAVY | {"numpy"})
    assert seconds < 0.5


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_quick_and_loads_no_library(command):
    seconds, status, modules = probe(command, "--help")
    assert status == 0
    assert not modules & HEAVY
    assert seconds < 1


def test_the_public_names_are_listed_and_found_on_first_use():
    import segsrgan

    names = "Predictor Volume load_generator read_volume segmentation write_volume".split()
    assert set(segsrgan.__all__) == {*names, "__version__"}
    assert all(getattr(segsrgan, name).__name__ == name for name in names)
    with pytest.raises(AttributeError, match="attribute nothing"):
        segsrgan.nothing  # noqa: B018 - the access is the test
