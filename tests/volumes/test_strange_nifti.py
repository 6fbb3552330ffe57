# SPDX-License-Identifier: MIT
"""Headers of NIfTI-1, NIfTI-2, Analyze and MGH with one field replaced: right, or one line."""

import contextlib
import gzip

import nibabel
import numpy as np
import pytest
from hypothesis import strategies as st
from nibabel.spatialimages import HeaderDataError
from volumes.samples import noise, rotation
from volumes.strange import EXAMPLES, for_all, read_or_refused

from segsrgan.errors import VolumeError
from segsrgan.volumes import Volume, read_volume
from segsrgan.volumes.affine import volume_of

ARRAY = (noise((7, 6, 5)) * 1000).astype(np.int16)
AFFINE = np.eye(4)
AFFINE[:3] = np.column_stack([rotation() * [0.8, 0.9, 3.1], (-9, 5, 7)])
PLAIN = np.diag([-0.8, -0.9, 3.1, 1])
FLIP = np.diag([-1.0, -1, 1, 1])
KINDS = {
    "single.nii": (nibabel.Nifti1Image, AFFINE, (1, 1)),
    "packed.nii.gz": (nibabel.Nifti1Image, AFFINE, (1, 1)),
    "second.nii": (nibabel.Nifti2Image, AFFINE, (1, 1)),
    "pair.hdr": (nibabel.Nifti1Pair, AFFINE, (1, 1)),
    "qform.nii": (nibabel.Nifti1Image, AFFINE, (1, 0)),
    "sform.nii": (nibabel.Nifti1Image, AFFINE, (0, 1)),
    "pixdim.nii": (nibabel.Nifti1Image, PLAIN, (0, 0)),
    "analyze.hdr": (nibabel.AnalyzeImage, PLAIN, None),
    "freesurfer.mgh": (nibabel.MGHImage, AFFINE, None),
}
# What nothing else in a file tells; here a header is believed, as nibabel believes it.
BELIEVED = {"scl_slope", "scl_inter", "funused1", "dims", "type", "delta", "Mdc", "Pxyz_c"}
ALONE = {"qform.nii": ("quatern", "qoffset", "pixdim"), "sform.nii": ("srow",)}
ALONE |= {"pixdim.nii": ("pixdim",), "analyze.hdr": ("pixdim",)}
EXTREMES = [0, 1, -1, 2, 3, 4, 7, 16, 64, 255, 348, 352, 353, 540, 1e-30, 0.5, 1e5, 2.0**31, 1e38]
VALUES = st.sampled_from([*EXTREMES, np.nan, np.inf, -np.inf, -1e38]) | st.floats(-1e3, 1e3)


def made(path, kind, matrix, codes):
    """The bytes and the header of a good image; its voxels lie beside it where it is a pair."""
    image = kind(ARRAY, matrix if codes is None else None)
    if codes:
        image.header.set_zooms((0.8, 0.9, 3.1))
        image.set_qform(matrix, codes[0])
        image.set_sform(matrix, codes[1])
    plain = path.with_name(path.name.removesuffix(".gz"))
    nibabel.save(image, plain.with_suffix(".img") if plain.suffix == ".hdr" else plain)
    raw = plain.read_bytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    header = kind.header_class
    return raw, header(raw[: header.template_dtype.itemsize])


def replaced(raw, header, name, place, value):
    """The bytes with another value in an element of a field."""
    fields = header.structarr.copy()
    field = fields[name] if fields[name].ndim else fields[name][None]
    kind = field.dtype.kind
    if kind == "f":
        number = np.float64(value).astype(field.dtype)
    elif kind in "iu":
        limits, number = np.iinfo(field.dtype), np.nan_to_num(value, posinf=1e38, neginf=-1e38)
        number = min(max(int(number), limits.min), limits.max)
    else:
        number = str(value).encode()
    field.flat[place % field.size] = number
    fields[name] = field if fields[name].ndim else field[0]
    return fields.tobytes() + raw[fields.nbytes :]


def by_nibabel(path, header, raw):
    """The images that nibabel finds in a file: its voxels, or the good ones, by each form."""
    try:
        voxels = np.float32(nibabel.load(path).dataobj)
        voxels = voxels.reshape(voxels.shape[:3])
    except Exception:  # it has many ways to fail
        voxels = np.float32(ARRAY)
    fields = header.__class__(raw[: header.template_dtype.itemsize], check=False)
    if "pixdim" in fields:
        sizes = np.abs(np.float64(fields["pixdim"][1:4]))
        if np.all(sizes > 0):
            yield Volume(voxels, sizes)
    for place in ("get_sform", "get_qform", "get_affine"):
        with contextlib.suppress(AttributeError, ValueError, HeaderDataError, VolumeError):
            yield volume_of(voxels, FLIP @ getattr(fields, place)(), "")


def is_same(volume, other):
    return volume.grid.is_close(other.grid, 0.4) and np.array_equal(
        volume.array, other.array, equal_nan=True
    )


@EXAMPLES
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.filterwarnings("ignore")
@np.errstate(all="ignore")
def test_one_strange_field_ends_in_the_right_image_or_one_line(tmp_path, caplog, name, examples):
    path = tmp_path / name
    raw, header = made(path, *KINDS[name])
    good = read_volume(path)
    believed = (*BELIEVED, *ALONE.get(name, ()))

    def check(change):
        changed = replaced(raw, header, *change) if isinstance(change, tuple) else raw[:change]
        path.write_bytes(gzip.compress(changed) if path.suffix == ".gz" else changed)
        caplog.clear()
        found = read_or_refused(path)
        if found is None or is_same(found, good):
            return
        assert "WARNING" in caplog.text or change[0].startswith(believed)
        assert any(is_same(found, image) for image in by_nibabel(path, header, changed))

    fields = st.sampled_from([field for field in header.keys() if field != "tag"])
    changes = st.tuples(fields, st.integers(0, 11), VALUES) | st.integers(0, len(raw) - 1)
    for_all(changes, examples)(check)
