# SPDX-License-Identifier: MIT
"""NRRD and MetaImage: geometry as the header says it, whatever libraries make of what it lacks."""

import bz2
import gzip
import os
import zlib

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import center_of_mass
from volumes.samples import blob_volume, noise, rotation

from segsrgan.errors import VolumeError
from segsrgan.volumes import Grid, read_volume

ARRAY = np.asfortranarray((noise((5, 6, 4)) * 1000).astype("<i2"))
RAW = ARRAY.tobytes("F")
GRID = Grid(ARRAY.shape, (1, 2, 4), (-23.5, -27.5, -22))
NRRD = {
    "type": "short",
    "encoding": "raw",
    "endian": "little",
    "dimension": "3",
    "sizes": "5 6 4",
    "space": "left-posterior-superior",
    "space directions": "(1,0,0) (0,2,0) (0,0,4)",
    "space origin": "(-23.5,-27.5,-22)",
}
META = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "-23.5 -27.5 -22",
    "ElementSpacing": "1 2 4",
    "DimSize": "5 6 4",
    "ElementType": "MET_SHORT",
    "ElementDataFile": "LOCAL",
}


def nrrd_header(**changes):
    """The bytes of a header with other fields, whose blanks are "_"; None leaves one out."""
    fields = NRRD | {name.replace("_", " "): value for name, value in changes.items()}
    lines = [f"{name}: {value}\n" for name, value in fields.items() if value is not None]
    return f"NRRD0005\n{''.join(lines)}".encode()


def meta_header(**changes):
    fields = META | changes
    fields["ElementDataFile"] = fields.pop("ElementDataFile")  # the last
    return "".join(f"{k} = {v}\n" for k, v in fields.items() if v is not None).encode()


def made(folder, name, voxels=RAW, **changes):
    """A file of that name with other fields in its header."""
    header = meta_header(**changes) if "mh" in name else nrrd_header(**changes) + b"\n"
    (folder / name).write_bytes(header + voxels)
    return folder / name


def refusal(path, labels=False):
    with pytest.raises(VolumeError) as caught:
        read_volume(path, labels=labels)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message and ";" in message
    return message


