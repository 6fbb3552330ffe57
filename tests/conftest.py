# SPDX-License-Identifier: MIT
"""What every test shares: a quiet environment and the folder of real data."""

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

import segsrgan  # noqa: F401 - sets the environment of TensorFlow, which tests may import first
from segsrgan.inference import markup

# Read by the libraries when they are imported, hence set before any test module is.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
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


@pytest.fixture
def small_viewer(request, monkeypatch, tmp_path):
    """Puts a small viewer in the place of ipyniivue's, unless a test asks for `real_viewer`."""
    markup.find_viewer.cache_clear()
    if "real_viewer" not in request.fixturenames:
        script = tmp_path / "widget.js"
        script.write_text("export default {}")
        package = {"version": "9.9", "locate_file": lambda name: script}
        package["read_text"] = lambda name: "<BSD>"
        monkeypatch.setattr(markup, "distribution", lambda name: SimpleNamespace(**package))


@pytest.fixture
def real_viewer():
    """Leaves ipyniivue's viewer in place."""
    if find_spec("ipyniivue") is None:
        pytest.skip("ipyniivue is not installed")


@pytest.fixture
def browse(tmp_path):
    """Return a function: what Chromium prints, and says on its console, of a changed page."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")

    def run(page, script="", style="", flags=("--dump-dom", "--virtual-time-budget=20000")):
        # What is left of the console is warnings and errors.
        head = f"{style}</style><script>console.log = () => {{}};</script>"
        text = page.read_text(encoding="utf-8").replace("</style>", head, 1)
        text = text.replace("</body>", f"<script>{script}</script></body>")
        (tmp_path / "shown.html").write_text(text, encoding="utf-8")
        gpu = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
        place = ("--no-sandbox", f"--user-data-dir={tmp_path / 'profile'}", "--window-size=900,600")
        done = subprocess.run(
            [CHROMIUM, "--headless=new", *gpu, *place, "--enable-logging=stderr", *flags]
            + [(tmp_path / "shown.html").as_uri()],
            capture_output=True,
            timeout=300,
        )
        said = done.stderr.decode(errors="replace").splitlines()
        return done.stdout.decode(), [line for line in said if "CONSOLE" in line]

    return run
