# SPDX-License-Identifier: MIT
"""Headers of NIfTI-1, NIfTI-2, Analyze 7.5 and FreeSurfer's MGH: each field checked before use.

nibabel knows the layouts; what a header may say is decided here, for neither a made-up spacing
nor a header's bytes in place of voxels must happen silently to a medical image.

Reference: the NIfTI-1 and NIfTI-2 standards, https://nifti.nimh.nih.gov.
"""

import logging
import math
from functools import cached_property

import nibabel
import numpy as np
from nibabel.freesurfer import mghformat
from nibabel.quaternions import quat2mat

from segsrgan.errors import VolumeError
from segsrgan.tables import FREESURFER_SUFFIXES
from segsrgan.volumes.affine import distance, problem
from segsrgan.volumes.kinds import content_kind
from segsrgan.volumes.volume import is_orthonormal, nearest_rotation, spatial_shape

_logger = logging.getLogger(__name__)

LONGEST = nibabel.Nifti2Header.sizeof_hdr + 8  # and the size of an extension
_MM_PER_UNIT = {1: 1000.0, 3: 0.001}  # everything else is taken as mm
_UNITS = {1: "metres", 3: "micrometres"}
_NO_SCALARS = {
    "complex": "give the magnitude of its complex numbers",
    "RGB": "give the scan itself instead of a picture in colours",
    "float128": "convert it to float32",
}
_POSITIVE = "repair the voxel size, it must be positive in mm"
_FORMS = ("sform", "qform")
_LONGEST_QUATERNION = 1.001  # squared; rounding makes it longer than 1
_HEADER = 348  # bytes
_MGH_VERSION = b"\0\0\0\1"
_SAME_ROTATION = 2e-3  # elements of matrices; a sheared form's nearest rotation differs by more


def parse(raw, path, paired):
    """The header that begins a file.

    Args:
        raw: the first `LONGEST` bytes of the file, or all of them.
        path: of the file, for messages.
        paired: whether the voxels are in a file of their own.

    Raises:
        VolumeError: if it is no header of these formats, or one of another layout.
    """
    if path.name.lower().endswith(FREESURFER_SUFFIXES):
        return _MGH(_mgh_fields(raw, path), path, paired)
    for order, code in (("little", "<"), ("big", ">")):
        size = int.from_bytes(raw[:4], order)
        if size not in (348, 540) or len(raw) < size:
            continue
        kind = nibabel.Nifti1Header if size == 348 else nibabel.Nifti2Header
        fields = kind(raw[:size], code, check=False)
        if fields["magic"].item()[:3] in (kind.single_magic[:3], kind.pair_magic[:3]):
            has_extension = raw[size : size + 1] not in (b"", b"\0")
            extension = int.from_bytes(raw[size + 4 : size + 8], order) if has_extension else 0
            return Header(fields, path, paired, extension)
        if paired and size == 348:
            return _Analyze(nibabel.AnalyzeHeader(raw[:size], code, check=False), path, paired)
        raise VolumeError(
            f"{path}: damaged header, its magic is {fields['magic'].item()!r} instead of "
            f"{kind.single_magic!r} (vox_offset says {float(fields['vox_offset']):g}); convert the "
            "image again"
        )
    kind = content_kind(path) or (
        f"something else ({len(raw)} bytes, sizeof_hdr says {int.from_bytes(raw[:4], 'little')} "
        "instead of 348 or 540)",
        "check that the file is complete and its name right",
    )
    raise VolumeError("{}: expected a NIfTI or Analyze header, received {}; {}".format(path, *kind))


def _mgh_fields(raw, path):
    if len(raw) < mghformat.DATA_OFFSET or raw[:4] != _MGH_VERSION:
        raise VolumeError(
            f"{path}: expected an MGH header of {mghformat.DATA_OFFSET} bytes, received "
            f"{len(raw)}, the first {raw[:4]!r} (version 1 is {_MGH_VERSION!r}); check that the "
            "file is complete and its name right"
        )
    if raw[28:30] != b"\0\1":  # nibabel would make up 1 mm
        raise VolumeError(
            f"{path}: its header says nothing of voxel size and orientation (goodRASFlag); "
            "convert the image that it was made from again"
        )
    return mghformat.MGHHeader(raw, check=False)


