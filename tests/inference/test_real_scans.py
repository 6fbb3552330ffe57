# SPDX-License-Identifier: MIT
"""Scans as hospitals make them, through the command and a tiny network."""

import shutil

import numpy as np
import pytest

from segsrgan.volumes.reading import read_volume

# What is read, and its slice spacing in mm.
SCANS = [
    ("dicom/mixed_folder", 1.15),
    ("dicom/mixed_folder?T2", 2.5),
    ("dicom/sagittal_t1", 4.8),
    ("clinical/adult_flair_0.75x0.75x5.5.nii.gz", 5.5),
    ("fetal_stacks/sub-01_run-3_T2w.nii.gz", 3.3),
]


@pytest.fixture
def scan(data_dir, tmp_path):
    """Return a function that copies a file or folder of the real data and returns the copy."""

    def copy(name):
        path = tmp_path / "scan" / name.split("/")[-1]
        path.parent.mkdir()
        source = data_dir / name
        return (shutil.copytree if source.is_dir() else shutil.copyfile)(source, path)

    return copy


@pytest.mark.parametrize(("name", "slices"), SCANS)
def test_a_real_scan_runs_end_to_end(scan, table, job_model, capsys, name, slices):
    name, _, series = name.partition("?")
    path = scan(name)
    volume = read_volume(path, series or None)
    assert max(volume.spacing) == pytest.approx(slices, abs=0.05)
    flags = ["--series", series] if series else []
    resolution = 3.0  # coarse, to be quick
    assert job_model(table(path), *flags, patch="32", resolution=resolution) == 0
    errors = capsys.readouterr().err
    if name == "dicom/mixed_folder" and not series:  # the others are named
        assert "warning" in errors and "series" in errors
        assert job_model(table(path), "--series", "none", "--overwrite") == 1
        assert "series" in capsys.readouterr().err
    folder = path.parent / "Result_with_tiny" / "patch_32_step_16"
    sr = read_volume(folder / "SR_patch_32_step_16.nii.gz")
    cortex = read_volume(folder / "Cortex_patch_32_step_16.nii.gz")
    mask = read_volume(folder / "Cortex_mask_patch_32_step_16.nii.gz")
    expected = volume.grid.corner_aligned(resolution)
    for result in (sr, cortex, mask):
        assert result.grid.is_close(expected)
    assert np.isfinite(sr.array).all()
    assert cortex.array.min() >= 0 and cortex.array.max() <= 1
    np.testing.assert_array_equal(mask.array, cortex.array >= 0.5)
    # Results lie outside a DICOM folder: read again, it is what it was.
    assert read_volume(path, series or None).grid.is_close(volume.grid)
