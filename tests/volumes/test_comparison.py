# SPDX-License-Identifier: MIT
"""How two grids lie to each other, and that every command asks the one comparison."""

import itertools
import logging
import math

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from examinations import acquire, reordered, stack_grid
from training.samples import ball, problem, refusal, write_table
from volumes.samples import noise, rotation

from segsrgan.errors import UserError
from segsrgan.evaluation.run import align
from segsrgan.training.cases import read_cases
from segsrgan.volumes import Grid, Volume, read_volume, write_volume
from segsrgan.volumes.comparison import (
    OTHER,
    OTHER_FORM,
    REORDERED,
    SAME,
    SHIFTED,
    compare,
    described,
    match,
)
from supermask.views import check_together, read_view

SHAPE, SPACING, ORIGIN = (4, 5, 6), (1.0, 0.5, 2.0), (3.0, -7.0, 11.0)
ORDERS = list(
    itertools.product(itertools.permutations(range(3)), itertools.product((False, True), repeat=3))
)


def made(direction=None, origin=ORIGIN, shape=SHAPE, spacing=SPACING):
    return Volume(noise(shape), spacing, origin, np.eye(3) if direction is None else direction)


@pytest.mark.parametrize("turn", [0, 1], ids=["straight", "oblique"])
def test_every_order_of_axes_holds_the_same_voxels(turn):
    volume = made(rotation() if turn else None)
    for order, flips in ORDERS:
        stored = reordered(volume, order, flips)
        found, comparison = match(stored, volume.grid)
        assert np.array_equal(found.array, volume.array), (order, flips)
        assert found.grid.is_close(volume.grid, 1e-6)
        unchanged = order == (0, 1, 2) and not any(flips)
        assert comparison.kind == (SAME if unchanged else REORDERED)
        # A shift is found in every order, too.
        moved = Volume(
            stored.array, stored.spacing, np.add(stored.origin, (0, 0, 0.7)), stored.direction
        )
        assert compare(moved.grid, volume.grid)[:2] == (SHIFTED, pytest.approx(0.7))


@pytest.mark.parametrize(
    ("other", "kind", "shift"),
    [
        (made(origin=np.add(ORIGIN, 0.002)), SAME, 0.002 * math.sqrt(3)),
        (made(origin=np.add(ORIGIN, (0, 0.01, 0))), SHIFTED, 0.01),
        (made(spacing=(1.0, 0.5, 2.01)), SHIFTED, 0.05),
        (made(rotation((0, 0, 0.01))), SHIFTED, 0.01 * math.hypot(3, 2)),
        (made(origin=(30, 0, 0)), SHIFTED, math.hypot(27, 7, 11)),
        (made(spacing=(1.0, 0.5, 3.0)), OTHER, None),
        (made(shape=(4, 5, 7)), OTHER, None),
        (made(np.eye(3)[:, [2, 0, 1]]), OTHER, None),
    ],
)
def test_grids_are_the_same_shifted_by_a_distance_or_others(other, kind, shift):
    comparison = compare(other.grid, made().grid)
    assert comparison.kind == kind
    assert math.isnan(comparison.shift) if shift is None else True
    if shift is not None:
        assert comparison.shift == pytest.approx(shift, rel=1e-3)


def test_a_difference_is_told_with_both_geometries():
    text = "4 x 5 x 6 voxels of 1 x 0.5 x 2 mm, axes LPS, from (3, -7, 11) mm"
    assert described(made().grid) == text
    turned = rotation((0, 0, 0.2)) * [-1, 1, 1]
    assert "axes RPS (within 11 degrees)" in described(made(turned).grid)
    assert "axes IPL" in described(made(np.eye(3)[:, [2, 1, 0]] * [-1, 1, 1]).grid)
    eye = Grid(SHAPE, 1, (0, 0, 0), np.diag([-1.0, -1, 1]))
    words = compare(eye, made().grid).difference("its stack")
    default = "4 x 5 x 6 voxels of 1 x 1 x 1 mm, axes RAS, from (0, 0, 0) mm"
    expected = f"{default} (what programs write by default) against {text}"
    assert words == f"lies on another grid than its stack: {expected}"
    moved = compare(made(origin=(3, -7, 12)).grid, made().grid).difference()
    assert moved.startswith("lies up to 1.00 mm beside the image: 4 x 5")


def write_forms(path, volume, sform, qform):
    """A NIfTI file of a volume with two affines, None where it has not this form."""
    image = nibabel.Nifti1Image(volume.array, sform if qform is None else qform)
    image.set_qform(qform, int(qform is not None))
    image.set_sform(sform, int(sform is not None))
    nibabel.save(image, path)
    return path


FIRST, SECOND = (np.diag([2.0, 2, 6, 1]) for _ in range(2))
SECOND[:3, :3] = rotation((0.1, 0, 0.2)) @ SECOND[:3, :3]
SECOND[:3, 3] = (20, -30, 10)


