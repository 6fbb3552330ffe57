# SPDX-License-Identifier: MIT
"""NIfTI, Analyze and MGH: compared with nibabel and SimpleITK; written whole or not at all."""

import errno
import gzip
import io
import logging
import os
import re
import struct
import zlib

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from volumes.samples import DIRECTIONS, noise, rotation

from segsrgan.errors import VolumeError
from segsrgan.files import temporary_beside
from segsrgan.volumes import Grid, Volume, read_volume, write_volume
from segsrgan.volumes.comparison import reordered
from segsrgan.volumes.nifti import other_grid, read_nifti, write_gzip
from segsrgan.volumes.reading import read_with_source
from segsrgan.volumes.resampling import degrade, legacy_resample, resample

FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS <-> LPS
PIXDIM, SFORM_CODE = 76, 254  # byte offsets in a NIfTI-1 header


def affine(grid):
    """RAS affine of a grid, as nibabel has it."""
    matrix = np.eye(4)
    matrix[:3, :3] = grid.direction * grid.spacing
    matrix[:3, 3] = grid.origin
    return FLIP @ matrix


def save(path, array, sform=None, qform=None, kind=nibabel.Nifti1Image, **header):
    image = kind(array, None)
    image.header.set_zooms((1.0, 2.0, 3.0, *[1.0] * (array.ndim - 3)))
    image.set_qform(qform, 1 if qform is not None else 0)
    image.set_sform(sform, 1 if sform is not None else 0, update_affine=True)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def patch(path, offset, form, *values):
    """Overwrite bytes of an uncompressed header."""
    raw = bytearray(path.read_bytes())
    struct.pack_into(form, raw, offset, *values)
    path.write_bytes(raw)
    return path


def itk_grid(path):
    itk = sitk.ReadImage(str(path))
    return Grid(itk.GetSize(), itk.GetSpacing(), itk.GetOrigin(), itk.GetDirection())


VOLUME, CUBE = Volume(noise((5, 6, 70)), (1, 1, 3)), np.ones((2, 2, 2))
UPRIGHT = np.diag([1.0, 2, 3, 1])
RAS = np.array([[0, 2.0, 0, -9], [1.0, 0, 0, 5], [0, 0, -3.0, 7], [0, 0, 0, 1]])


# About half a turn a quaternion loses digits.
TURNS = {f"{turn}": rotation(np.deg2rad([turn, 0, 30])) for turn in (179.99, 180, 180.01)}


@pytest.mark.parametrize("direction", (DIRECTIONS | TURNS).values(), ids=DIRECTIONS | TURNS)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_written_geometry_is_that_of_other_programs(tmp_path, direction, suffix):
    volume = Volume(noise((5, 6, 7)), (0.5, 0.7, 3.3), (-90.1, 126.3, -72.7), direction)
    path = tmp_path / f"a{suffix}"
    write_volume(volume, path)
    image = nibabel.load(path)
    assert np.array_equal(image.get_fdata(dtype=np.float32), volume.array)
    assert image.affine == pytest.approx(affine(volume.grid), abs=1e-4)
    assert image.get_qform() == pytest.approx(affine(volume.grid), abs=1e-3)
    assert (image.header["sform_code"], image.header["qform_code"]) == (1, 1)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert itk_grid(path).is_close(volume.grid)
    back = read_volume(path)
    assert back.grid.is_close(volume.grid)
    assert np.array_equal(back.array, volume.array) and back.array.flags.c_contiguous


@pytest.mark.parametrize(
    ("sform", "qform", "expected"), [(4, 1, 4), (2, 0, 2), (0, 3, 3), (0, 0, 1), (7, 1, 1)]
)
def test_the_code_of_the_form_that_is_taken_is_kept_by_all_that_is_made_of_it(
    tmp_path, sform, qform, expected
):
    path = save(tmp_path / "a.nii", CUBE, UPRIGHT, UPRIGHT)
    volume = read_volume(patch(path, SFORM_CODE - 2, "<hh", qform, sform))
    grid = Grid((3, 3, 3), direction=np.eye(3)[[1, 0, 2]])
    for made in (
        volume.with_array(CUBE.astype(np.uint8)),
        resample(volume, 0.5),
        resample(volume, 0.5, "sitk"),
        legacy_resample(volume, 0.5),
        degrade(volume, 6),
        reordered(volume, grid),
    ):
        write_volume(made, tmp_path / "b.nii")
        header = nibabel.load(tmp_path / "b.nii").header
        assert (header["sform_code"], header["qform_code"]) == (expected, expected)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("form", ["sform", "qform"])
