# SPDX-License-Identifier: MIT
"""What the package does before TensorFlow is loaded: oneDNN on, the start-up lines hidden."""

import subprocess
import sys

import pytest
from startup import start_up_lines, user_environment

NAME = "TF_ENABLE_ONEDNN_OPTS"


def run(*command, chosen=None):
    """Run Python in a process of its own, as a user who has or has not chosen oneDNN."""
    environment = user_environment()
    environment.pop(NAME, None)
    if chosen is not None:
        environment[NAME] = chosen
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize(
    ("module", "chosen", "expected"),
    [("segsrgan.cli.train", None, "1"), ("segsrgan", "0", "0"), ("supermask", None, "1")],
)
def test_onednn_is_on_unless_the_user_says_otherwise(module, chosen, expected):
    code = f"import os, {module}; print(os.environ['{NAME}'])"
    assert run("-c", code, chosen=chosen).stdout.strip() == expected


def test_tensorflow_says_something_at_its_start_that_commands_have_to_hide():
    assert start_up_lines(run("-c", "import segsrgan, tensorflow").stderr)


@pytest.mark.slow  # by default tests of killed jobs and trainings look for these lines, too
def test_an_export_hides_them_and_says_once_what_is_written(tmp_path):
    flags = f"export synthetic_unet_8 --format savedmodel --output {tmp_path / 'net'} --patch 16"
    said = run("-m", "segsrgan.cli.main", *flags.split()).stderr
    assert not start_up_lines(said) and said.count("written: ") == 1
