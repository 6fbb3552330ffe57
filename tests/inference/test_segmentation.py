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
    assert read_volume(sr).array.shape == (16, 20, 18)


def test_every_keyword_of_the_released_code(image, outputs, tiny):
    cortex, sr = outputs
    result = segmentation(
        input_file_path=str(image()),
        step=8,
        new_resolution=1.5,
        path_output_cortex=str(cortex),
        path_output_hr=str(sr),
        weights_path=str(tiny),
        interpolation_type="Linear",
        patch="16",
        spline_order=1,
        by_batch=True,
        interp="sitk",
    )
    assert result.sr.spacing == (1.5, 1.5, 1.5)
    assert sr.is_file() and cortex.is_file()


def test_the_order_of_the_released_code_is_explained(image, outputs, tiny):
    cortex, sr = map(str, outputs)
    with pytest.raises(TypeError, match="order is the paper's.*by name"):
        segmentation(str(image()), 8, (1, 1, 1), cortex, sr, str(tiny), "Spline", 16)
    with pytest.raises(TypeError, match="cortex.nii.gz"):
        segmentation(image(), 8, (1, 1, 1), outputs[0], outputs[1], tiny, "Spline")


@pytest.mark.parametrize("patch", [None, "None"])
def test_without_a_patch_the_whole_image_goes_through(image, tiny, patch):
    assert segmentation(image(), None, 1, patch, weights_path=tiny).sr.array.shape == (16, 20, 18)


def test_the_masks_are_written_on_demand(image, tmp_path, weights):
    masks = tmp_path / "cortex_mask.nii", tmp_path / "mask.nii"
    result = segmentation(
        image(),
        new_resolution=1,
        patch=16,
        weights_path=weights("classes", mask_classes=3),
        path_output_cortex_mask=masks[0],
        path_output_mask=masks[1],
    )
    np.testing.assert_array_equal(read_volume(masks[0]).array, result.cortex_mask.array)
    np.testing.assert_array_equal(read_volume(masks[1]).array, result.mask.array)


def test_a_mask_is_not_asked_of_weights_without_one(image, tmp_path, tiny):
    with pytest.raises(UserError, match="mask head"):
        segmentation(image(), patch=16, weights_path=tiny, path_output_mask=tmp_path / "m.nii")


def test_options_of_the_predictor_pass_through(image, tiny):
    plain, other = (
        segmentation(image(), 4, 1, 16, weights_path=tiny, **options).sr.array
        for options in ({}, {"geometry": "legacy", "blend": "gaussian"})
    )
    assert np.abs(plain - other).max() > 0.1
    with pytest.raises(TypeError, match="no_such_option"):
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
    arguments = {
        "input_file_path": path,
        "step": 8,
        "new_resolution": 1,
        "patch": 16,
        "path_output_cortex": "cortex.nii",
        "weights_path": tiny,
    }
    with pytest.raises(error):
        segmentation(**(arguments | change))
    assert [item for item in tmp_path.rglob("*.nii*") if item != path] == []


@pytest.mark.parametrize("name", ["path_output_cortex", "path_output_hr"])
@pytest.mark.parametrize("through", ["scan", "link"])
def test_the_input_is_never_overwritten(image, tiny, name, through):
    path = image()
    (path.parent.parent / "link").symlink_to(path.parent)
    before, output = path.read_bytes(), path.parent.parent / through / path.name
    with pytest.raises(UserError, match="is the input"):
        segmentation(path, patch=16, new_resolution=1, weights_path=tiny, **{name: output})
    assert path.read_bytes() == before


def test_two_outputs_need_two_files(image, tiny, tmp_path):
    outputs = {
        "path_output_cortex": tmp_path / "a.nii",
        "path_output_hr": tmp_path / "scan" / ".." / "a.nii",
    }
    with pytest.raises(UserError, match="both cortex and sr"):
        segmentation(image(), patch=16, new_resolution=1, weights_path=tiny, **outputs)
    assert not (tmp_path / "a.nii").exists()
