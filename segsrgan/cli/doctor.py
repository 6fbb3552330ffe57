# SPDX-License-Identifier: MIT
"""The command `segsrgan doctor`: what is installed, which engine computes, and whether it works."""

import os
import platform
import sys
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from segsrgan import __version__
from segsrgan.cli.console import Parser, command, import_quietly
from segsrgan.config import ENGINES
from segsrgan.errors import UserError, one_line
from segsrgan.inference.engines import choose, graphics_card
from segsrgan.memory import GIB, available_memory

_PACKAGES = (
    *("tensorflow", "keras", "openvino", "numpy", "scipy", "SimpleITK", "nibabel", "pydicom"),
    *("scikit-image", "h5py"),
)
_EXTRAS = {
    "completion": ("argcomplete", "the shell completes commands"),
    "dask": ("distributed", "a cluster, --dask"),
    "dicom": ("highdicom", "DICOM results, --dicom"),
    "onnx": ("onnxruntime", "segsrgan export --format onnx"),
    "report": ("ipyniivue", "pages, --report"),
}
# Instructions of x86 processors that a network gains by, as Linux names them.
_FLAGS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "bfloat16", "amx_bf16": "AMX"}
_PATCH = 64
_SAME = 80.0  # dB of agreement between engines; all else is more than rounding
_LITTLE = 2.5 * GIB  # of memory, where the default patch of 128 may not fit


def build_parser():
    """The parser of the command line."""
    return Parser(
        prog="segsrgan doctor",
        description="Says what is installed, which engine would compute, and how fast; tries each\n"
        "engine on one patch. Paste its output into a bug report.",
        epilog="exit status: 0 all is well, 1 something is not, 2 it could not be done, 130 "
        "interrupted.",
    )


def _run(args):
    print(f"SegSRGAN {__version__}, Python {platform.python_version()} ({sys.executable})")
    print(f"{platform.platform()}, {_processor()}, {os.cpu_count()} threads")
    free, switch = available_memory(), os.environ.get("TF_ENABLE_ONEDNN_OPTS")
    state = "off" if switch == "0" else "on"
    print(f"memory: {free / GIB:.1f} GiB free; oneDNN in TensorFlow: {state}")
    print("packages: " + ", ".join(f"{name} {_version(name)}" for name in _PACKAGES))
    for extra, (module, use) in _EXTRAS.items():
        missing = f"not installed; pip install 'SegSRGAN[{extra}]'"
        print(f"extra {extra} ({use}): {'installed' if find_spec(module) else missing}")
    card = graphics_card()
    print(f"graphics card: {'found' if card else 'none'}; --engine auto is {choose()}")
    advice = []
    if switch == "0":
        advice.append(
            "TF_ENABLE_ONEDNN_OPTS is 0: unset it, TensorFlow is several times faster then"
        )
    if find_spec("openvino") is None and not card:
        advice.append("OpenVINO is not installed, so TensorFlow computes, half as fast")
    if platform.machine() in ("x86_64", "AMD64") and Path("/proc/cpuinfo").exists():
        if "AVX2" not in _processor():
            advice.append("the processor has no AVX2: a network takes several times as long")
    if free < _LITTLE:
        advice.append("little memory is free: take --patch 64, or close other programs")
    faults = _try_engines()
    for text in advice:
        print(f"advice: {text}")
    for text in faults:
        print(f"wrong: {text}")
    if not faults:
        print("all is well")
    return int(bool(faults))


def _processor():
    """The name of the processor and what it has of `_FLAGS`, as far as the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    found = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    found = {name.strip(): value.strip() for name, value in found.items()}
    flags = [text for flag, text in _FLAGS.items() if flag in found.get("flags", "").split()]
    return f"{found.get('model name', platform.machine())} ({', '.join(flags) or 'no AVX2'})"


def _version(name):
    for package in (name, f"{name}-cpu"):  # TensorFlow without graphics cards
        with suppress(PackageNotFoundError):
            return version(package)
    return "not installed"


def _try_engines():
    """Computes a patch by the default weights with each engine; returns what is wrong, texts."""
    from segsrgan.inference.engines import make_engine
    from segsrgan.inference.export import agreement, sample_patch
    from segsrgan.networks.registry import default_weights
    from segsrgan.networks.weights import read_generator

    name, faults, reference = default_weights(), [], None
    try:
        generator = read_generator(name)
    except UserError as error:
        return [one_line(error)]
    patch = sample_patch(_PATCH)
    for engine in ENGINES:
        if find_spec(engine) is None:
            continue
        try:
            if engine == "tensorflow":
                import_quietly("segsrgan.inference.engines.tensorflow")
            network = make_engine(generator, engine)
            output = network.predict_batch(patch, None)
            start = time.perf_counter()
            network.predict_batch(patch, None)
            seconds = time.perf_counter() - start
        except Exception as error:  # whatever a library raises is what is wrong
            faults.append(f"engine {engine}: {one_line(error)}")
            continue
        text = f"engine {engine}: {seconds:.2f} s for a patch of {_PATCH} by {name}"
        if reference is None:
            reference = output
        elif (same := agreement(reference, output)) < _SAME:
            faults.append(f"the engines do not agree: {same:.0f} dB; use another version of one")
        print(text)
    return faults


main = command(build_parser, _run)