@pytest.mark.parametrize("flip", [1, -1])
def test_reading_agrees_with_nibabel_and_says_nothing(tmp_path, caplog, kind, form, flip):
    array = noise((4, 5, 6))
    path = save(tmp_path / "a.nii.gz", array, kind=kind, **{form: RAS * [1, 1, flip, 1]})
    with caplog.at_level(logging.INFO):
        volume = read_volume(path)
    assert affine(volume.grid) == pytest.approx(nibabel.load(path).affine, abs=1e-5)
    assert np.array_equal(volume.array, array) and not caplog.text


@pytest.mark.parametrize("dtype", "u1 i1 <i2 >i2 <u2 <i4 <u4 <i8 >f4 <f8".split())
def test_every_scalar_type_and_byte_order(tmp_path, dtype):
    array = (noise((4, 5, 6)) * 100).astype(dtype)
    header = nibabel.Nifti1Header(endianness=">" if dtype[0] == ">" else "<")
    header.set_data_dtype(array.dtype)
    nibabel.save(nibabel.Nifti1Image(array, RAS, header), tmp_path / "a.nii")
    found = read_volume(tmp_path / "a.nii").array
    assert found.dtype == np.float32 and np.array_equal(found, array.astype(np.float32))


def test_intensities_are_scaled_by_slope_and_intercept(tmp_path):
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    path = save(tmp_path / "a.nii", array)
    assert read_volume(patch(path, 112, "<2f", 0.25, 7)).array == pytest.approx(array * 0.25 + 7)
    for slope in (0, np.nan):
        assert read_volume(patch(path, 112, "<2f", slope, 7)).array == pytest.approx(array)


def test_the_sform_wins_over_qform_and_pixdim(tmp_path, caplog):
    path = save(tmp_path / "a.nii", noise((4, 5, 6)), sform=RAS, qform=UPRIGHT)
    patch(path, PIXDIM + 4, "<3f", 2, 1, 3)
    assert affine(read_volume(path).grid) == pytest.approx(RAS, abs=1e-5)
    assert "taking the sform" in caplog.text  # 1 x 2 x 3 mm


@pytest.mark.parametrize(("code", "unit"), [(3, 1e3), (1, 1e-3), (2, 1), (0, 1), (5, 1)])
def test_micrometres_and_metres_become_mm(tmp_path, caplog, code, unit):
    path = save(tmp_path / "a.nii", noise((4, 5, 6)), sform=RAS * [[unit], [unit], [unit], [1]])
    patch(path, 123, "B", code)
    patch(path, PIXDIM + 4, "<3f", unit, 2 * unit, 3 * unit)
    assert affine(read_volume(path).grid) == pytest.approx(RAS, abs=1e-4)
    assert ("xyzt_units = 5 is no unit of length; taking mm" in caplog.text) == (code == 5)


# The third axis leans within the plane of the first two; or the second leans, too.
TILTED = np.array([[1, 0, 0.3, -9], [0, 2.0, 0, 5], [0, 0, 3.0, 7], [0, 0, 0, 1]])
BENT = np.array([[1, 0.3, 0.3, -9], [0, 2.0, 0.4, 5], [0, 0, 3.0, 7], [0, 0, 0, 1]])
TURNED = np.eye(4)
TURNED[:3] = np.column_stack([rotation([0, 0, 0.3]) @ UPRIGHT[:3, :3], (-9, 5, 7)])


@pytest.mark.parametrize(
    ("sform", "code", "qform", "taken"),
    [
        (TURNED, 1, UPRIGHT, "sform"),
        (TURNED, 2, UPRIGHT, "sform"),
        (TILTED, 1, UPRIGHT, "sform"),
        (TILTED, 2, TILTED, "sform"),  # nibabel stores the nearest rotation
        (TILTED, 2, UPRIGHT, "qform"),  # an affine registration
        (BENT, 1, UPRIGHT, "qform"),  # no scanner does that
    ],
)
def test_of_two_forms_the_one_that_a_scanner_makes_is_taken(
    tmp_path, caplog, sform, code, qform, taken
):
    image = nibabel.Nifti1Image(noise((21, 11, 31)), None)
    image.set_sform(sform, code)
    image.set_qform(qform, 1)
    nibabel.save(image, tmp_path / "a.nii")
    volume, other = read_volume(tmp_path / "a.nii"), other_grid(tmp_path / "a.nii")
    corners = np.array([(*corner, 1) for corner in np.ndindex(2, 2, 2)]) * [20, 10, 30, 1]
    apart = np.linalg.norm(corners @ (sform - image.get_qform()).T, axis=1).max()
    assert f"place voxels up to {apart:.1f} mm apart; taking the {taken}" in caplog.text
    assert ("(the other is sheared or impossible)" in caplog.text) == (taken == "qform")
    if taken == "qform":
        assert affine(volume.grid) == pytest.approx(image.get_qform(), abs=1e-4)
        assert other is None  # there is no grid of a sheared form
        return
    assert affine(other) == pytest.approx(image.get_qform(), abs=1e-4)
    assert ("sheared (a tilted gantry)" in caplog.text) == (sform is TILTED)
    if sform is TURNED:
        assert affine(volume.grid) == pytest.approx(TURNED, abs=1e-4)
    else:
        assert volume.spacing == pytest.approx((1, 2, 3)) and volume.array.shape == (30, 11, 31)


