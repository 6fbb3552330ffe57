# SPDX-License-Identifier: MIT
"""Results as DICOM: the image as a derived MR series, and masks as segmentations of it.

The image is the classic MR Image Storage, one file a slice, 16 bits with one slope for all slices,
since every archive, viewer and converter reads that; the float voxels of a Parametric Map would
keep every digit, but few programs show them. A segmentation lies on the grid of the image, slice
by slice, which viewers need to lay it over; it names the scan's series, too.

Reference: DICOM PS3.3, sections A.4 (MR image), A.51 (segmentation), C.7.6.2 (image plane).
"""

import logging
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pydicom.valuerep import format_number_as_ds

from segsrgan import __version__
from segsrgan.errors import UserError, VolumeError
from segsrgan.files import files_below
from segsrgan.volumes.dicom_files import merged, text, values_of, whole_number, without_warnings
from segsrgan.volumes.intensities import usual_range
from segsrgan.volumes.kinds import missing
from segsrgan.volumes.reading import is_dicom
from segsrgan.volumes.volume import Volume

_logger = logging.getLogger(__name__)

# The masks that become segmentations, and pydicom's names of what they show (SNOMED CT).
_SEGMENTS = {"cortex_mask": "CerebralCortex", "brain_mask": "Brain"}
_EQUIPMENT = {
    "Manufacturer": "SegSRGAN",
    "ManufacturerModelName": "SegSRGAN",
    "SoftwareVersions": __version__,
}
_LEVELS = 2**16 - 1
_LONGEST, _LONGEST_DECIMAL = 64, 16  # characters of a description, of a number
# Of patient and study: what must be there, be it empty, and what else may be.
_REQUIRED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"),
    *("StudyID", "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator"),
)
_UIDS = ("StudyInstanceUID", "FrameOfReferenceUID")
_OPTIONAL = (
    *("IssuerOfPatientID", "PatientAge", "PatientSize", "PatientWeight", "StudyDescription"),
    *("PatientIdentityRemoved", "DeidentificationMethod", "BodyPartExamined"),
    *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
)
# Of the image alone: how the scan was acquired, and what stands for an unknown sequence. The times
# are its slices'.
_ACQUISITION = (
    *("AcquisitionDate", "AcquisitionNumber", "PatientPosition", "ProtocolName", "SequenceName"),
    *("ScanningSequence", "SequenceVariant", "ScanOptions", "MRAcquisitionType", "EchoTime"),
    *("RepetitionTime", "InversionTime", "EchoTrainLength", "FlipAngle", "ContrastBolusAgent"),
    *("MagneticFieldStrength", "ImagingFrequency", "ImagedNucleus", "BurnedInAnnotation"),
)
_UNKNOWN = {"ScanningSequence": "RM", "SequenceVariant": "NONE", "PatientPosition": None}
_UNKNOWN |= dict.fromkeys(
    ["ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTime", "EchoTrainLength"]
)
_SCANNER = (*_EQUIPMENT, "DeviceSerialNumber", "InstitutionName", "StationName")
_INSTANCE = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "NumberOfFrames", "Modality")
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_NAMES = (
    *(*_REQUIRED, *_UIDS, *_OPTIONAL, *_ACQUISITION, *_SCANNER, *_INSTANCE),
    *("SeriesNumber", "SeriesDescription", "EffectiveEchoTime"),
)


class _Scan(NamedTuple):
    """What the results take from the scan."""

    shared: Dataset  # patient, study, frame of reference and equipment
    acquisition: Dataset
    references: dict  # keyword of a sequence -> items, of the scan's images and series
    number: int  # SeriesNumber
    description: str  # SeriesDescription