class Header:
    """What a NIfTI or Analyze header says of the voxels and their place.

    Attributes:
        path: of the file, for messages.
        shape: voxels along (x, y, z).
        dtype: of the stored voxels, byte order included.
        size: bytes of all voxels.
        end: the last byte of their file that the voxels may need.
    """

    _size_field, _type_field, _codes = "dim", "datatype", nibabel.nifti1.data_type_codes

    def __init__(self, fields, path, paired, extension=0):
        self._fields, self.path, self._paired = fields, path, paired
        # Bytes of the first extension; what is no multiple of 16 is none.
        self._extension = extension if extension % 16 == 0 and extension < 2**24 else 0
        self.shape = self._shape(*self._sizes())
        self.dtype = self._dtype()
        self.size = math.prod(self.shape) * self.dtype.itemsize
        self.end = max(self._offsets()) + self.size

    @property
    def has_orientation(self):
        """Whether the header says how the axes lie in the patient."""
        return any(self._fields[f"{form}_code"] > 0 for form in _FORMS)

    @property
    def _mm(self):
        """Millimetres in the unit of length."""
        return _MM_PER_UNIT.get(self._unit, 1.0)

    @property
    def _unit(self):
        return int(self._fields.get("xyzt_units", 0)) & 7

    def _damaged(self, field, value, remedy="export the image again"):
        return VolumeError(f"{self.path}: damaged header, {field} = {value}; {remedy}")

    def _warn(self, text, *values):
        _logger.warning(f"%s: {text}", self.path, *values)

    def _sizes(self):
        count, *sizes = (int(size) for size in self._fields["dim"])
        return count, sizes

    def _shape(self, count, sizes):
        """Three sizes; further axes must have one element, or none."""
        sizes = [1 if k > 2 and size == 0 else size for k, size in enumerate(sizes[:count])]
        if not 1 <= count <= 7 or min(sizes) < 1:
            raise self._damaged(self._size_field, [count, *sizes])
        if 3000 <= self._fields.get("intent_code", 0) < 3100:
            raise VolumeError(
                f"{self.path}: a CIFTI file, whose numbers belong to points of the brain's "
                "surface; give the image, or extract one with `wb_command -cifti-separate`"
            )
        return spatial_shape(sizes, self.path)

    def _dtype(self):
        code = int(self._fields[self._type_field])
        label = self._codes.label[code] if code in self._codes.label else "unknown"
        dtype = np.dtype(np.void if label == "unknown" else self._codes.dtype[code])
        if dtype.kind not in "iuf":
            hint = "export the image again, as one of intensities"
            hint = next((text for part, text in _NO_SCALARS.items() if part in label), hint)
            raise VolumeError(
                f"{self.path}: expected one real number per voxel, received {self._type_field} "
                f"{code} ({label}); {hint}"
            )
        return dtype.newbyteorder(self._fields.endianness)

    def _offsets(self):
        """The first byte at which voxels can begin in their file, and that of vox_offset."""
        declared = float(self._fields["vox_offset"])
        if not declared.is_integer() or declared < 0:
            raise self._damaged("vox_offset", f"{declared:.9g}", "it must be a number of bytes")
        least = 0 if self._paired else self._fields.single_vox_offset + self._extension
        return least, int(declared)

    def start(self, total):
        """The byte at which the voxels begin in their file of `total` bytes.

        Where magic or vox_offset contradicts the layout, the size of the file must leave no doubt.
        """
        least, start = self._offsets()
        magic = bytes(self._fields.get("magic", b"")).decode("latin-1")[:3]
        if not self._paired and total - self.size == start < least:
            least -= self._extension  # there is none
        if start < least or magic[1:2] == ("+" if self._paired else "i"):
            layout = "a .hdr/.img pair" if self._paired else "a single file"
            text = f"magic {magic!r} and vox_offset {start} in {layout} of {total} bytes"
            if total - self.size not in {least, max(least, start)}:
                raise VolumeError(
                    f"{self.path}: damaged header, {text}, where {self.size} bytes of voxels begin "
                    f"at {least} or later; convert the image again"
                )
            start = total - self.size
            self._warn("%s; taking the voxels from byte %d on", text, start)
        text = f"{start + self.size} bytes (dim {self.shape}, datatype {self.dtype}, from {start})"
        if start + self.size > total:
            raise VolumeError(
                f"{self.path}: truncated, expected {text}, the file of its voxels holds "
                f"{total}; copy or export it again, or repair its header"
            )
        self._compare(total - start - self.size, text)
        return start

    def _compare(self, surplus, text):
        bits = int(self._fields["bitpix"])
        if bits != 8 * self.dtype.itemsize:
            if surplus:
                raise self._damaged("bitpix", f"{bits} beside datatype {self.dtype}")
            self._warn("bitpix = %d beside datatype %s; taking the latter", bits, self.dtype)
        elif surplus and self._paired and surplus >= min(_HEADER, self.size // self.shape[2]):
            raise VolumeError(
                f"{self.path}: expected {text}, the file of its voxels holds {surplus} more; give "
                "the two halves of one image, or repair dim"
            )
        elif surplus:
            text = f"its header speaks of {text}, the file has {surplus} more"
            self._warn("%s; check dim and datatype", text)

    def scale(self):
        """Slope and intercept of the intensities (float32 of a stored v is slope * v + inter)."""
        slope, inter = float(self._fields["scl_slope"]), float(self._fields["scl_inter"])
        if math.isnan(slope):
            self._warn("scl_slope = nan; taking the intensities as they are stored")
        if slope == 0 or math.isnan(slope):
            return 1.0, 0.0
        if not (math.isfinite(slope) and math.isfinite(inter)):
            raise self._damaged("scl_slope, scl_inter", f"{slope:g}, {inter:g}")
        return slope, inter

    def _voxel_size(self):
        """That of pixdim, mm, where no form holds it; of a flip, as SPM marks it, the length."""
        sizes = np.array(self._fields["pixdim"][1:4], np.float64)
        if not np.all(np.isfinite(sizes) & (sizes != 0)):
            raise self._damaged("pixdim", f"{_product(sizes)} mm", _POSITIVE)
        return np.abs(sizes)

    def _sform(self):
        affine = np.array([self._fields[f"srow_{axis}"] for axis in "xyz"], np.float64)
        lengths = np.linalg.norm(affine[:, :3], axis=0)
        if not np.isfinite([*lengths, *affine[:, 3]]).all() or lengths.min() == 0:
            raise self._damaged("srow_x, srow_y, srow_z", affine.tolist(), "repair the sform")
        return affine

    def _qform(self):
        """Of the quaternion, normalised as the standard's own code does."""
        vector = np.array([self._fields[f"quatern_{part}"] for part in "bcd"], np.float64)
        if not vector @ vector < _LONGEST_QUATERNION:
            text = f"{vector.tolist()}, longer than 1"
            raise self._damaged("quatern_b, quatern_c, quatern_d", text, "repair the qform")
        square, flip = 1 - vector @ vector, float(self._fields["pixdim"][0])
        # Rounding of b, c, d to float32 must not turn an exact half turn by a thousandth.
        first = np.sqrt(square) if square > 3 * np.finfo(np.float32).eps else 0.0
        offset = [float(self._fields[f"qoffset_{axis}"]) for axis in "xyz"]
        if flip not in (-1, 0, 1):
            raise self._damaged("pixdim[0] (qfac)", f"{flip:g}", "it must be 1 or -1")
        if not np.isfinite(offset).all():
            raise self._damaged("qoffset_x, qoffset_y, qoffset_z", offset, "repair the qform")
        rotation = nearest_rotation(quat2mat([first, *vector]) * [1, 1, flip or 1])
        return np.column_stack([rotation * self._voxel_size(), offset])

    def _forms(self):
        """Affines (3, 4) by form, the one that is taken first, and why others are unusable."""
        forms, damage = {}, {}
        for name, form in (("sform", self._sform), ("qform", self._qform)):
            if self._fields.get(f"{name}_code", 0) > 0:
                try:
                    forms[name] = self._mm * form()
                except VolumeError as error:
                    damage[name] = error
        if len(forms) == 2 and self._is_registration(*forms.values()):
            forms = {"qform": forms["qform"], "sform": forms["sform"]}
        return forms, damage

    def _is_registration(self, sform, qform):
        """Whether a sform is that of a registration that bends the image, and the qform is not."""
        if problem(qform, self.shape):
            return False
        bent = sform[:, :3] / np.linalg.norm(sform[:, :3], axis=0)
        nearest = np.abs(nearest_rotation(sform[:, :3]) - nearest_rotation(qform[:, :3])).max()
        aligned = self._fields["sform_code"] > 1 == self._fields["qform_code"]
        sheared = not is_orthonormal(bent, _SAME_ROTATION)
        return bool(problem(sform, self.shape)) or (
            aligned and sheared and nearest > _SAME_ROTATION
        )

    def space(self):
        """The code of the form that is taken, see `Grid`; 1 without one, or if none is known."""
        form = next(iter(self._forms()[0]), None)
        code = int(self._fields[f"{form}_code"]) if form else 1
        return code if code in nibabel.nifti1.xform_codes.value_set() else 1

    def two_forms(self):
        """Affines (3, 4), RAS, mm, of the form that is taken and the other; () if they agree."""
        forms = tuple(self._forms()[0].values())
        return () if len(forms) < 2 or self._is_close(*forms) else forms

    def _is_close(self, affine, other):
        half = np.linalg.norm(affine[:, :3], axis=0).min() / 2
        return distance(affine, other, self.shape) <= half

    def affine(self):
        """The affine (3, 4), RAS, mm, of the sform, else of the qform, else of pixdim alone."""
        if self._unit > 3:
            self._warn("xyzt_units = %d is no unit of length; taking mm", self._unit)
        affine = self._form() if self.has_orientation else self._without_form()
        if self._mm != 1 and (reason := problem(affine, self.shape)):
            raise self._damaged("xyzt_units", f"{self._unit} ({_UNITS[self._unit]})", reason)
        return affine

    def _without_form(self):
        size = self._voxel_size() * self._mm
        self._warn("its header has no orientation; taking LPS axes (left may be right)")
        self._warn_of_flips()
        return np.column_stack([np.diag([-1.0, -1, 1]) * size, np.zeros(3)])

    def _form(self):
        forms, damage = self._forms()
        if not forms:
            raise next(iter(damage.values()))
        (name, affine), *other = forms.items()
        for form, error in damage.items():
            reason = str(error).removeprefix(f"{self.path}: ")
            self._warn("its %s is unusable (%s); taking its %s", form, reason, name)
        if name == "qform":
            self._warn_of_flips()
        for form, second in other:
            if not self._is_close(affine, second):
                text = "its %s and %s place voxels up to %.1f mm apart; taking the %s"
                text += " (the other is sheared or impossible)" * (name == "qform")
                self._warn(text, name, form, distance(affine, second, self.shape), name)
        if name == "sform":
            self._warn_of_pixdim(affine)
        return affine

    def _warn_of_flips(self):
        sizes = self._fields["pixdim"][1:4]
        if min(sizes) < 0:
            self._warn("pixdim = %s mm; taking its absolute values", _product(sizes))

    def has_two_sizes(self):
        """Whether the voxel size is that of a sform which pixdim contradicts."""
        form, affine = next(iter(self._forms()[0].items()), ("", None))
        return form == "sform" and not np.allclose(*self._two_sizes(affine), rtol=1e-3)

    def _two_sizes(self, affine):
        return np.linalg.norm(affine[:, :3], axis=0), self._fields["pixdim"][1:4] * self._mm

    def _warn_of_pixdim(self, affine):
        spacing, sizes = self._two_sizes(affine)
        if not np.allclose(spacing, sizes, rtol=1e-3):
            text = "voxel size %s mm by its sform but %s by pixdim; taking the sform"
            if np.allclose(spacing, self._mm, rtol=1e-3):
                text += " (which has no scale, the scan would be isotropic)"
            self._warn(text, _product(spacing), _product(sizes))


class _Analyze(Header):
    """Analyze 7.5's, which has no orientation; SPM writes it into a file of MATLAB beside."""

    def scale(self):  # SPM99's is where others write zeros
        slope = float(self._fields["funused1"])
        is_scale = math.isfinite(slope) and abs(slope) > np.finfo(np.float32).tiny
        return slope if is_scale else 1.0, 0.0

    @property
    def has_orientation(self):
        return self._spm is not None

    @cached_property
    def _spm(self):
        """The affine (3, 4), RAS, mm, of SPM's file; None where there is none."""
        if not self.path.with_suffix(".mat").is_file():
            return None
        try:
            return nibabel.Spm2AnalyzeImage.from_filename(self.path).affine[:3]
        except Exception:  # other programs' files of that name fail in many ways
            return None

    def _form(self):
        self._warn("taking the orientation of %s.mat (SPM)", self.path.stem)
        return self._spm


class _MGH(_Analyze):
    """FreeSurfer's."""

    _size_field, _type_field, _codes = "dims", "type", mghformat.data_type_codes
    has_orientation = True

    def _sizes(self):
        return 4, [int(size) for size in self._fields["dims"]]

    def _offsets(self):
        return mghformat.DATA_OFFSET, mghformat.DATA_OFFSET

    def _compare(self, surplus, text):
        pass  # tags may follow

    def scale(self):
        return 1.0, 0.0

    def affine(self):
        sizes = self._fields["delta"]
        if not np.all(np.isfinite(sizes) & (sizes > 0)):
            raise self._damaged("delta", f"{_product(sizes)} mm", _POSITIVE)
        cosines = self._fields["Mdc"]
        if not np.allclose(np.linalg.norm(cosines, axis=1), 1, atol=0.01):
            raise self._damaged("Mdc", cosines.tolist(), "its rows must have length 1")
        return self._fields.get_affine()[:3]


def _product(sizes):
    return " x ".join(f"{size:.4g}" for size in sizes)