def test_forms_that_agree_to_half_a_voxel_are_one(tmp_path, caplog):
    shifted = RAS + np.outer([0, 1, 0, 0], [0, 0, 0, 0.4])
    path = save(tmp_path / "a.nii", noise((4, 5, 6)), sform=RAS, qform=shifted)
    assert affine(read_volume(path).grid) == pytest.approx(RAS, abs=1e-5)
    assert other_grid(path) is None and not caplog.text
    assert other_grid(save(tmp_path / "b.nii", CUBE, sform=RAS)) is None


@pytest.mark.parametrize("sizes", [(0, 0, 0), (2, 1, 0), (-2, 1, 3), (1, 1, np.nan)])
def test_pixdim_is_not_needed_beside_a_sform(tmp_path, caplog, sizes):
    path = save(tmp_path / "a.nii", noise((4, 5, 6)), sform=RAS)
    patch(path, PIXDIM + 4, "<3f", *sizes)
    assert affine(read_volume(path).grid) == pytest.approx(RAS, abs=1e-5)
    assert "by pixdim; taking the sform" in caplog.text


def test_a_sform_without_scale_is_named(tmp_path, caplog):
    path = save(tmp_path / "a.nii", noise((4, 5, 6)), sform=np.eye(4))
    assert read_volume(path).spacing == (1, 1, 1)
    text = "voxel size 1 x 1 x 1 mm by its sform but 1 x 2 x 3 by pixdim; taking the sform (which"
    assert f"{text} has no scale, the scan would be isotropic)" in caplog.text


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.AnalyzeImage])
def test_without_orientation_itk_is_followed_with_a_warning(tmp_path, caplog, kind):
    path = tmp_path / ("a.nii" if kind is nibabel.Nifti1Image else "a.hdr")
    nibabel.save(kind(noise((4, 5, 6)), None), path)
    patch(path, PIXDIM + 4, "<3f", 1, 2, 3)
    grid = read_volume(path).grid
    assert grid.spacing == (1, 2, 3) and grid.is_close(itk_grid(path), 1e-6)
    assert "its header has no orientation; taking LPS axes" in caplog.text
    patch(path, PIXDIM + 4, "<3f", -1, 2, 3)  # as SPM marks a flip
    assert read_volume(path).grid.is_close(grid)
    assert "pixdim = -1 x 2 x 3 mm; taking its absolute values" in caplog.text
    patch(path, PIXDIM + 4, "<3f", 1, 2, 0)
    with pytest.raises(VolumeError, match="pixdim = 1 x 2 x 0 mm; repair the voxel size"):
        read_volume(path)


def test_which_files_hold_an_orientation(tmp_path):
    save(tmp_path / "a.nii", CUBE)
    save(tmp_path / "b.nii", CUBE, qform=UPRIGHT)
    nibabel.save(nibabel.AnalyzeImage(CUBE.astype("i2"), None), tmp_path / "c.img")
    nibabel.save(nibabel.MGHImage(CUBE.astype("f4"), UPRIGHT), tmp_path / "d.mgz")
    for name in ("e.nrrd", "f.mha"):
        sitk.WriteImage(sitk.Image(4, 4, 4, sitk.sitkUInt8), tmp_path / name)
    for name, whole, line, less in (
        ("g.nrrd", "e.nrrd", rb"space: .*", b"space dimension: 3"),
        ("h.nrrd", "e.nrrd", rb"space directions: .*", b"spacings: 1 1 1"),
        ("i.mha", "f.mha", rb"TransformMatrix = .*\n", b""),
    ):
        (tmp_path / name).write_bytes(re.sub(line, less, (tmp_path / whole).read_bytes()))
    files = [path for path in sorted(tmp_path.iterdir()) if path.suffix != ".hdr"]
    found = {path.name[0]: read_with_source(path)[1].is_oriented for path in files}
    assert [name for name, is_oriented in found.items() if is_oriented] == ["b", "d", "e", "f"]