def check_dicom_source(path):
    """Raises an error, before anything is computed, where the results cannot be DICOM.

    Args:
        path: of the input, any file or folder of `read_volume`.

    Raises:
        UserError: if highdicom is not installed.
        VolumeError: if there is no input, or no DICOM file of MR in it.
    """
    _check_extra()
    path = Path(path)
    if not path.exists():
        raise VolumeError(f"{path}: {missing(path)}")
    files = files_below(path) if path.is_dir() else [path]
    found = set()
    for modality in map(_modality, filter(is_dicom, files)):
        if modality in ("MR", ""):
            return
        found.add(modality)
    raise _not_mr(path, f"Modality {', '.join(sorted(found))}" if found else path.name)


def write_dicom(volumes, images, folder):
    """Writes the results of a DICOM scan as DICOM objects of the same patient and study.

    `sr_0001.dcm`, ... are the image: a series whose slices are those of the volume's third axis,
    in the order that makes the stack right-handed. Nothing is interpolated; intensities are rounded
    to one of 65536 levels from the lowest to the highest. Each mask is a segmentation in a series
    of its own, `cortex_mask.dcm` and `brain_mask.dcm`. Their UIDs are new; the scan's images are
    named as sources.

    Args:
        volumes: name -> `Volume`, all on one grid: `"sr"`, an image (x, y, z) of real numbers in
            the scan's intensities, and, where there are any, `"cortex_mask"` and `"brain_mask"`,
            (x, y, z) of 0 and 1. Others are left out.
        images: the `images` of the `segsrgan.volumes.reading.Source` of the scan.
        folder: an existing folder; the files are written into it one by one.

    Raises:
        UserError: if highdicom is not installed.
        ValueError: if there are no images, or masks lie on another grid.
        VolumeError: if the scan is not MR, voxels are NaN or infinite, or files cannot be written.

    Examples:
        >>> volume, source = read_with_source("examination", series="T2 axial")
        >>> write_dicom({"sr": volume}, source.images, "out")
    """
    _check_extra()
    if not images:
        raise ValueError("images must be the slices of a DICOM scan, received none")
    folder, image = Path(folder), _right_handed(volumes["sr"])
    masks = {name: _right_handed(volumes[name]) for name in _SEGMENTS if name in volumes}
    for name, mask in masks.items():
        if not mask.grid.is_close(image.grid):
            raise ValueError(f"{name} must lie on the grid of sr, {image}, received {mask}")
    if not np.isfinite(image.array).all():
        raise VolumeError(f"{folder}: the image has voxels that are NaN or infinite; repair them")
    with without_warnings():  # of what the standard forbids in the scan's header, which is kept
        scan = _scan(images)
        try:
            planes = _write_image(image, scan, folder)
            for number, (name, mask) in enumerate(masks.items(), 2):
                segmentation = _segmentation(mask, _SEGMENTS[name], number, planes, scan)
                segmentation.save_as(folder / f"{name}.dcm", enforce_file_format=True)
        except OSError as error:
            raise VolumeError(
                f"{folder}: cannot be written ({error.strerror or error}); choose an existing "
                "folder with free space that you may write to"
            ) from error


def _check_extra():
    if find_spec("highdicom") is None:
        raise UserError("--dicom needs highdicom; pip install 'SegSRGAN[dicom]'")


def _not_mr(path, what):
    return VolumeError(
        f"{path}: --dicom needs a DICOM series of MR as input, received {what}; give the folder "
        "of the scan's DICOM files, or leave out --dicom"
    )


def _modality(path):
    try:
        return text(_values(path, ["Modality"]), "Modality")
    except Exception:  # pydicom's, of any damage, which the reader of the file reports
        return ""


def _values(path, names):
    """Dict of the values, by keyword, of a file's header."""
    with without_warnings():
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=names)
        return values_of(header, names)


def _right_handed(volume):
    """The volume, its slices in reverse order where that makes its axes right-handed."""
    if np.linalg.det(volume.direction) > 0:
        return volume
    last = volume.grid.index_to_physical((0, 0, volume.array.shape[2] - 1))
    return Volume(volume.array[..., ::-1], volume.spacing, last, volume.direction * [1, 1, -1])


