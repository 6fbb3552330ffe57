# SPDX-License-Identifier: MIT
"""What the built package carries, and that the Makefile keeps the original's targets."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
TARGETS = (
    "create_venv_and_install_SegSRGAN test_job_model_help test_job_model_on_image_absolute "
    "test_job_model_on_image_relatif test_seg test_training remove_result remove_venv"
).split()


def test_every_package_is_listed():
    files = (path.relative_to(REPOSITORY) for path in REPOSITORY.glob("s*/**/__init__.py"))
    folders = [".".join(path.parent.parts) for path in files]
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted([*folders, "segsrgan.bundled_weights"])


def test_the_commands_keep_their_names():
    scripts = PROJECT["project"]["scripts"]
    names = "job_model.py SegSRGAN_training.py segsrgan supermask-predict supermask-simulate"
    assert {*names.split()} <= scripts.keys()
    for target in scripts.values():
        module, _, function = target.partition(":")
        assert callable(getattr(import_module(module), function))


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("folder", [".", "Test_package_and_local"])
def test_the_makefiles_have_the_targets_of_the_original(folder):
    def make(*arguments):
        command = ["make", "-C", str(REPOSITORY / folder), f"python={sys.executable}", *arguments]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    listed = make()
    assert all(f"\n{target} " in listed for target in TARGETS)
    make("--dry-run", *TARGETS)


@pytest.mark.slow
def test_the_wheel_carries_weights_and_commands(tmp_path):
    # From a copy: building writes into the tree, and an earlier build would leak into the wheel.
    kept, ignore = ("segsrgan", "supermask", "weights", "tests"), shutil.ignore_patterns("__py*")
    for name in kept:
        shutil.copytree(REPOSITORY / name, tmp_path / "source" / name, ignore=ignore)
    for path in REPOSITORY.iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path / "source")
    command = [sys.executable, "-m", "build", "--outdir", tmp_path / "dist", tmp_path / "source"]
    subprocess.run(command, check=True, timeout=300)

    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = (name for name in names if name.endswith("/entry_points.txt"))
        scripts = archive.read(entry_points).decode()
    kinds = ("*.py", "*.html", "*.css")
    sources = [
        path for top in kept[:2] for kind in kinds for path in (REPOSITORY / top).rglob(kind)
    ]
    expected = {str(path.relative_to(REPOSITORY)) for path in sources}
    weights = REPOSITORY / "weights"
    files = (path.relative_to(weights) for path in weights.rglob("*") if path.is_file())
    expected |= {f"segsrgan/bundled_weights/{name}" for name in files}
    assert {name for name in names if ".dist-info/" not in name} == expected
    for name, target in PROJECT["project"]["scripts"].items():
        assert f"{name} = {target}" in scripts