def test_questions_about_a_damaged_file_are_refused_as_its_reading_is(tmp_path):
    path = save(tmp_path / "a.nii.gz", CUBE)
    path.write_bytes(path.read_bytes()[:50])
    for question in (read_volume, other_grid):
        with pytest.raises(VolumeError, match=r"a\.nii\.gz: the compressed file is truncated or"):
            question(path)
        with pytest.raises(VolumeError, match=r"b\.nii: (cannot be read|no such file)"):
            question(tmp_path / "b.nii")


@pytest.mark.parametrize("lowest", [0, -2])
def test_nan_around_a_head_is_background(tmp_path, caplog, lowest):
    array = np.full((6, 7, 8), np.nan, np.float32)
    array[2:5, 2:5, 2:5] = head = noise((3, 3, 3)) * 5 + 1 + lowest * 3
    expected = np.where(np.isnan(array), min(0, head.min()), array)
    for labels in (False, True):
        found = read_volume(save(tmp_path / "a.nii", array, sform=RAS), labels=labels).array
        np.testing.assert_array_equal(found, expected)
    assert "a.nii: 309 of 336 voxels are NaN, from the border on" in caplog.text
    array[3, 3, 3] = np.nan  # that is no background
    found = read_volume(save(tmp_path / "a.nii", array, sform=RAS)).array
    assert np.isnan(found).sum() == 1
    array[:] = np.nan
    assert np.isnan(read_volume(save(tmp_path / "a.nii", array, sform=RAS)).array).all()


@pytest.mark.parametrize("kind", [nibabel.AnalyzeImage, nibabel.Nifti1Pair])
@pytest.mark.parametrize(
    "names", ["a.hdr a.img", "a.HDR a.IMG", "a.hdr a.IMG", "A.hdr a.Img", "a.hdr.gz a.img.gz"]
)
def test_pairs_are_read_by_either_file(tmp_path, kind, names):
    array = noise((4, 5, 6))
    nibabel.save(kind(array, np.diag([-1.0, 2, 3, 1])), tmp_path / "x.img")
    expected = itk_grid(tmp_path / "x.hdr")
    pair = [tmp_path / name for name in names.split()]
    for path, suffix in zip(pair, (".hdr", ".img"), strict=True):
        raw = (tmp_path / f"x{suffix}").read_bytes()
        path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    for path in pair:
        assert np.array_equal(read_volume(path).array, array)
        assert read_volume(path).grid.is_close(expected)


MAGIC, VOX_OFFSET, BITPIX = 344, 108, 72
INTEGERS = (noise((4, 5, 6)) * 100).astype(np.int16)  # 240 bytes


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("magic", "offset", "more", "warning"),
    [
        (b"ni1", 0, 0, "magic 'ni1' and vox_offset 0 in a single file of 592 bytes; taking the"),
        (b"ni1", 352, 0, "magic 'ni1' and vox_offset 352 in a single file"),
        (b"n+1", 0, 0, "magic 'n+1' and vox_offset 0 in a single file"),
        (b"n+1", 352, 16, "has 16 more; check dim and datatype"),
    ],
)
def test_the_voxels_of_a_single_file_follow_its_header(
    tmp_path, caplog, magic, offset, more, warning, packed
):
    path = save(tmp_path / "a.nii", INTEGERS, sform=RAS)
    patch(patch(path, MAGIC, "4s", magic), VOX_OFFSET, "<f", offset)
    raw = path.read_bytes() + bytes(more)
    path.write_bytes(gzip.compress(raw) if packed else raw)
    assert np.array_equal(read_volume(path).array, INTEGERS) and warning in caplog.text


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_voxels_begin_behind_an_extension(tmp_path, caplog, kind):
    image = kind(INTEGERS, RAS)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(6, b"text" * 9))
    nibabel.save(image, path := tmp_path / "a.nii")
    assert np.array_equal(read_volume(path).array, INTEGERS) and not caplog.text
    is_first = kind is nibabel.Nifti1Image
    place, form, start = (VOX_OFFSET, "<f", 352) if is_first else (168, "<q", 544)
    assert np.array_equal(read_volume(patch(path, place, form, start)).array, INTEGERS)
    assert f"vox_offset {start} in a single file" in caplog.text
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(VolumeError, match=f"240 bytes of voxels begin at {start + 48} or later"):
        read_volume(path)
    flag = patch(save(path, INTEGERS, sform=RAS), 348, "B", 1)  # of no extension
    assert np.array_equal(read_volume(flag).array, INTEGERS)