def _scan(images):
    """The `_Scan` of files and frame numbers; what it takes once comes from the first of them."""
    frames, items, series, first = {}, [], {}, {}
    for path, frame in images:
        frames.setdefault(path, []).append(frame + 1)
    for path, numbers in frames.items():
        values = _values(path, [*_INSTANCE] if first else [*_NAMES, *_GROUPS])
        first = first or values
        kind, instance, uid, count, modality = (text(values, name) for name in _INSTANCE)
        if modality not in ("MR", ""):
            raise _not_mr(path, f"Modality {modality}")
        if kind and instance:
            items.append(_dataset(ReferencedSOPClassUID=kind, ReferencedSOPInstanceUID=instance))
            if len(numbers) < int(count or 1):
                items[-1].ReferencedFrameNumber = sorted(numbers)
            if uid:
                series.setdefault(uid, []).append(items[-1])
    references = {
        "SourceImageSequence": items,
        "ReferencedSeriesSequence": [
            _dataset(SeriesInstanceUID=uid, ReferencedInstanceSequence=instances)
            for uid, instances in series.items()
        ],
    }
    path, frame = images[0]
    shared, per_frame = (list(first.get(name) or ()) for name in _GROUPS)
    first = merged(first, [*shared, *per_frame[frame : frame + 1]], _NAMES)
    first.setdefault("EchoTime", first.get("EffectiveEchoTime"))
    return _Scan(
        _shared(first, path),
        _dataset(**_UNKNOWN | _texts(first, _ACQUISITION)),
        {name: found for name, found in references.items() if found},
        abs(whole_number(first, "SeriesNumber") or 0),
        text(first, "SeriesDescription"),
    )


def _shared(values, path):
    """Patient, study, frame of reference and equipment, of a header's values."""
    found = dict.fromkeys(_REQUIRED) | _texts(values, (*_REQUIRED, *_UIDS, *_OPTIONAL))
    for name in _UIDS:
        if name not in found:
            _logger.warning("%s: %s is missing; the DICOM results have a new one", path, name)
            found[name] = generate_uid(None)
    if scanner := _texts(values, _SCANNER):
        scanner["PurposeOfReferenceCodeSequence"] = [_code("AcquisitionEquipment")]
        found["ContributingEquipmentSequence"] = [_dataset(**{"Manufacturer": "-"} | scanner)]
    date, time = datetime.now().strftime("%Y%m%d %H%M%S").split()
    found |= {"ContentDate": date, "ContentTime": time, "SpecificCharacterSet": "ISO_IR 192"}
    return _dataset(**found, **_EQUIPMENT, InstanceCreationDate=date, InstanceCreationTime=time)


def _write_image(image, scan, folder):
    """Writes the slices of a volume; returns a `Dataset` of the place and the names of each."""
    low, high = float(image.array.min()), float(image.array.max())
    slope, intercept = _decimals([(high - low) / _LEVELS or 1, low])
    plane, common = _plane(image, scan), _derived(image, scan)
    common.RescaleSlope, common.RescaleIntercept, common.RescaleType = slope, intercept, "US"
    planes, blank = [], _dataset(**dict.fromkeys(_REQUIRED))
    for k in range(image.array.shape[2]):
        place = _dataset(
            SOPInstanceUID=generate_uid(None),
            InstanceNumber=k + 1,
            ImagePositionPatient=_decimals(image.grid.index_to_physical((0, 0, k))),
        )
        planes.append(_union(blank, plane, place))
        dataset = _union(scan.shared, scan.acquisition, common, plane, place)
        levels = (image.array[..., k].T.astype(np.float64) - float(intercept)) / float(slope)
        dataset.PixelData = levels.round().clip(0, _LEVELS).astype("<u2").tobytes()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.save_as(folder / f"sr_{k + 1:04d}.dcm", enforce_file_format=True)
    return planes


