# SPDX-License-Identifier: MIT
"""The documentation as a site, and that what it names exists: files, headings, targets, flags."""

import contextlib
import io
import json
import re
import subprocess
import sys
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from segsrgan.cli.main import _COMMANDS

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDERS = ("", "docs/**/", "weights/", "Test_package_and_local/", "benchmarks/**/")
PAGES = sorted(path for folder in FOLDERS for path in REPOSITORY.glob(f"{folder}*.md"))
RESULTS = REPOSITORY / "benchmarks" / "results"
# Module and function of the commands; the flags of `segsrgan weights` are its subcommands'.
COMMANDS = {
    "job_model.py": "job_model",
    "SegSRGAN_training.py": "train",
    "supermask-bids": "supermask_bids",
    "supermask-predict": "supermask_predict",
    "supermask-simulate": "supermask_simulate",
    "supermask-train": "train:supermask_main",
    **{f"segsrgan {n}": f"{m}:{f}" for n, (m, f, _) in _COMMANDS.items() if n != "weights"},
}
# Flags of other programs, in commands that the pages quote.
FOREIGN = {
    *("--logdir", "--nthreads", "--scheduler-file", "--nodes", "--depth", "--array", "--mem"),
    *("--rm", "--entrypoint", "--build-arg", "--network", "--bind", "--python-code"),
}
PACKAGES = ["segsrgan", "supermask", "supermask.training"]
PACKAGES += [f"segsrgan.{name}" for name in ("inference", "volumes", "networks", "evaluation")]
page = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))


def anchors(path):
    """The anchors of a page's headings, as GitHub makes them, and its own."""
    text = path.read_text(encoding="utf-8")
    heads = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M), re.M)
    made = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
    return made | set(re.findall(r'<a id="([^"]+)"', text))


@cache
def help_of(module, *words):
    """The `--help` of a command or benchmark, of `module` or `module:function`."""
    name, _, function = module.partition(":")
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        getattr(import_module(name), function or "main")([*words, "--help"])
    return text.getvalue()


@cache
def make_targets():
    done = subprocess.run(["make", "help"], cwd=REPOSITORY, capture_output=True, encoding="utf-8")
    return set(re.findall(r"^ *([A-Za-z_-]+) ", done.stdout, re.M))


def flags_of(text):
    return set(re.findall(r"(?<![\w-])--[A-Za-z][\w-]*", text))


@cache
def known_flags():
    """Every flag of a command, a benchmark or a make variable's."""
    from benchmarks.__main__ import BENCHMARKS

    texts = [help_of(f"segsrgan.cli.{module}") for module in sorted(set(COMMANDS.values()))]
    texts.append(help_of("segsrgan.cli.weights", "convert"))
    texts += [help_of("benchmarks.__main__", name) for name in BENCHMARKS]
    return set().union(*map(flags_of, texts)) | FOREIGN


def quoted_commands(text):
    """`(name, its words)` of the commands that code blocks and code spans of a page begin with."""
    text = re.sub(r"\\\n\s*", " ", text)
    blocks = re.findall(r"^```\n(.*?)^```", text, re.S | re.M)
    spans = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))
    for line in [line for block in blocks for line in block.splitlines()] + spans:
        for name in COMMANDS:
            if line.startswith(f"{name} "):
                yield name, line.partition("#")[0]


@page
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@page
def test_files_and_targets_that_are_named_exist(path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"(?:`|^)make ([a-z_]+)(?!=)\b", text, re.M):
        assert target in make_targets(), target
    pattern = r"`((?:segsrgan|supermask|benchmarks|docs|weights|tests)/[\w./]+)`"
    for name in re.findall(pattern, text):
        assert path.name == "CHANGELOG.md" or (REPOSITORY / name).exists(), name


@page
def test_flags_that_are_named_exist(path):
    text = path.read_text(encoding="utf-8")
    if path.name == "CHANGELOG.md":  # of older versions, which may have had other flags
        text = text[: text.index("## [3.0.0]")]
    spans = re.findall(r"`(?!python benchmarks/)[^`]+`", text)
    named = set().union(*map(flags_of, spans)) if spans else set()
    assert named <= known_flags()
    for name, line in quoted_commands(text):
        known = flags_of(help_of(f"segsrgan.cli.{COMMANDS[name]}"))
        assert flags_of(line) <= known, line


def tables(benchmark, result):
    """The tables that a benchmark makes of the figures of a result."""
    report = json.loads((RESULTS / f"{result}.json").read_text(encoding="utf-8"))
    return import_module(f"benchmarks.{benchmark}").tables(report).strip()


@pytest.mark.parametrize("path", sorted(RESULTS.glob("[!R]*.md")), ids=lambda path: path.stem)
def test_the_tables_of_results_are_those_of_their_figures(path):
    benchmark = "supermask" if path.stem.startswith("supermask") else "paper"
    assert path.read_text(encoding="utf-8").strip() == tables(benchmark, path.stem)


@pytest.mark.parametrize(
    ("benchmark", "result", "page"),
    [
        ("inference", "inference", "docs/results/speed.md"),
        ("supermask_speed", "supermask_speed", "docs/results/speed.md"),
        ("weights", "weights", "weights/README.md"),
        ("paper", "steps", "docs/results/segsrgan.md"),
        ("supermask_image", "supermask_image", "docs/results/supermask.md"),
        ("thickness", "thickness", "docs/results/segsrgan.md"),
        ("verdict", "verdict", "docs/results/segsrgan.md"),
    ],
)
def test_the_figures_of_the_pages_are_those_of_the_results(benchmark, result, page):
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    made = figures(tables(benchmark, result))
    # Of MONAI's first job the page gives only a bound: its memory is that of the process before.
    assert len(made) > 4 and len(made - figures(text)) <= (benchmark == "inference")


def figures(text):
    """The last three figures of each row of the tables of a page."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    numbers = [[cell.strip() for cell in row if re.match(r" *[+-]?\d", cell)] for row in rows]
    return {tuple(row[-3:]) for row in numbers if len(row) > 1}


def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    for module in ("material", "mkdocstrings_handlers.python"):
        pytest.importorskip(module, reason="the site needs SegSRGAN[docs]")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    loaded = r"<(?:script|img|iframe)[^>]* src=.?https?:|<link[^>]*stylesheet[^>]*https?:"
    for name in ("index", "tutorial", "use/report", "weights/index", "reference/supermask"):
        text = (tmp_path / f"{name}.html").read_text(encoding="utf-8")
        assert not re.search(loaded, text), name
    assert 'id="supermask.results.predict"' in text
    assert '<details class="example"' not in text, "a section of a docstring is called Examples"


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_stand_in_the_reference(package):
    pages = (REPOSITORY / "docs" / "reference").glob("*.md")
    text = "\n".join(path.read_text(encoding="utf-8") for path in pages)
    listed = re.findall(r"^::: (\S+)\.(\w+)$", text, re.M)
    module = import_module(package)
    for name in set(module.__all__) - {"__version__"}:
        thing = getattr(module, name)
        homes = [home for home, other in listed if other == name]
        assert any(getattr(import_module(home), name) is thing for home in homes), name


def test_the_tutorial_is_kept_without_results():
    notebook = json.loads((REPOSITORY / "docs" / "tutorial.ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert code and not any(cell["outputs"] or cell["execution_count"] for cell in code)
