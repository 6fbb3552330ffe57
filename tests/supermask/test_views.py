# SPDX-License-Identifier: MIT
"""Reading the stacks of a patient, and what is wrong with them."""

import numpy as np
import pytest
from examinations import acquire, examination, reordered, stack_grid
from volumes.samples import EVEN, write_series

from segsrgan.errors import UserError, VolumeError
from segsrgan.volumes import Volume, write_volume
from supermask.geometry import rotation
from supermask.views import (
    View,
    check_together,
    choose_reference,
    read_view,
    with_unique_names,
)


def volume(shape=(6, 6, 4), spacing=(1, 1, 4), **place):
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    return Volume(values, spacing, **place)


def full(shape=(6, 6, 4), value=1.0, spacing=(1, 1, 4), origin=(0, 0, 0)):
    return Volume(np.full(shape, value, np.float32), spacing, origin)


@pytest.mark.parametrize(
    ("spacing", "direction", "plane"),
    [
        ((1, 1, 4), np.eye(3), "axial"),
        ((1, 4, 1), np.eye(3), "coronal"),
        ((4, 1, 1), np.diag([-1.0, 1, -1]), "sagittal"),
        ((1, 1, 4), np.eye(3)[:, [1, 2, 0]], "sagittal"),  # stored slice by slice
        ((1, 1, 4), rotation((0.5, 0.2, 0.3)), "axial"),
        ((1, 1, 1), np.eye(3), "isotropic"),
    ],
)
def test_the_header_says_which_plane_a_stack_is(spacing, direction, plane):
    assert View(volume((5, 5, 5), spacing, direction=direction)).plane == plane


def test_intensities_are_clipped_at_the_percentiles_and_scaled():
    values = np.arange(1000, dtype=np.float32).reshape(10, 10, 10)
    expected = np.clip((values - 19.98) / 959.04, 0, 1)
    np.testing.assert_allclose(View(Volume(values, (1, 1, 2))).scaled.array, expected, atol=1e-5)
    values[:] = 0
    values[0, 0, 0] = 5  # mostly one value: the contrast stays
    assert View(Volume(values, (1, 1, 2))).scaled.array.max() == 1


def test_masks_may_be_labels_probabilities_or_chosen_values(tmp_path, caplog):
    write_volume(volume(), tmp_path / "a.nii")
    values = np.zeros((6, 6, 4), np.float32)

    def read(*numbers, **options):
        values.ravel()[: len(numbers)] = numbers
        write_volume(volume().with_array(values), tmp_path / "m.nii")
        view = read_view(tmp_path / "a.nii", tmp_path / "m.nii", **options)
        return list(view.mask.array.ravel()[: len(numbers)])

    assert read(0, 1, 255) == [0, 1, 1]
    assert read(0.25, 1, 0) == [0.25, 1, 0]
    assert read(1, 2, 5, labels=(2, 5)) == [0, 1, 1]
    assert not caplog.text
    assert read(1, 2, 5, labels=(3, 42)) == [0, 0, 0]
    assert "m.nii: has none of the labels 3, 42, only 0, 1, 2, 5" in caplog.text


@pytest.mark.parametrize("labels", [None, (7,)])
def test_a_mask_without_background_is_refused_by_name(tmp_path, labels):
    write_volume(volume(), tmp_path / "a.nii")
    write_volume(full(value=7), tmp_path / "m.nii")
    with pytest.raises(UserError, match="m.nii: all its voxels, 7 to 7, belong to the object"):
        read_view(tmp_path / "a.nii", tmp_path / "m.nii", labels=labels)


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (["nothing"], VolumeError, "nothing.nii"),
        (["small", "no_mask"], VolumeError, "no_mask.nii"),
        (["nan"], UserError, "nan.nii: has voxels that are NaN"),
        (["vast"], UserError, "vast.nii: has voxels that are NaN or infinite, or beyond 1e.30"),
        (["flat"], UserError, "flat.nii: all voxels are 3"),
        (["scan", "scan"], UserError, "scan.nii: holds .* as an image has"),
    ],
)
def test_files_that_cannot_be_used_are_named(tmp_path, names, error, message):
    volumes = {
        "small": volume(),
        "nan": full(value=np.nan),
        "vast": full(value=1e31),
        "flat": full(value=3),
    }
    for name, content in {**volumes, "scan": acquire(stack_grid()).volume}.items():
        write_volume(content, tmp_path / f"{name}.nii")
    with pytest.raises(error, match=message):
        read_view(*(tmp_path / f"{name}.nii" for name in names))