@pytest.mark.parametrize("more", [b"\n", b"garbage", bytes(9) + b"x"])
def test_what_follows_compressed_data_is_ignored_as_gunzip_does(tmp_path, caplog, more):
    path = save(tmp_path / "a.nii.gz", VOLUME.array, sform=RAS)
    path.write_bytes(path.read_bytes() + more)
    assert np.array_equal(read_volume(path).array, VOLUME.array)
    assert f"{path}: ignoring what follows the compressed data" in caplog.text


OTHER_HALVES = {
    "another image": (bytes(480), "holds 240 more; give the two halves of one image"),
    "a whole file": (bytes(352) + INTEGERS.tobytes(), "holds 352 more; give the two halves"),
    "smaller": (bytes(239), "truncated, expected 240 bytes"),
    "page": (b"<html>404</html>", "a.img: expected the other half of a pair, received a web page"),
    "annex": (b"/annex/objects/MD5E-s2\n", "a.img: .* a git-annex pointer; fetch"),
}


@pytest.mark.parametrize(("content", "match"), OTHER_HALVES.values(), ids=OTHER_HALVES)
@pytest.mark.parametrize("kind", [nibabel.AnalyzeImage, nibabel.Nifti1Pair])
def test_the_other_half_of_a_pair_is_that_of_the_same_image(tmp_path, kind, content, match):
    nibabel.save(kind(INTEGERS, None), tmp_path / "a.img")
    (tmp_path / "a.img").write_bytes(content)
    with pytest.raises(VolumeError, match=match):
        read_volume(tmp_path / "a.hdr")
    (tmp_path / "a.img").unlink()
    (tmp_path / "a.img").symlink_to("../.git/annex/objects/x")
    with pytest.raises(VolumeError, match="its other half a.img is a git-annex link"):
        read_volume(tmp_path / "a.hdr")


@pytest.mark.parametrize(("offset", "more"), [(0, 0), (352, 0), (352, 352), (352, 8)])
def test_a_pair_may_call_itself_a_single_file(tmp_path, caplog, offset, more):
    nibabel.save(nibabel.Nifti1Pair(INTEGERS, RAS), tmp_path / "a.img")
    patch(patch(tmp_path / "a.hdr", MAGIC, "4s", b"n+1"), VOX_OFFSET, "<f", offset)
    (tmp_path / "a.img").write_bytes(bytes(more) + INTEGERS.tobytes(order="F"))
    if more == 8:
        with pytest.raises(VolumeError, match=r"magic 'n\+1' and vox_offset 352 in a .hdr/.img"):
            read_volume(tmp_path / "a.hdr")
        return
    assert np.array_equal(read_volume(tmp_path / "a.hdr").array, INTEGERS)
    assert f"in a .hdr/.img pair of {240 + more} bytes; taking the voxels from" in caplog.text


