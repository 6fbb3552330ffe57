# SPDX-License-Identifier: MIT
"""Files that are no images this package reads: named, with what to do."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from functools import partial

import pytest

from segsrgan.errors import VolumeError
from segsrgan.volumes import read_volume

NIFTI = (348).to_bytes(4, "little") + bytes(340) + b"n+1\0" + bytes(4000)


def zipped(content):
    with zipfile.ZipFile(file := io.BytesIO(), "w") as archive:
        archive.writestr("a.nii", content)
    return file.getvalue()


def tarred(content):
    with tarfile.open(fileobj=(file := io.BytesIO()), mode="w") as archive:
        info = tarfile.TarInfo("a.nii")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


packed = partial(gzip.compress, mtime=0)  # the same bytes in every process of a run
TWICE = packed(packed(NIFTI))
KINDS = {
    "bz2": (bz2.compress(NIFTI), "compressed by bzip2; decompress it first, with `bunzip2`"),
    "xz": (lzma.compress(NIFTI), "compressed by xz; decompress it first, with `unxz`"),
    "zst": (b"\x28\xb5\x2f\xfd" + NIFTI, "`unzstd`"),
    "lz4": (b"\x04\x22\x4d\x18" + NIFTI, "`unlz4`"),
    "zip": (zipped(NIFTI), "a ZIP archive; unpack it first"),
    "tar": (tarred(NIFTI), "a tar archive; unpack it first"),
    "tar.gz": (packed(tarred(NIFTI)), "a tar archive inside gzip; unpack"),
    "twice": (TWICE, "compressed twice; decompress it once"),
    "MINC 1": (b"CDF\x01" + bytes(99), "MINC 1 (NetCDF) file; convert it to NIfTI, with `mnc2nii`"),
    "MINC 2": (b"\x89HDF\r\n\x1a\n" + bytes(9) + b"minc-2.0", "MINC 2 (HDF5) file; convert"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file; save"),
    "AFNI": (b"\ntype = string-attribute\nname = TYPESTRING\n", "`3dAFNItoNIFTI`"),
    "MRtrix": (b"mrtrix image\ndim: 3,3\n", "`mrconvert`"),
    "annex": (b"/annex/objects/MD5E-s2--0b6.nii.gz\n", "git-annex pointer; fetch its content"),
    "annex link": (b"../../.git/annex/objects/xx/yy/MD5E-s2", "`git annex get`"),
    "LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7\n",
        "`git lfs pull`",
    ),
    "html": (b"\n <!DOCTYPE html><html>404</html>", "a web page; download"),
    "gzipped html": (packed(b"<html>Log in</html>"), "a web page inside gzip; download"),
    "old html": (b'<?xml version="1.0"?>\n<html xmlns="">', "a web page; download"),
    "xml": (b'<?xml version="1.0"?><Error>AccessDenied</Error>', "an XML file; download"),
    "GIfTI": (b'<?xml version="1.0"?>\n<!DOCTYPE GIFTI SYSTEM "">\n<GIFTI ', "a GIfTI surface"),
    "json": (b'{"message": "Not Found"}', "a JSON file; download"),
    "text": (b"path,label\r\n", "a text file; check the name"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(99), "a PNG picture; give the scan"),
    "jpeg": (b"\xff\xd8\xff\xe0" + bytes(99), "a JPEG picture"),
    "tiff": (b"II*\0" + bytes(99), "a TIFF picture"),
    "pdf": (b"%PDF-1.7", "a PDF document"),
    "mat": (b"MATLAB 5.0 MAT-file, Platform: GLNXA64", "a MAT file of MATLAB"),
    "surface": (b"\xff\xff\xfecreated by", "a surface of FreeSurfer"),
    "trk": (b"TRACK\0" + bytes(99), "streamlines of TrackVis"),
    "tck": (b"mrtrix tracks\n", "streamlines of MRtrix"),
    "npy": (b"\x93NUMPY\1\0" + bytes(99), "an array of NumPy"),
    "zeros": (bytes(9999), "nothing but zeros; its copy is damaged"),
}


@pytest.mark.parametrize(("content", "words"), KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgz", "a.nrrd", "a.mha", "a.xyz"])
def test_what_is_no_image_is_recognised_under_any_name(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VolumeError) as caught:
        read_volume(tmp_path / name)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / name)) and "\n" not in message and ";" in message
    if not name.endswith((".nrrd", ".mha")) or words[:6] not in ("a text", "nothin"):
        assert words in message


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.xyz", NIFTI, "a NIfTI file; end its name with .nii"),
        ("a.mgz", packed(NIFTI), "a NIfTI file inside gzip; end its name with .nii"),
        ("a.nii.gz", packed(b"\0\0\0\1" + bytes(24) + b"\0\1"), "an MGH file .* inside gzip; end"),
        ("a.nii", b"NRRD0004\ntype: short\n", "an NRRD file; end its name with .nrrd"),
        ("a.nii.gz", packed(b"NRRD0004\n"), "an NRRD file inside gzip"),
        ("a.xyz", b"NDims = 3\nElementDataFile = LOCAL\n\0", "a MetaImage file"),
        ("a.nrrd.gz", packed(b"NRRD0004\n"), "compressed by gzip; decompress it first"),
        ("a.nrrd", packed(b"NRRD0004\n"), "compressed by gzip; decompress it first"),
    ],
)
def test_images_under_another_format_s_name(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VolumeError, match=words):
        read_volume(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "words"),
    [("a+orig.BRIK.gz", "3dAFNItoNIFTI"), ("a.raw", ".nhdr or .mhd"), ("2dseq", "Bruker"),
     ("a.REC", "dcm2niix")],
)  # fmt: skip
def test_voxels_without_a_header_go_by_their_name(tmp_path, name, words):
    (tmp_path / name).write_bytes(b"\1\2\3" * 99)
    with pytest.raises(VolumeError, match=words):
        read_volume(tmp_path / name)


def test_links_to_nothing_are_told_with_their_target(tmp_path):
    path = tmp_path / "a.nii.gz"
    path.symlink_to("../.git/annex/objects/xx/MD5E-s1.nii.gz")
    with pytest.raises(VolumeError, match=r"objects/xx/MD5E-s1.nii.gz\); fetch .*`datalad get`"):
        read_volume(path)
    path.unlink()
    path.symlink_to("gone.nii.gz")
    with pytest.raises(VolumeError, match="is a link to gone.nii.gz, which does not exist; copy"):
        read_volume(path)