@pytest.mark.parametrize(
    ("forms", "mask_forms", "owner"),
    [
        ((FIRST, SECOND), (SECOND, SECOND), "image.nii"),
        ((FIRST, SECOND), (None, SECOND), "image.nii"),
        ((FIRST, FIRST), (SECOND, FIRST), "mask.nii"),
    ],
)
def test_a_mask_written_by_the_other_form_lies_on_its_image(
    tmp_path, caplog, forms, mask_forms, owner
):
    volume = acquire(stack_grid())
    image = write_forms(tmp_path / "image.nii", volume.volume, *forms)
    path = write_forms(
        tmp_path / "mask.nii", reordered(volume.mask, (0, 1, 2), (1, 1, 0)), *mask_forms
    )
    grid, caplog.records[:] = read_volume(image).grid, []
    array = np.flip(volume.mask.array, (0, 1))
    placed, comparison = match(read_volume(path), grid, path, image)
    assert comparison.kind == OTHER_FORM and placed.grid.is_close(grid)
    assert np.array_equal(placed.array, array)
    warning = f"{path}: fits {image} by the other form (qform, sform) of {tmp_path / owner}, "
    assert f"{warning}{comparison.shift:.1f} mm away" in caplog.text and comparison.shift > 30
    view = read_view(image, path)
    assert np.array_equal(view.mask.array, array) and check_together([view]) == []
    assert align(read_volume(path), grid, 0, False, path, image)[1] == OTHER_FORM


@pytest.mark.parametrize("suffix", ["nii.gz", "nrrd"])
def test_a_mask_written_by_itk_lies_on_its_sheared_image(tmp_path, caplog, suffix):
    volume = acquire(stack_grid())
    sheared = FIRST.copy()
    sheared[:3, 2] += (0, 1.5, 0)
    image = write_forms(tmp_path / "image.nii", volume.mask, sheared, FIRST)
    itk = sitk.ReadImage(str(image))  # by its qform, as no grid of ITK is sheared
    path = tmp_path / f"mask.{suffix}"
    sitk.WriteImage(sitk.Flip(itk, (True, False, False)), str(path))
    expected = read_volume(image, labels=True)
    assert expected.array.shape != volume.mask.array.shape
    found, comparison = match(read_volume(path, labels=True), expected.grid, path, image)
    assert comparison.kind == OTHER_FORM and found.grid.is_close(expected.grid)
    assert np.array_equal(found.array, expected.array)
    assert f"{path}: fits {image} by the other form (qform, sform) of {image}" in caplog.text


def test_labels_that_are_stored_otherwise_or_a_little_beside_train_the_same(tmp_path, caplog):
    table, (_, label) = write_table(tmp_path), ball()
    mirrored = label.with_array(label.array * (np.arange(24) > 3)[:, None, None])
    half = mirrored.array > 0
    for stored in (
        reordered(mirrored, (2, 0, 1), (True, False, True)),
        Volume(mirrored.array, mirrored.spacing, (0.3, 0.2, 0), mirrored.direction),
    ):
        write_volume(stored, tmp_path / "label0.nii.gz")
        with caplog.at_level(logging.INFO):
            (case,) = read_cases(table).train
        np.testing.assert_array_equal(case.load(["Label_image"])[1]["Label_image"], half)
        np.testing.assert_array_equal(case.load_label("Label_image"), half)
    assert "label0.nii.gz: its axes are stored otherwise than those of" in caplog.text
    assert "label0.nii.gz: the label lies 0.36 mm beside" in caplog.text
    cropped = Volume(label.array[4:20], label.spacing, (-4, 0, 0), label.direction)
    write_volume(cropped, tmp_path / "label0.nii.gz")
    crop = "16 x 24 x 24 voxels of 1 x 1 x 1 mm, axes RAS, from (-4, 0, 0) mm against 24 x 24 x 24"
    assert problem(refusal(read_cases, table), crop, "resample the label onto the image")


def test_results_are_measured_in_any_order_and_others_are_refused_with_what_to_do():
    volume = made()
    for stored, how in ((volume, ""), (reordered(volume, (1, 2, 0), (0, 1, 1)), REORDERED)):
        array, found = align(stored, volume.grid, 0, False, "prediction.nrrd", "reference.nrrd")
        assert np.array_equal(array, volume.array) and found == how
    with pytest.raises(UserError) as caught:
        align(
            made(origin=(3, -6.5, 11)), volume.grid, 0, False, "prediction.nrrd", "reference.nrrd"
        )
    text = (
        "prediction.nrrd: lies up to 0.50 mm beside its reference reference.nrrd: 4 x 5 x 6 voxels"
    )
    assert str(caught.value).startswith(text) and "--resample puts it" in str(caught.value)


def test_a_mask_is_used_where_it_lies_less_than_half_a_slice_beside_its_stack(tmp_path):
    view = acquire(stack_grid())
    image, path = tmp_path / "image.nii", tmp_path / "mask.nii"
    write_volume(view.volume, image)
    origin = view.grid.origin + np.array([-0.4, 0.3, 1.1])
    write_volume(Volume(view.mask.array, view.mask.spacing, origin), path)
    (warning,) = check_together([read_view(image, path)])
    assert warning.startswith(f"{image}: its mask lies 1.2 mm beside it")
    nibabel.save(nibabel.Nifti1Image(view.mask.array, np.eye(4)), path)
    with pytest.raises(UserError, match=r"by default\) against .* of 2 x 2 x 6 mm.*save"):
        read_view(image, path)


def test_several_stacks_need_an_orientation(tmp_path):
    views = [acquire(stack_grid(plane)) for plane in ("axial", "sagittal")]
    paths = [tmp_path / f"{view.name}.nii" for view in views]
    for path, view in zip(paths, views, strict=True):
        write_forms(path, view.volume, *(None, None) if view is views[1] else (FIRST, FIRST))
    views = [read_view(path) for path in paths]
    check_together(views[1:])
    with pytest.raises(UserError, match=r"^\S*sagittal.nii: no orientation in the header"):
        check_together(views)