FIELDS = {  # offset, format, values: what is said
    "extension": (
        VOX_OFFSET,
        "<f",
        [0],
        b"x" * 16,
        r"'n\+1' and vox_offset 0 in a .* of 608 bytes",
    ),
    "no magic": (MAGIC, "4s", [b""], b"", r"magic is b'' instead of b'n\+1' \(vox_offset says 352"),
    "beyond": (VOX_OFFSET, "<f", [353], b"", "truncated, expected 593 bytes"),
    "far beyond": (VOX_OFFSET, "<f", [1e30], b"", "truncated, expected"),
    "vox_offset nan": (VOX_OFFSET, "<f", [np.nan], b"", "vox_offset = nan"),
    "vox_offset < 0": (VOX_OFFSET, "<f", [-352], b"", "vox_offset = -352"),
    "vox_offset half": (VOX_OFFSET, "<f", [352.5], b"", "vox_offset = 352.5"),
    "huge": (40, "<4h", [3, 32767, 32767, 32767], b"", "truncated, expected 703623"),
    "negative": (40, "<4h", [3, 4, -5, 6], b"", r"dim = \[3, 4, -5, 6\]"),
    "slices": (
        40,
        "<5h",
        [4, 4, 5, 1, 6],
        b"",
        r"4-D \(4, 5, 1, 6\); .*slices that lie along the f",
    ),
    "volumes": (40, "<5h", [4, 4, 5, 3, 2], b"", "extract one volume of it first$"),
    "bitpix": (BITPIX, "<h", [8], b"x", "bitpix = 8 beside datatype int16"),
    "datatype": (70, "<h", [5], b"", r"datatype 5 \(unknown\); export"),
    "float128": (70, "<h", [1536], b"", r"float128\); convert it to float32"),
    "colours": (70, "<h", [128], b"", "instead of a picture in colours"),
    "complex": (70, "<h", [32], b"", "magnitude of its complex numbers"),
    "CIFTI": (68, "<h", [3001], b"", "a CIFTI file"),
    "slope": (112, "<2f", [np.inf, 0], b"", "scl_slope, scl_inter = inf, 0"),
    "inter": (112, "<2f", [2, np.nan], b"", "scl_slope, scl_inter = 2, nan"),
    "srow": (280, "<4f", [np.nan] * 4, b"", "srow_x, srow_y, srow_z = "),
    "no srow": (280, "<12f", [0] * 12, b"", r"srow_x, srow_y, srow_z = \[\[0.0"),
    "singular": (280, "<8f", [1] * 8, b"", "unusable geometry"),
    "far away": (292, "<f", [1e30], b"", "unusable geometry, .*1e\\+30"),
    "metre": (123, "B", [1], b"", "xyzt_units = 1 .metres.; voxels of 1000 x 2000 x 3000 mm, "),
    "micron": (
        123,
        "B",
        [3],
        b"",
        "xyzt_units = 3 .micrometres.; voxels of 0.001 x 0.002 x",
    ),
    "sizeof_hdr": (0, "<i", [349], b"", "sizeof_hdr says 349 instead of 348 or 540"),
    "ENVI": (0, "4s", [b"ENVI"], b"", "an ENVI header"),
    "packed twice": (0, "2s", [b"\x1f\x8b"], b"", "compressed twice; decompress"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("offset", "form", "values", "more", "match"), FIELDS.values(), ids=FIELDS)
def test_a_damaged_field_is_named(tmp_path, offset, form, values, more, match, packed):
    path = patch(save(tmp_path / "a.nii", INTEGERS, sform=RAS), offset, form, *values)
    raw = path.read_bytes() + more
    if packed or "twice" in match:
        path.write_bytes(gzip.compress(raw))
    else:
        path.write_bytes(raw)
    with pytest.raises(VolumeError, match=match) as caught:
        read_volume(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("offset", "form", "values", "match"),
    [
        (256, "<3f", (0.8, 0.8, 0.8), "quatern_b, quatern_c, quatern_d = .* longer than 1"),
        (268, "<f", (np.nan,), "qoffset_x, qoffset_y, qoffset_z = "),
        (PIXDIM, "<f", (5,), r"pixdim\[0\] \(qfac\) = 5; it must be 1 or -1"),
        (PIXDIM + 4, "<f", (0,), "pixdim = 0 x 2 x 3 mm; repair the voxel size"),
    ],
)
def test_a_damaged_qform_is_named_or_left_for_the_sform(
    tmp_path, caplog, offset, form, values, match
):
    path = patch(save(tmp_path / "a.nii", INTEGERS, qform=RAS), offset, form, *values)
    with pytest.raises(VolumeError, match=match):
        read_volume(path)
    path = save(tmp_path / "b.nii", INTEGERS, qform=RAS, sform=RAS)
    patch(path, offset, form, *values)
    assert affine(read_volume(path).grid) == pytest.approx(RAS, abs=1e-5)
    assert re.search(f"its qform is unusable .*{match}.*; taking its sform", caplog.text)


def test_a_handedness_of_zero_is_that_of_one(tmp_path):
    path = patch(save(tmp_path / "a.nii", INTEGERS, qform=UPRIGHT), PIXDIM, "<f", 0)
    assert affine(read_volume(path).grid) == pytest.approx(UPRIGHT, abs=1e-5)


def test_a_damaged_sform_is_left_for_the_qform(tmp_path, caplog):
    path = save(tmp_path / "a.nii", INTEGERS, qform=RAS, sform=RAS)
    patch(path, 280, "<f", np.nan)
    assert affine(read_volume(path).grid) == pytest.approx(RAS, abs=1e-5)
    assert re.search("its sform is unusable .*srow_x.*; taking its qform", caplog.text)


def test_bitpix_and_surplus_dimensions_that_mean_nothing_do_no_harm(tmp_path, caplog):
    path = patch(save(tmp_path / "a.nii", INTEGERS, sform=RAS), BITPIX, "<h", 8)
    patch(path, 40, "<8h", 7, 4, 5, 6, 0, 0, 1, 0)
    assert np.array_equal(read_volume(path).array, INTEGERS)
    assert "bitpix = 8 beside datatype int16; taking the latter" in caplog.text


def test_the_scale_of_spm99_is_that_of_analyze(tmp_path):
    nibabel.save(nibabel.AnalyzeImage(INTEGERS, None), tmp_path / "a.img")
    patch(tmp_path / "a.hdr", 112, "<f", 0.25)
    assert np.array_equal(read_volume(tmp_path / "a.hdr").array, INTEGERS * 0.25)
    patch(tmp_path / "a.hdr", 112, "<f", np.nan)
    assert np.array_equal(read_volume(tmp_path / "a.hdr").array, INTEGERS)


@pytest.mark.parametrize("kind", [nibabel.Spm99AnalyzeImage, nibabel.Spm2AnalyzeImage])
def test_the_orientation_of_an_analyze_image_is_in_spm_s_file(tmp_path, caplog, kind):
    nibabel.save(kind(INTEGERS, TURNED), tmp_path / "a.img")
    volume, is_oriented = read_nifti(tmp_path / "a.hdr")
    assert affine(volume.grid) == pytest.approx(TURNED, abs=1e-5) and is_oriented
    assert "a.hdr: taking the orientation of a.mat (SPM)" in caplog.text
    (tmp_path / "a.mat").write_text("1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n")  # FSL's
    volume, is_oriented = read_nifti(tmp_path / "a.img")
    assert volume.spacing == pytest.approx((1, 2, 3)) and not is_oriented


def test_of_several_halves_the_one_written_alike_is_taken(tmp_path):
    for number, name in enumerate(("a.hdr", "A.HDR", "a.HDR")):
        image = nibabel.AnalyzeImage(np.full((2, 2, 2), number, np.int16), np.eye(4))
        nibabel.save(image, tmp_path / "x.img")
        for suffix in (".hdr", ".img"):
            cased = suffix.upper() if name.endswith("HDR") else suffix
            (tmp_path / f"x{suffix}").rename(tmp_path / f"{name[0]}{cased}")
    for number, name in enumerate(("a.hdr", "A.HDR", "a.IMG")):
        assert np.all(read_volume(tmp_path / name).array == number)


@pytest.mark.parametrize("suffix", [".mgh", ".mgz", ".MGZ"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "f4"])
def test_images_of_freesurfer_are_read_as_by_nibabel(tmp_path, suffix, dtype):
    array, matrix = (noise((4, 5, 6)) * 100).astype(dtype), np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation() * [0.7, 0.8, 2.5], (-9, 5, 7)
    nibabel.save(nibabel.MGHImage(array, matrix), tmp_path / f"x{suffix.lower()}")
    path = (tmp_path / f"x{suffix.lower()}").rename(tmp_path / f"a{suffix}")
    volume = read_volume(path)
    assert np.array_equal(volume.array, array.astype(np.float32))
    assert affine(volume.grid) == pytest.approx(matrix, abs=1e-5)
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) * 3 // 4])
    with pytest.raises(VolumeError, match="truncated"):
        read_volume(path)