def _plane(image, scan):
    """What segmentations need to know of the slices of an image."""
    x, y, z = _decimals(image.spacing)
    columns, rows, _ = image.array.shape
    return _dataset(
        SOPClassUID=MRImageStorage,
        Modality="MR",
        SeriesInstanceUID=generate_uid(None),
        **{name: scan.shared[name].value for name in _UIDS},
        Rows=rows,
        Columns=columns,
        PixelSpacing=[y, x],  # DICOM names the distance of rows first
        SliceThickness=z,
        SpacingBetweenSlices=z,
        ImageOrientationPatient=_decimals(image.direction[:, :2].T.ravel()),
    )


def _derived(image, scan):
    """What an image is made of, and what its pixels are."""
    size = " x ".join(f"{size:.3g}" for size in image.spacing)
    dataset = _dataset(
        ImageType=["DERIVED", "SECONDARY", "OTHER"],
        DerivationDescription=f"Super-resolution to {size} mm by SegSRGAN {__version__}",
        DerivationCodeSequence=[_code("SpatialResampling")],
        **scan.references,
        **{"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"},
        **{"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 0},
        **_series(scan, 1),
    )
    low, high = usual_range(image.array)
    if high - low >= 1:  # the least that the standard allows
        dataset.WindowCenter, dataset.WindowWidth = _decimals([(low + high) / 2, high - low])
    return dataset


def _segmentation(mask, name, number, planes, scan):
    """The segmentation of a mask (x, y, z) on planes; `name` is pydicom's of what it shows."""
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom.sr.codedict import codes

    what, family = getattr(codes.SCT, name), codes.DCM.ArtificialIntelligence
    segment = SegmentDescription(
        segment_number=1,
        segment_label=what.meaning,
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=what,
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence("SegSRGAN", family, __version__),
    )
    dataset = Segmentation(
        source_images=planes,
        pixel_array=mask.array.T.astype(np.uint8),
        segmentation_type="BINARY",
        segment_descriptions=[segment],
        series_instance_uid=generate_uid(None),
        series_number=number,
        sop_instance_uid=generate_uid(None),
        instance_number=1,
        manufacturer="SegSRGAN",
        manufacturer_model_name="SegSRGAN",
        software_versions=__version__,
        device_serial_number="none",
        content_label=what.meaning.upper().replace(" ", "_"),
        omit_empty_frames=False,
    )
    libraries = dataset.ContributingEquipmentSequence
    dataset.update(_union(scan.shared, _dataset(**_series(scan, number, what.meaning.lower()))))
    equipment = [*scan.shared.get("ContributingEquipmentSequence", ()), *libraries]
    dataset.ContributingEquipmentSequence = equipment
    for name, items in scan.references.items():
        dataset[name].value.extend(items)
    return dataset


def _series(scan, number, what=""):
    """Number and description of a series of results, which begin with those of the scan."""
    name = f" SegSRGAN {what}".rstrip()
    description = (scan.description[: _LONGEST - len(name)] + name).strip()
    return {"SeriesNumber": 100 * (scan.number % 10**7) + number, "SeriesDescription": description}


def _dataset(**values):
    """A `Dataset` of keywords and values."""
    dataset = Dataset()
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset


def _union(*datasets):
    """A `Dataset` of the elements of several; of two the later one counts."""
    result = Dataset()
    for dataset in datasets:
        result.update(dataset)
    return result


def _texts(values, names):
    """Dict of those values, by keyword, that are not empty, as Unicode text."""
    found = {name: text(values, name) for name in names}
    for name, value in found.items():  # an enhanced image has them as binary numbers
        if len(value) > _LONGEST_DECIMAL and dictionary_VR(name) == "DS":
            found[name] = _decimals(value.split("\\"))
    return {name: value for name, value in found.items() if value}


def _decimals(numbers):
    """Texts of numbers, as long as DICOM allows."""
    return [format_number_as_ds(float(number) + 0.0) for number in numbers]


def _code(name):
    """The coded concept that pydicom gives a name in DICOM's own scheme."""
    from highdicom.sr import CodedConcept
    from pydicom.sr.codedict import codes

    return CodedConcept.from_code(getattr(codes.DCM, name))