def test_a_mask_that_lies_elsewhere_is_refused():
    assert View(volume(), full()).has_object
    assert not View(volume(), full(value=0)).has_object and not View(volume()).has_object
    with pytest.raises(UserError, match="its mask has as many voxels but lies up to 3.00 mm"):
        View(volume(), full(origin=(0, 0, 3)))
    with pytest.raises(UserError, match="its mask lies nowhere over it"):
        View(volume(), full((3, 3, 3), origin=(50, 0, 0)))


@pytest.mark.parametrize(
    ("order", "flips"), [((0, 1, 2), (True, True, False)), ((2, 0, 1), (False, True, False))]
)
def test_a_mask_may_be_stored_in_another_order_than_its_stack(order, flips):
    view = acquire(stack_grid())
    mask = reordered(view.mask, order, flips)
    grid = stack_grid(thick=3.0)
    found = View(view.volume, mask).mask_on(grid)
    np.testing.assert_allclose(found, view.mask_on(grid), atol=1e-5)
    # The voxels in another order, the header not.
    if order != (0, 1, 2):
        with pytest.raises(UserError, match="as many voxels but lies on another grid"):
            View(view.volume, Volume(mask.array, view.mask.spacing, view.mask.grid.origin))


def test_the_reference_is_axial_unless_asked_otherwise():
    sagittal, axial = examination(planes=("sagittal", "axial"))
    assert choose_reference([sagittal, axial]) == 1
    assert choose_reference([sagittal, axial], "sagittal") == 0
    assert choose_reference([sagittal]) == 0
    with pytest.raises(UserError, match="one of the views sagittal, axial, received 'cor"):
        choose_reference([sagittal, axial], "coronal")


def test_a_stack_of_one_slice_is_pointed_out_and_no_reference():
    sagittal, axial = examination(planes=("sagittal", "axial"))
    one = View(Volume(axial.volume.array[:, :, 5:6], (2, 2, 6), axial.grid.origin), path="one.nii")
    assert choose_reference([one, sagittal]) == 1 and choose_reference([one]) == 0
    (warning,) = check_together([one, sagittal])
    assert warning.startswith("one.nii: has 1 slice(s), which show little")
    (warning,) = check_together([View(axial.mask, axial.mask)])
    assert "axial stack: has only two values, as a mask does" in warning


def test_stacks_of_one_plane_have_names_of_their_own_and_are_pointed_out():
    assert check_together(examination()) == []
    views = examination(planes=("axial", "sagittal", "axial"))
    assert [view.name for view in with_unique_names(views)] == ["axial", "sagittal", "axial_2"]
    (warning,) = check_together(views)
    assert "0 degrees apart, both are axial; along that axis the result is as coarse" in warning
    tilted = acquire(stack_grid(direction=rotation((np.deg2rad(20), 0, 0))))
    (warning,) = check_together([acquire(stack_grid()), tilted])
    assert "20 degrees apart" in warning


def test_stacks_of_different_patients_are_refused(tmp_path):
    for name, patient in (("a", "17"), ("b", "17"), ("c", "18")):
        uid = f"1.2.{ord(name)}"
        write_series(tmp_path / name, EVEN, PatientID=patient, FrameOfReferenceUID=uid)
    a, b, c = (read_view(tmp_path / name) for name in "abc")
    assert (a.patient, c.patient) == ("17", "18")
    assert "a and" in (text := check_together([a, b])[0]) and "different frames of ref" in text
    with pytest.raises(UserError, match="a and .*c: are of different patients"):
        check_together([a, b, c])
    write_volume(a.volume, tmp_path / "a.nii")
    nameless = read_view(tmp_path / "a.nii")
    assert nameless.patient == "" and len(check_together([nameless, c])) == 1


def test_whose_a_series_is_its_own_files_say(tmp_path):
    write_series(tmp_path / "all", EVEN, PatientID="17")
    other = {"SeriesInstanceUID": "1.2.3.9", "SeriesNumber": 9, "PatientID": "18"}
    write_series(tmp_path / "all", EVEN, start=100, **other)
    first, second = (read_view(tmp_path / "all", series=name) for name in ("4", "9"))
    assert (first.patient, second.patient) == ("17", "18")
    (tmp_path / "below").mkdir()
    write_series(tmp_path / "below" / "deep", EVEN, **other)
    assert read_view(tmp_path / "below").patient == "18"


def test_stacks_that_do_not_meet_are_refused():
    views = View(volume()), View(volume(origin=(500, 0, 0)), path="b")
    with pytest.raises(UserError, match="b: do not meet anywhere in patient space"):
        check_together(views)


def test_a_mask_that_lies_over_a_part_of_its_stack_is_told():
    assert check_together([View(volume(), full())]) == []
    (text,) = check_together([View(volume(), full((3, 6, 4)), path="a.nii")])
    assert text.startswith("a.nii: its mask lies over 50 % of it; beyond that nothing is taken")