@pytest.mark.parametrize("error", [-1e-7, 1e-5])  # rounded up nibabel refuses it
def test_a_half_turn_of_a_rounded_quaternion_is_exact(tmp_path, error):
    turned = UPRIGHT * [-1, -1, 1, 1]
    path = save(tmp_path / "a.nii", noise((4, 5, 6)), qform=turned)
    patch(path, 256, "<3f", 0, 0, 1 + error)
    assert affine(read_volume(path).grid) == pytest.approx(turned, abs=1e-5)


def test_an_analyze_image_is_not_taken_for_an_old_dicom_file(tmp_path):
    array = np.zeros((4, 5, 6), np.int16)
    array[0, 0, 0] = 8  # the first bytes of a DICOM file without preamble
    nibabel.save(nibabel.AnalyzeImage(array, np.eye(4)), tmp_path / "a.img")
    assert np.array_equal(read_volume(tmp_path / "a.img").array, array)


def test_compression_is_seen_by_content_and_one_frame_is_a_volume(tmp_path):
    path = save(tmp_path / "a.nii", noise((4, 5, 6))[..., None, None])
    (tmp_path / "plain.nii.gz").write_bytes(path.read_bytes())
    (tmp_path / "packed.nii").write_bytes(gzip.compress(path.read_bytes()))
    for name in ("a.nii", "plain.nii.gz", "packed.nii"):
        assert np.array_equal(read_volume(tmp_path / name).array, noise((4, 5, 6)))


