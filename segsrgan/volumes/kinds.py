# SPDX-License-Identifier: MIT
"""Files that are not images this package reads: what they are, and what to do with them.

They are recognised by their first bytes; only kinds without a magic number go by their name.
"""

import gzip
import os
import re
import zlib

from segsrgan.errors import VolumeError
from segsrgan.tables import FREESURFER_SUFFIXES, ITK_SUFFIXES, NIFTI_SUFFIXES

_LENGTH = 4096  # bytes of a file that are looked at
_DOWNLOAD = "download the image itself again"
_IMAGE = "give the scan itself"
_DECOMPRESS = "decompress it first, with `{}`"
_TO_NIFTI = "convert it to NIfTI, with `{}`"
_FETCH = "fetch its content first, with `datalad get` or `git annex get`"

# First byte, magic, what it is, what to do.
_MAGIC = (
    (0, b"CDF\x01", "a MINC 1 (NetCDF) file", _TO_NIFTI.format("mnc2nii` or `mri_convert")),
    (0, b"CDF\x02", "a MINC 1 (NetCDF) file", _TO_NIFTI.format("mnc2nii` or `mri_convert")),
    (0, b"mrtrix image", "an image of MRtrix", _TO_NIFTI.format("mrconvert")),
    (0, b"# === DATA DESCRIPTION FILE", "a Philips PAR header", _TO_NIFTI.format("dcm2niix")),
    (0, b"##TITLE=", "a parameter file of Bruker", "convert the scan to NIfTI or DICOM"),
    (0, b"# vtk DataFile", "a VTK file", "save the image as NIfTI"),
    (0, b"ENVI", "an ENVI header (remote sensing)", "convert the image to NIfTI"),
    (0, b"!INTERFILE", "an Interfile header (nuclear medicine)", "convert the image to NIfTI"),
    (0, b"\x93NUMPY", "an array of NumPy", "save the image as NIfTI, with its affine"),
    (0, b"BZh", "a file compressed by bzip2", _DECOMPRESS.format("bunzip2")),
    (0, b"\xfd7zXZ\0", "a file compressed by xz", _DECOMPRESS.format("unxz")),
    (0, b"\x28\xb5\x2f\xfd", "a file compressed by Zstandard", _DECOMPRESS.format("unzstd")),
    (0, b"\x04\x22\x4d\x18", "a file compressed by LZ4", _DECOMPRESS.format("unlz4")),
    (0, b"LZIP", "a file compressed by lzip", _DECOMPRESS.format("lzip -d")),
    (0, b"\x1f\x9d\x90", "a file compressed by compress", _DECOMPRESS.format("uncompress")),
    (0, b"PK\x03\x04", "a ZIP archive", "unpack it first, with `unzip`"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it first, with `7z x`"),
    (0, b"Rar!\x1a\x07", "a RAR archive", "unpack it first, with `unrar x`"),
    (257, b"ustar", "a tar archive", "unpack it first, with `tar xf`"),
    (0, b"version https://git-lfs.github.com/spec", "a Git LFS pointer", "fetch its content first, "
     "with `git lfs pull`"),
    (0, b"\x89PNG", "a PNG picture", _IMAGE),
    (0, b"\xff\xd8\xff", "a JPEG picture", _IMAGE),
    (0, b"GIF8", "a GIF picture", _IMAGE),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 picture", _IMAGE),
    (0, b"II*\0", "a TIFF picture", _IMAGE + ", its voxel size included"),
    (0, b"MM\0*", "a TIFF picture", _IMAGE + ", its voxel size included"),
    (0, b"II+\0", "a TIFF picture", _IMAGE + ", its voxel size included"),
    (0, b"%PDF", "a PDF document", _IMAGE),
    (0, b"MATLAB 7.3 MAT-file", "a MAT file of MATLAB", "save the image as NIfTI (niftiwrite)"),
    (0, b"MATLAB 5.0 MAT-file", "a MAT file of MATLAB", "save the image as NIfTI (niftiwrite)"),
    (0, b"\xff\xff\xfe", "a surface of FreeSurfer", "give the volume (mri/*.mgz)"),
    (0, b"\xff\xff\xfd", "a surface of FreeSurfer", "give the volume (mri/*.mgz)"),
    (0, b"\xff\xff\xff", "a curvature file of FreeSurfer", "give the volume (mri/*.mgz)"),
    (0, b"TRACK\0", "streamlines of TrackVis (.trk)", _IMAGE),
    (0, b"mrtrix tracks", "streamlines of MRtrix (.tck)", _IMAGE),
)  # fmt: skip
# Patterns of text at the beginning, blanks and a byte order mark left out.
_TEXT = (
    (rb"(\.\./)*(\.git)?[/\\]annex[/\\]objects", "a git-annex pointer", _FETCH),
    (rb"(\.\./)+\.git/annex/objects", "a git-annex pointer", _FETCH),
    (rb"type\s*=\s*\w+-attribute", "a header of AFNI", _TO_NIFTI.format("3dAFNItoNIFTI")),
    (rb"(?s).{0,999}<GIFTI", "a GIfTI surface", "give the volume"),
    (rb"(?is)<!doctype html|.{0,200}<html", "a web page", _DOWNLOAD),
    (rb"<\?xml|<[A-Za-z]+[ >]", "an XML file", _DOWNLOAD),
    (rb'[{\[]\s*["{\[}\]]', "a JSON file", _DOWNLOAD),
)
_NAMES = (
    (r"\.brik(\.gz)?$", "voxels of AFNI", _TO_NIFTI.format("3dAFNItoNIFTI")),
    (r"\.rec$", "voxels of a Philips PAR/REC pair", _TO_NIFTI.format("dcm2niix")),
    (r"(^|[/\\])2dseq$", "voxels of Bruker", "convert the scan to NIfTI or DICOM"),
    (r"\.z?raw(\.gz)?$", "voxels without a header", "give the .nhdr or .mhd file beside it"),
)
_RAW = (".img", ".img.gz", ".raw", ".zraw", ".raw.gz")  # begin with voxels, any bytes
_TEXT_BYTES = bytes(range(32, 127)) + b"\t\n\r\f"


def check_kind(path, expected="an image"):
    """Refuse a file that is recognised as something else than an image this package reads.

    Raises:
        VolumeError: in one line, what the file is and what to do.
    """
    named = (
        (name, remedy)
        for pattern, name, remedy in _NAMES
        if re.search(pattern, str(path), re.IGNORECASE)
    )
    if found := next(named, None) or content_kind(path):
        raise VolumeError("{}: expected {}, received {}; {}".format(path, expected, *found))


def missing(path):
    """Why there is no file under a name, a link to nothing included, and what to do."""
    if re.search(r"(?:^|/)(?:https?|ftp|s3|gs|file):/", str(path).replace("\\", "/")):
        return "is an address, not a file; download the file and name that"
    if not os.path.islink(path):
        return "no such file or folder; check the path"
    target = os.readlink(path)
    if "annex/objects" in target.replace("\\", "/"):
        return f"is a git-annex link whose content is not here ({target}); {_FETCH}"
    return f"is a link to {target}, which does not exist; copy the file that it stands for"


def content_kind(path):
    """What a file is by its first bytes, and what to do; None where it may be an image."""
    with open(path, "rb") as file:
        head = file.read(_LENGTH)
    name = str(path).lower()
    if head[:2] != b"\x1f\x8b":
        return _kind(head, name) or _misnamed(head, name)
    try:
        with gzip.open(path, "rb") as file:
            inner = file.read(_LENGTH)
    except (OSError, EOFError, zlib.error):
        return None  # its reader says what is damaged
    if inner[:2] == b"\x1f\x8b":
        return "a file that is compressed twice", "decompress it once, with `gunzip`"
    if found := _kind(inner, name):
        return f"{found[0]} inside gzip", found[1]
    if not name.endswith((*NIFTI_SUFFIXES, *FREESURFER_SUFFIXES)):
        return "a file compressed by gzip", _DECOMPRESS.format("gunzip")
    found = _misnamed(inner, name)
    return found and (f"{found[0]} inside gzip", found[1])


def _kind(head, name):
    """What is known by its first bytes."""
    is_raw = name.endswith(_RAW)
    for start, magic, kind, remedy in _MAGIC:
        if head.startswith(magic, start) and (not is_raw or len(magic) > 5):
            return kind, remedy
    if head.startswith(b"\x89HDF"):
        if b"minc" in head or name.endswith(".mnc"):
            return "a MINC 2 (HDF5) file", _TO_NIFTI.format("mnc2nii` or `mri_convert")
        return "an HDF5 file", "save the image as NIfTI, with its affine"
    beginning = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for pattern, kind, remedy in _TEXT:
        if re.match(pattern, beginning):
            return kind, remedy
    return None


def _misnamed(head, name):
    """An image of another format than its name says, or none at all."""
    if name.endswith((*_RAW, *ITK_SUFFIXES)):
        return None
    if head.startswith(b"NRRD000"):
        return "an NRRD file", "end its name with .nrrd"
    if b"\nElementDataFile" in head:
        return "a MetaImage file", "end its name with .mha"
    if head[:4] == b"\0\0\0\1" == b"\0\0" + head[28:30] and not name.endswith(FREESURFER_SUFFIXES):
        return "an MGH file (FreeSurfer)", "end its name with .mgh (or .mgz, if it is compressed)"
    if head[344:347] in (b"n+1", b"ni1") and not name.endswith(NIFTI_SUFFIXES):
        return "a NIfTI file", "end its name with .nii (or .nii.gz, if it is compressed)"
    if head and not head.translate(None, _TEXT_BYTES):
        return "a text file", "check the name, or export the image again"
    if len(head) == _LENGTH and not head.strip(b"\0"):
        return "nothing but zeros", "its copy is damaged, copy it again"
    return None
