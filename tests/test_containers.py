# SPDX-License-Identifier: MIT
"""Recipes for containers and clusters: what they take exists, and their commands work."""

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from segsrgan.volumes import Volume, write_volume

REPOSITORY = Path(__file__).resolve().parent.parent
DOCKERFILE = REPOSITORY / "Dockerfile"
APPTAINER = REPOSITORY / "docs" / "use" / "segsrgan.def"
SLURM = REPOSITORY / "docs" / "use" / "predict.slurm"
BIN = Path(sys.executable).parent


def build_stage():
    """The instructions of the first stage, pairs of name and rest."""
    text = re.sub(r"\\\n\s*", "", DOCKERFILE.read_text())
    stage = text[: text.index("FROM", text.index("FROM") + 1)]
    return [line.split(" ", 1) for line in stage.splitlines() if line and line[0] != "#"]


def copied():
    """The files and folders that the first stage takes."""
    return [word for name, rest in build_stage() if name == "COPY" for word in rest.split()[:-1]]


def test_the_dockerfile_has_no_known_flaw():
    linter = BIN / "hadolint"
    if not linter.exists():
        pytest.skip("hadolint is not installed; it comes with the extra dev")
    done = subprocess.run([linter, DOCKERFILE], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr


def test_both_recipes_take_and_do_the_same():
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == set(copied())
    assert all((REPOSITORY / name).exists() for name in copied())
    definition = APPTAINER.read_text()
    assert re.findall(r"^    (\S+) /source/$", definition, re.M) == copied()
    steps = [
        step.strip() for name, rest in build_stage() if name == "RUN" for step in rest.split("&&")
    ]
    assert len(steps) == 3 and all(f"    {step}\n" in definition for step in steps)
    arguments = [rest for name, rest in build_stage() if name == "ARG"]
    assert all(f"    {argument}\n" in definition for argument in arguments)
    (base,) = re.findall(r"^From: (.*)$", definition, re.M)
    assert re.findall(r"^FROM (\S+)", DOCKERFILE.read_text(), re.M) == [base, base]


@pytest.mark.slow
def test_the_steps_of_the_build_make_an_installation_that_works(tmp_path):
    source, home = tmp_path / "source", tmp_path / "installed"
    source.mkdir()
    for name in copied():
        is_folder = (REPOSITORY / name).is_dir()
        ignore = shutil.ignore_patterns("__pycache__")
        if is_folder:
            shutil.copytree(REPOSITORY / name, source / name, ignore=ignore)
        else:
            shutil.copy(REPOSITORY / name, source)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    clean["PATH"] = f"{BIN}{os.pathsep}{clean['PATH']}"

    def run(*command, cwd=tmp_path, environment=clean):
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    arguments = dict(rest.split("=", 1) for name, rest in build_stage() if name == "ARG")
    for name, rest in build_stage():
        if name == "RUN":
            command = rest.replace("/opt/segsrgan", str(home))
            run("sh", "-ec", command, cwd=source, environment=clean | arguments)
    segsrgan = str(home / "bin" / "segsrgan")
    (program,) = re.findall(r'^ENTRYPOINT \["(.*)"\]', DOCKERFILE.read_text(), re.M)
    (words,) = re.findall(r'^CMD \["(.*)"\]', DOCKERFILE.read_text(), re.M)
    assert "predict" in run(str(home / "bin" / program), words)
    assert "all is well" in run(segsrgan, "doctor")
    random = np.random.default_rng(0).uniform(10, 200, (16, 20, 6)).astype(np.float32)
    write_volume(Volume(random, (1.0, 1.0, 3.0)), tmp_path / "t2.nii.gz")
    run(segsrgan, "predict", "t2.nii.gz", "-o", "out", "--resolution", "1", "--patch", "32")
    assert (tmp_path / "out" / "t2_cortex_mask.nii.gz").exists()


def test_the_tasks_of_an_array_share_the_images_of_a_csv(tmp_path):
    names = [f"sub-{number}/t2.nii.gz" for number in range(5)]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "data.csv").write_text("\n".join(["image", *names]))
    # In place of the program: notes its arguments.
    fake = tmp_path / "bin" / "job_model.py"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >"{tmp_path}/args_$SLURM_ARRAY_TASK_ID"\n')
    fake.chmod(0o755)
    slurm = {"SLURM_ARRAY_TASK_COUNT": "7", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_CPUS_PER_TASK": "3"}
    slurm["PATH"] = f"{fake.parent}{os.pathsep}{os.environ['PATH']}"
    seen = []
    for task in range(1, 8):
        slurm["SLURM_ARRAY_TASK_ID"] = str(task)
        command = ["bash", SLURM, "data/data.csv", "out", "--patch", "16"]
        subprocess.run(command, env=os.environ | slurm, cwd=tmp_path, check=True)
        part = f"out/part_{task}.csv"
        assert (tmp_path / f"args_{task}").exists() == (task < 7)  # of the seventh there is none
        if task < 7:
            expected = ["--path", part, "--debut_path", "data", "--output", "out", "--threads", "3"]
            words = (tmp_path / f"args_{task}").read_text().splitlines()
            assert words == [*expected, "--patch", "16"]
            seen += [row[0] for row in csv.reader((tmp_path / part).open())]
    assert seen == ["image", *names]
