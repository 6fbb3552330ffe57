# SPDX-License-Identifier: MIT
"""The command that says whether an installation is well."""

from types import SimpleNamespace

import numpy as np
import pytest

from segsrgan.cli.main import main


@pytest.fixture
def doctor(tiny, monkeypatch, capsys):
    """Return a function: the status of the command and what it printed, with tiny weights."""
    monkeypatch.setattr("segsrgan.networks.registry.default_weights", lambda: str(tiny))

    def run():
        status = main(["doctor"])
        return status, capsys.readouterr().out

    return run


def test_a_good_installation_is_well_and_each_engine_was_tried(doctor):
    status, out = doctor()
    assert status == 0 and out.splitlines()[-1] == "all is well"
    for words in (
        "tensorflow 2.",
        "extra dask (a cluster, --dask): ",
        "GiB free; oneDNN",
        "auto is",
    ):
        assert words in out
    assert "engine tensorflow: " in out and "s for a patch of 64 by " in out


def test_what_is_slow_or_missing_is_said(doctor, monkeypatch):
    monkeypatch.setattr("segsrgan.cli.doctor.available_memory", lambda: 1.0)
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    monkeypatch.setattr("segsrgan.cli.doctor.find_spec", lambda name: None)
    status, out = doctor()
    assert status == 0
    assert "advice: little memory is free" in out and "TF_ENABLE_ONEDNN_OPTS is 0" in out
    assert "not installed; pip install 'SegSRGAN[dicom]'" in out
    assert "OpenVINO is not installed" in out


def test_engines_that_fail_or_do_not_agree_are_wrong(doctor, monkeypatch):
    def make(generator, name):
        if name == "tensorflow":
            raise RuntimeError("no such symbol")
        return SimpleNamespace(predict_batch=lambda patches, resolution: patches)

    monkeypatch.setattr("segsrgan.inference.engines.make_engine", make)
    status, out = doctor()
    assert status == 1 and "wrong: engine tensorflow: RuntimeError: no such symbol" in out

    seeds = iter(range(9))

    def noisy(generator, name):
        seed = next(seeds)
        noise = np.random.default_rng(seed).random((1, 8, 8, 8, 2), np.float32)
        return SimpleNamespace(predict_batch=lambda patches, resolution: noise)

    monkeypatch.setattr("segsrgan.inference.engines.make_engine", noisy)
    status, out = doctor()
    assert status == 1 and "wrong: the engines do not agree" in out and "all is well" not in out


def test_damaged_weights_are_wrong(doctor, tmp_path, monkeypatch):
    (tmp_path / "bad.h5").write_bytes(b"nothing")
    monkeypatch.setattr(
        "segsrgan.networks.registry.default_weights", lambda: str(tmp_path / "bad.h5")
    )
    status, out = doctor()
    assert status == 1 and "bad.h5" in out