UM = '"um" "microns" "um"'
SAME = {
    "as it is": ("a.nrrd", {}, RAW),
    "LPS": ("a.nrrd", {"space": "LPS"}, RAW),
    "LAS": (
        "a.nrrd",
        {
            "space": "left-anterior-superior",
            "space_directions": "(1,0,0) (0,-2,0) (0,0,4)",
            "space_origin": "(-23.5,27.5,-22)",
        },
        RAW,
    ),
    "RAS": (
        "a.nrrd",
        {
            "space": "RAS",
            "space_directions": "(-1,0,0) (0,-2,0) (0,0,4)",
            "space_origin": "(23.5, 27.5, -22)",
        },
        RAW,
    ),
    "a list of one": (
        "a.nrrd",
        {
            "dimension": "4",
            "sizes": "1 5 6 4",
            "kinds": "list domain domain domain",
            "space_directions": f"none {NRRD['space directions']}",
        },
        RAW,
    ),
    "gzip": (
        "a.nrrd",
        {"encoding": "gz"},
        gzip.compress(RAW[:50], mtime=0) + gzip.compress(RAW[50:], mtime=0),
    ),
    "bzip2": ("a.nrrd", {"encoding": "bzip2"}, bz2.compress(RAW)),
    "text": ("a.nrrd", {"encoding": "ASCII"}, " ".join(map(str, ARRAY.ravel("F"))).encode()),
    "big": ("a.nrrd", {"endian": "big"}, ARRAY.astype(">i2").tobytes("F")),
    "skipped": ("a.nrrd", {"line_skip": "1", "byte_skip": "3"}, b"a line\nabc" + RAW),
    "from the end": ("a.nrrd", {"byte_skip": "-1"}, b"of any length" + RAW),
    "cm": (
        "a.nrrd",
        {
            "space_units": '"cm" "cm" "cm"',
            "space_directions": "(.1,0,0) (0,.2,0) (0,0,.4)",
            "space_origin": "(-2.35,-2.75,-2.2)",
        },
        RAW,
    ),
    "hex": ("a.nrrd", {"encoding": "hex"}, RAW.hex(" ", 30).encode()),
    "said twice": ("a.nrrd", {"type": "short\nsizes: 5  6 4.0"}, RAW),
    "quoted": ("a.nrrd", {"type": '"short"', "endian": '"little"'}, RAW),
    "quoted mha": ("a.mha", {"ElementSpacing": '"1 2 4"', "DistanceUnits": '"mm"'}, RAW),
    "other spelling": (
        "a.mha",
        {
            "Origin": "-23.50 -27.5 -22.0",
            "Rotation": "1.0 0 0 0 1.0 0 0 0 1e0",
            "ElementByteOrderMSB": "0",
        },
        RAW,
    ),
    "mha": ("a.mha", {}, RAW),
    "packed mha": (
        "a.mha",
        {"CompressedData": "True", "CompressedDataSize": "99", "AnatomicalOrientation": "RAI"},
        zlib.compress(RAW),
    ),
    "scale in the matrix": (
        "a.mha",
        {"TransformMatrix": "1 0 0 0 1 0 0 0 4", "ElementSpacing": "1 2 1"},
        RAW,
    ),
    "size in place of spacing": ("a.mha", {"ElementSpacing": None, "ElementSize": "1 2 4"}, RAW),
    "text mha": ("a.mha", {"BinaryData": "False"}, "\n".join(map(str, ARRAY.ravel("F"))).encode()),
    "m": (
        "a.mha",
        {
            "DistanceUnits": "um",
            "ElementSpacing": "1000 2000 4000",
            "Offset": "-23500 -27500 -22000",
        },
        RAW,
    ),
    "four axes": (
        "a.mha",
        {
            "NDims": "4",
            "DimSize": "5 6 4 1",
            "ElementSpacing": "1 2 4 1",
            "Offset": "-23.5 -27.5 -22 0",
            "TransformMatrix": "1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1",
        },
        RAW,
    ),
    "header size": ("a.mha", {"HeaderSize": "-1"}, b"anything" + RAW),
}


@pytest.mark.parametrize(("name", "changes", "voxels"), SAME.values(), ids=SAME)
def test_one_image_written_in_many_ways_is_the_same(tmp_path, caplog, name, changes, voxels):
    path = made(tmp_path, name, voxels, **changes)
    volume = read_volume(path, labels=True)
    assert volume.array.dtype == np.int16 and np.array_equal(volume.array, ARRAY)
    assert volume.grid.is_close(GRID) and not caplog.text
    assert read_volume(path).array.dtype == np.float32


DETACHED = {
    "nhdr": ("nhdr", {"data_file": "s 0.raw"}, b"", 1),
    "nhdr list": ("nhdr", {"data_file": "LIST"}, b"s 0.raw\ns 1.raw\ns 2.raw\ns 3.raw\n", 4),
    "nhdr pattern": ("nhdr", {"data_file": "t%01d.raw 3 0 -1 2"}, b"", 4),
    "mhd": ("mhd", {"ElementDataFile": "s 0.raw"}, b"", 1),
    "mhd list": ("mhd", {"ElementDataFile": "LIST 2"}, b"s 0.raw\ns 1.raw\ns 2.raw\ns 3.raw\n", 4),
    "mhd pattern": ("mhd", {"ElementDataFile": "r%02d.raw 1 4 1"}, b"", 4),
    "other capitals": ("mhd", {"ElementDataFile": "S 0.RAW"}, b"", 1),
}


