# SPDX-License-Identifier: MIT
"""What every test shares: a quiet environment and the folder of real data."""

import os
from pathlib import Path

import pytest

import segsrgan  # noqa: F401 - sets the environment of TensorFlow, which tests may import first

# Read by the libraries when they are imported, hence set before any test module is.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_dir():
    """Return the folder of real data, beside the repository or named by SEGSRGAN_TEST_DATA."""
    named = os.environ.get("SEGSRGAN_TEST_DATA")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    if folder.is_dir():
        return folder
    if named:
        pytest.fail(f"SEGSRGAN_TEST_DATA names {folder}, which is no folder")
    pytest.skip(f"no real data in {folder}; name another folder in SEGSRGAN_TEST_DATA")


@pytest.fixture
def csv(tmp_path):
    """Return a function that writes a CSV file of a text, or bytes, and returns its path."""

    def write(content, encoding="utf-8"):
        path = tmp_path / "data.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return path

    return write


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Lets pytest-xdist send what a test has logged, file names that are not UTF-8 included."""
    report = yield
    plain = [text.encode("utf-8", "backslashreplace").decode() for _, text in report.sections]
    report.sections = [(name, text) for (name, _), text in zip(report.sections, plain, strict=True)]
    return report
