# SPDX-License-Identifier: MIT
"""The function of the paper's appendix, in both generations of its signature."""

import numpy as np
import pytest

from segsrgan.errors import UserError, VolumeError
from segsrgan.Function_for_application_test_python3 import segmentation
from segsrgan.volumes.reading import read_volume


@pytest.fixture
def outputs(tmp_path):
    return tmp_path / "cortex.nii.gz", tmp_path / "sr.nii.gz"


def test_the_order_of_the_paper(image, outputs, tiny):
    cortex, sr = outputs
    result = segmentation(str(image()), 8, (1, 1, 1), 16, str(cortex), str(sr), str(tiny))
    np.testing.assert_allclose(read_volume(cortex).array, result.cortex.array)
    np.testing.assert_allclose(read_volume(sr).array, result.sr.array)
    assert result.sr.array.shape == (16, 20, 18)


def test_every_keyword_of_the_released_code(image, outputs, tiny):
    cortex, sr = map(str, outputs)
    keywords = dict(step=8, new_resolution=1.5, patch="16", spline_order=1, by_batch=True)
    keywords |= dict(interpolation_type="Linear", interp="sitk")
    files = dict(path_output_cortex=cortex, path_output_hr=sr, weights_path=str(tiny))
    result = segmentation(input_file_path=str(image()), **keywords, **files)
    assert result.sr.spacing == (1.5, 1.5, 1.5)
    assert all(path.is_file() for path in outputs)


def test_the_order_of_the_released_code_is_explained(image, outputs, tiny):
    cortex, sr = map(str, outputs)
    with pytest.raises(TypeError, match="order is the paper's.*by name"):
        segmentation(str(image()), 8, (1, 1, 1), cortex, sr, str(tiny), "Spline", 16)
    with pytest.raises(TypeError, match="cortex.nii.gz"):
        segmentation(image(), 8, (1, 1, 1), outputs[0], outputs[1], tiny, "Spline")


@pytest.mark.parametrize("patch", [None, "None"])
def test_without_a_patch_the_whole_image_goes_through(image, tiny, patch):
    assert segmentation(image(), None, 1, patch, weights_path=tiny).sr.array.shape == (16, 20, 18)


def test_the_masks_are_written_on_demand(image, tmp_path, weights, tiny):
    path, classes = image(), weights("classes", mask_classes=3)
    paths = {f"path_output_{name}": tmp_path / f"{name}.nii" for name in ("cortex_mask", "mask")}
    result = segmentation(path, None, 1, 16, weights_path=classes, **paths)
    for name, volume in (("cortex_mask", result.cortex_mask), ("mask", result.mask)):
        written = read_volume(tmp_path / f"{name}.nii").array
        np.testing.assert_array_equal(written, volume.array)
    with pytest.raises(UserError, match="mask head"):
        segmentation(path, patch=16, weights_path=tiny, path_output_mask=tmp_path / "m.nii")


def test_options_of_the_predictor_pass_through(image, tiny):
    plain, *others = (
        segmentation(image(), 4, 1, 16, weights_path=tiny, **options).sr.array
        for options in ({}, {"geometry": "legacy", "blend": "gaussian"}, {"spline_order": 1})
    )
    for other in others:
        assert np.abs(plain - other).max() > 0.1
    with pytest.raises(UserError, match="no_such_option is not a setting"):
        segmentation(image(), patch=16, weights_path=tiny, no_such_option=1)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"patch": 18}, UserError),
        ({"step": 20}, UserError),
        ({"new_resolution": 0}, UserError),
        ({"path_output_hr": "sr.png"}, UserError),
        ({"path_output_hr": "no/such/folder/sr.nii"}, UserError),
        ({"input_file_path": "none.nii"}, VolumeError),
    ],
    ids=str,
)
def test_wrong_arguments_raise_and_write_nothing(image, tiny, tmp_path, monkeypatch, change, error):
    monkeypatch.chdir(tmp_path)
    path = image()
    arguments = {"input_file_path": path, "step": 8, "new_resolution": 1, "patch": 16}
    with pytest.raises(error):
        segmentation(**(arguments | change), path_output_cortex="cortex.nii", weights_path=tiny)
    assert [item for item in tmp_path.rglob("*.nii*") if item != path] == []


@pytest.mark.parametrize("name", ["path_output_cortex", "path_output_hr"])
def test_the_input_is_never_overwritten(image, tiny, tmp_path, name):
    path = image()
    (tmp_path / "link").symlink_to(path.parent)
    before = path.read_bytes()
    for output in (path, tmp_path / "link" / path.name):
        with pytest.raises(UserError, match="is the input"):
            segmentation(path, patch=16, new_resolution=1, weights_path=tiny, **{name: output})
    assert path.read_bytes() == before


def test_two_outputs_need_two_files(image, tiny, tmp_path):
    path, first, second = image(), tmp_path / "a.nii", tmp_path / "scan" / ".." / "a.nii"
    with pytest.raises(UserError, match="both cortex and sr"):
        segmentation(path, None, 1, 16, first, second, tiny)
    assert not (tmp_path / "a.nii").exists()