@pytest.mark.parametrize(("suffix", "changes", "names", "count"), DETACHED.values(), ids=DETACHED)
def test_voxels_in_one_or_several_files_beside_the_header(
    tmp_path, suffix, changes, names, count, capfd
):
    folder = tmp_path / os.fsdecode(b"M\xfcller")
    folder.mkdir()
    for k in range(count):
        for name in (f"s {k}", f"t{count - 1 - k}", f"r{k + 1:02d}"):
            part = RAW[k * len(RAW) // count : (k + 1) * len(RAW) // count]
            (folder / f"{name}.raw").write_bytes(part)
    header = meta_header(**changes) if suffix == "mhd" else nrrd_header(**changes)
    path = folder / os.fsdecode(b"\xfc." + suffix.encode())
    path.write_bytes(header + names)
    volume = read_volume(path)
    assert np.array_equal(volume.array, ARRAY) and volume.grid.is_close(GRID)
    for file in folder.glob("*.raw"):
        file.unlink()
    assert first_file(changes, names) in refusal(path).split("its voxels ")[1]
    assert capfd.readouterr().err == ""


def first_file(changes, names):
    """The first file that a header names."""
    name = next(value for value in changes.values())
    if "%" in name:
        return {"t": "t3.raw", "r": "r01.raw"}[name[0]]
    return "s 0.raw" if names else name


def test_axes_and_position_are_those_of_itk(tmp_path):
    matrix = rotation().T
    text = " ".join(f"{number:.9f}" for number in matrix.ravel())
    vectors = " ".join(f"({','.join(f'{number:.9f}' for number in row)})" for row in matrix)
    files = [
        made(tmp_path, "a.mha", TransformMatrix=text),
        made(tmp_path, "b.mha", TransformMatrix="0 0 1 -1 0 0 0 1 0"),
        made(tmp_path, "a.nrrd", space="RAS", space_directions=vectors),
        made(tmp_path, "b.nrrd", space="LAS", space_directions="(0,0,1) (-2,0,0) (0,4,0)"),
        made(
            tmp_path, "c.nrrd", space=None, space_directions=None, space_origin=None,
            spacings="1 2 4", axis_mins="3 4 5",
        ),
    ]  # fmt: skip
    for file in files:
        image, volume = sitk.ReadImage(str(file)), read_volume(file)
        grid = Grid(
            image.GetSize(), image.GetSpacing(), image.GetOrigin(),
            np.reshape(image.GetDirection(), (3, 3)),
        )  # fmt: skip
        assert volume.grid.is_close(grid)
        assert np.array_equal(volume.array, sitk.GetArrayFromImage(image).T)


PLACELESS = {"space": None, "space_directions": None, "space_origin": None}
ASSUMED = {
    "spacings alone": ("a.nrrd", {**PLACELESS, "spacings": "1 2 4"}, "orientation"),
    "spacings without a place": ("a.nrrd", {**PLACELESS, "spacings": "1 2 4"}, "no space origin"),
    "scale": ("a.mha", {"ElementToIntensityFunctionSlope": "2"}, "Slope = 2 is ignored"),
    "rounded": ("a.mha", {"TransformMatrix": "1.004 0 0 0 1 0 0 0 .996"}, "Matrix is rounded"),
    "spacings in microns": (
        "a.nrrd",
        {**PLACELESS, "spacings": "1000 2000 4000", "units": UM},
        "orientation",
    ),
    "no space": ("a.nrrd", {"space": None, "space_dimension": "3"}, "lie in the patient"),
    "scanner": ("a.nrrd", {"space": "scanner-xyz"}, "space is scanner-xyz"),
    "handed": ("a.nrrd", {"space": "3D-right-handed"}, "3d-right-handed"),
    "no space origin": ("a.nrrd", {"space_origin": None}, "space origin"),
    "another size": ("a.nrrd", {"spacings": "1 2 9"}, "spacings is 1 2 9, space directions"),
    "unit": ("a.nrrd", {"space_units": '"furlong" "mm" "mm"'}, "furlong"),
    "unknown field": ("a.nrrd", {"space unts": "um"}, "field 'space unts'"),
    "no matrix": ("a.mha", {"TransformMatrix": None}, "orientation (TransformMatrix)"),
    "no offset": ("a.mha", {"Offset": None}, "no Offset"),
    "centre": ("a.mha", {"CenterOfRotation": "1 0 0"}, "CenterOfRotation is 1 0 0"),
    "anatomy": ("a.mha", {"AnatomicalOrientation": "LPS"}, "AnatomicalOrientation LPS"),
    "order": ("a.mha", {"BinaryDataByteOrderMSB": None}, "little-endian"),
    "unit mha": ("a.mha", {"DistanceUnits": "parsec"}, "parsec"),
}


@pytest.mark.parametrize(("name", "changes", "words"), ASSUMED.values(), ids=ASSUMED)
def test_what_a_header_lacks_is_assumed_with_a_warning(tmp_path, caplog, name, changes, words):
    volume = read_volume(made(tmp_path, name, **changes))
    assert "WARNING" in caplog.text
    assert words in caplog.text
    assert np.array_equal(volume.array, ARRAY) and np.allclose(volume.spacing, (1, 2, 4))
    assert np.allclose(volume.direction, np.eye(3))


VECTORS = "none (1,0,0) (0,2,0) (0,0,4)"
REFUSED = {
    "nrrd spacing": ("a.nrrd", PLACELESS, "does not say the voxel size (spacings"),
    "mha spacing": ("a.mha", {"ElementSpacing": None}, "does not say the voxel size (Element"),
    "nan spacing": ("a.nrrd", {**PLACELESS, "spacings": "1 nan 4"}, "spacings says '1 nan 4'"),
    "negative": ("a.nrrd", {**PLACELESS, "spacings": "1 -2 4"}, "positive in mm"),
    "metres": ("a.nrrd", {"space_units": '"m" "m" "m"'}, "voxel size or its unit"),
    "metres mha": ("a.mha", {"DistanceUnits": "m"}, "voxel size or its unit"),
    "endian": ("a.nrrd", {"endian": None}, "endian is missing"),
    "type": ("a.nrrd", {"type": "block"}, "type says 'block'"),
    "encoding": ("a.nrrd", {"encoding": "xz"}, "encoding says 'xz'"),
    "not hex": ("a.nrrd", {"encoding": "hex"}, "truncated or damaged (non-hex"),
    "dimension": ("a.nrrd", {"dimension": "4"}, "sizes says '5 6 4'"),
    "huge": ("a.nrrd", {"sizes": "2000000000 6 4"}, "truncated, expected 96000000000 bytes"),
    "huge gzip": ("a.nrrd", {"sizes": "2000000000 6 4", "encoding": "gzip"}, "truncated"),
    "smaller": ("a.nrrd", {"sizes": "4 6 4"}, "expected 192 bytes (4 x 6 x 4 voxels of int16)"),
    "vector": (
        "a.nrrd",
        {"dimension": "4", "sizes": "3 5 6 4", "space_directions": VECTORS,
         "kinds": "vector domain domain domain"},
        "3 components (axis 1 of kind 'vector'",
    ),
    "frames": (
        "a.nrrd",
        {"dimension": "4", "sizes": "2 5 6 4", "space_directions": VECTORS,
         "kinds": "list domain domain domain"},
        "2 frames",
    ),
    "none": (
        "a.nrrd",
        {"kinds": "domain domain domain", "space_directions": "(1,0,0) (0,2,0) none"},
        "space directions says '(1,0,0) (0,2,0) none'; expected the vector of axis 3",
    ),
    "no vector": ("a.nrrd", {"space_directions": "(1,0,0) (0,2,0)"}, "space directions says"),
    "skip": ("a.nrrd", {"byte_skip": "99999"}, "truncated"),
    "line": ("a.nrrd", {"type": "short\nrubbish"}, "line 3 says 'rubbish'"),
    "twice": ("a.nrrd", {"type": "short\nsizes: 5 6 7"}, "line 7"),
    "channels": ("a.mha", {"ElementNumberOfChannels": "3"}, "received 3"),
    "object": ("a.mha", {"ObjectType": "Tube"}, "ObjectType"),
    "type mha": ("a.mha", {"ElementType": "MET_STRING"}, "ElementType"),
    "sizes mha": ("a.mha", {"DimSize": "5 6 -4"}, "DimSize says '5 6 -4'"),
    "huge mha": ("a.mha", {"DimSize": "5 6 400000000"}, "truncated"),
    "packed": ("a.mha", {"CompressedData": "True"}, "voxels are truncated or damaged"),
    "text of other length": ("a.mha", {"BinaryData": "False"}, "expected"),
    "no data": ("a.mha", {"ElementDataFile": None}, "ElementDataFile"),
    "no file": ("a.mha", {"ElementDataFile": ""}, "ElementDataFile"),
    "matrix": ("a.mha", {"TransformMatrix": "1 0 0 0 1 0 0 0 0"}, "unusable geometry"),
    "offset": ("a.mha", {"Offset": "0 0 inf"}, "Offset says '0 0 inf'"),
    "two orders": ("a.mha", {"ElementByteOrderMSB": "True"}, "MSB says something else"),
    "two origins": ("a.mha", {"Origin": "1 2 3"}, "Origin says '1 2 3'; Offset says something"),
    "wide pattern": ("a.mhd", {"ElementDataFile": "%999999999d.raw 1 4 1"}, "missing"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "words"), REFUSED.values(), ids=REFUSED)
def test_damaged_headers_are_refused_by_the_name_of_the_field(tmp_path, name, changes, words):
    assert words in refusal(made(tmp_path, name, **changes))


def test_a_fetched_header_with_a_pointer_in_place_of_voxels_says_so(tmp_path):
    path = made(tmp_path, "a.mhd", b"", ElementDataFile="a.raw")
    (tmp_path / "a.raw").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "a.raw is a Git LFS pointer; fetch" in refusal(path)
    (tmp_path / "a.raw").unlink()
    (tmp_path / "a.raw").symlink_to(".git/annex/objects/x")
    assert "git annex get" in refusal(path)


def test_a_sheared_scan_ends_at_one_place_from_every_format(tmp_path, caplog):
    blob = blob_volume((1, 1, 4), np.eye(3))
    sheared = np.column_stack([np.eye(3) * blob.spacing, blob.origin])
    sheared[1, 2] = 1.2  # mm along y from slice to slice
    voxels = (blob.array * 1000).astype("<i2")
    vectors = " ".join(f"({','.join(map(str, column))})" for column in sheared.T[:3])
    matrix = " ".join(str(number) for number in sheared[:, :3].T.ravel() / np.repeat([1, 1, 4], 3))
    sizes, origin = " ".join(map(str, voxels.shape)), sheared[:, 3]
    raw = voxels.tobytes("F")
    nifti = nibabel.Nifti1Image(
        voxels, np.diag([-1, -1, 1, 1]) @ np.vstack([sheared, [0, 0, 0, 1]])
    )
    nibabel.save(nifti, tmp_path / "a.nii")
    files = [
        made(tmp_path, "a.nrrd", raw, sizes=sizes, space_directions=vectors,
             space_origin=f"({','.join(map(str, origin))})"),
        made(tmp_path, "a.mha", raw, DimSize=sizes, TransformMatrix=matrix,
             ElementSpacing="1 1 4", Offset=" ".join(map(str, origin))),
        tmp_path / "a.nii",
    ]  # fmt: skip
    true = sheared[:, :3] @ center_of_mass(voxels) + origin
    for file in files:
        caplog.clear()
        volume = read_volume(file)
        found = volume.grid.index_to_physical(center_of_mass(volume.array))
        assert np.linalg.norm(found - true) < 0.1
        assert f"{1.2 * (voxels.shape[2] - 1):.1f} mm" in caplog.text