@pytest.mark.parametrize(
    "name",
    [
        "clinical/adult_flair_0.75x0.75x5.5",
        *(f"fetal_stacks/sub-01_run-{run}_T2w" for run in (1, 3, 5)),
        *("heart_masks/la_029_0", "original/lr"),
    ],
)
def test_real_images_are_read_as_by_itk_and_nibabel(data_dir, name):
    path = data_dir / f"{name}.nii.gz"
    volume, image = read_volume(path), nibabel.load(path)
    assert volume.grid.is_close(itk_grid(path), 1e-2)
    assert affine(volume.grid) == pytest.approx(image.affine, abs=1e-4)
    assert np.allclose(volume.array, image.get_fdata(dtype=np.float32))


@pytest.mark.parametrize(
    ("given", "stored"),
    [("u1", "u1"), ("?", "u1"), ("i2", "<i2"), ("f4", "<f4"), ("f2", "<f4"), (">f8", "<f8")],
)
def test_the_dtype_is_kept(tmp_path, given, stored):
    array = (noise((4, 5, 6)) > 0.5).astype(given)
    write_volume(Volume(array, (1, 1, 1)), tmp_path / "a.nii.gz")
    image = nibabel.load(tmp_path / "a.nii.gz")
    assert image.get_data_dtype() == np.dtype(stored)
    assert np.array_equal(image.get_fdata(), array)


def test_any_memory_layout_is_written_alike_by_any_name_and_nothing_else_is_left(tmp_path):
    strided = VOLUME.array.repeat(2, axis=0)[::2]
    for array in (VOLUME.array, np.asfortranarray(VOLUME.array), strided):
        write_volume(VOLUME.with_array(array), tmp_path / "A.NII.GZ")
        assert np.array_equal(read_volume(tmp_path / "A.NII.GZ").array, VOLUME.array)
    assert [path.name for path in tmp_path.iterdir()] == ["A.NII.GZ"]


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(errno.ENOSPC, "No space left")

    (tmp_path / "a.nii").write_bytes(b"older")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(VolumeError, match=r"a\.nii: cannot be written \(No sp"):
        write_volume(VOLUME, tmp_path / "a.nii")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"older"]


@pytest.mark.parametrize("sizes", [[], [0], [1], [352, 5_000_000, 70_000, 5_000_000, 3]])
def test_the_gzip_stream_is_one_ordinary_member(sizes):
    rng = np.random.default_rng(0)
    pieces = [
        rng.bytes(size) if k % 2 else bytes(range(256)) * (size // 256) + bytes(size % 256)
        for k, size in enumerate(sizes)
    ]
    file = io.BytesIO()
    write_gzip(file, pieces)
    stream = zlib.decompressobj(16 + zlib.MAX_WBITS)  # checks the checksum and size, too
    assert stream.decompress(file.getvalue()) == b"".join(pieces)
    assert stream.eof and not stream.unused_data
    random, regular = sum(sizes[1::2]), sum(sizes[::2])
    assert len(file.getvalue()) < 1.01 * random + 0.02 * regular + 200 * (len(sizes) + 1)


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    used = temporary_beside(tmp_path / "a.nii.gz")
    for name in (used.name, used.name.replace(f".{os.getpid()}.", ".999999999.")):
        (tmp_path / name).write_bytes(b"half")
    write_volume(VOLUME, tmp_path / "a.nii.gz")
    assert {file.name for file in tmp_path.iterdir()} == {"a.nii.gz", used.name}


@pytest.mark.parametrize(
    ("name", "array", "match"),
    [
        *((name, CUBE, r"end the name with \.nii\.gz") for name in ("a.mha", "a.bz2", "a", "a.gz")),
        ("missing/a.nii.gz", CUBE, "existing folder"),
        ("file/a.nii.gz", CUBE, "existing folder"),
        ("folder.nii.gz", CUBE, "cannot be written"),
        ("a.nii.gz", CUBE.astype(complex), "no image in NIfTI has voxels of dtype complex"),
        ("a.nii.gz", np.ones((33000, 1, 1), "u1"), "at most 32767 voxels per axis"),
    ],
)
def test_what_cannot_be_written_is_refused_and_nothing_is_left(tmp_path, name, array, match):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.nii.gz").mkdir()
    with pytest.raises(VolumeError, match=match):
        write_volume(Volume(array, (1, 1, 1)), tmp_path / name)
    assert {file.name for file in tmp_path.iterdir()} == {"file", "folder.nii.gz"}
