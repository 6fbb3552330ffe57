# SPDX-License-Identifier: MIT
"""DICOM files of which one element is replaced by anything: the right image, or one line."""

import numpy as np
import pydicom
import pytest
from hypothesis import strategies as st
from volumes.samples import EVEN, item, slice_pixels, write_multiframe, write_series, write_slice
from volumes.strange import EXAMPLES, for_all, read_or_refused

PLACE = ("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient")
NUMBERS = (*PLACE, "SliceThickness", "SpacingBetweenSlices", "RescaleSlope", "RescaleIntercept")
COUNTS = (
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("SamplesPerPixel", "PixelPaddingValue", "PixelPaddingRangeLimit"),
)
TEXTS = (
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesDescription", "Modality"),
    *("ImageType", "PhotometricInterpretation", "SpecificCharacterSet", "EchoTime", "PatientID"),
    *("SeriesNumber", "NumberOfFrames", "StudyInstanceUID"),
)
WORDS = st.sampled_from(
    [
        "",
        "0",
        "-1",
        "nan",
        "inf",
        "1e400",
        "1e30",
        "-0.5",
        "1\\2",
        "a",
        "MOSAIC",
        "SEG",
        "ISO_IR 13",
    ]
)
ELEMENT = st.one_of(
    st.tuples(st.sampled_from(NUMBERS), st.lists(WORDS, max_size=7).map("\\".join)),
    st.tuples(
        st.sampled_from(PLACE),
        st.lists(st.floats(-9, 9).map("{:.3g}".format), min_size=2, max_size=6).map("\\".join),
    ),
    st.tuples(st.sampled_from(COUNTS), st.integers(0, 2**16 - 1) | st.integers(0, 20)),
    st.tuples(st.sampled_from(TEXTS), WORDS | st.text(max_size=20)),
    st.tuples(st.sampled_from((*NUMBERS, *COUNTS, *TEXTS, "PixelData")), st.none()),
)


def replaced(path, name, value):
    """Write a file with another value of an element, allowed or not; None takes it out."""
    dataset = pydicom.dcmread(path)
    if value is None:
        if name in dataset:
            del dataset[name]
    else:
        kind = pydicom.datadict.dictionary_VR(name).split(" ")[0]
        raw = np.uint16(value).tobytes() if isinstance(value, int) else value.encode()
        raw += b" " * (len(raw) % 2)
        tag = pydicom.tag.Tag(name)
        dataset[tag] = pydicom.dataelem.RawDataElement(tag, kind, len(raw), raw, 0, False, True)
    dataset.save_as(path)


def is_as_written(volume, positions, name):
    """Whether voxels and places are right, but for what the element `name` itself may say."""
    indices = (0, 0, 0), (4, 5, len(positions) - 1)
    corners = np.array([(3, 4, min(positions)), (11, 11.5, max(positions))])
    places = volume.grid.index_to_physical(indices)
    stored = np.stack([slice_pixels(position).T for position in sorted(positions)], axis=-1)
    return (
        volume.array.shape == stored.shape
        and (name in PLACE or np.abs(places - corners).max() < 0.1)
        and (name.startswith(("Rescale", "PixelPadding")) or np.array_equal(volume.array, stored))
    )


@EXAMPLES
def test_a_slice_with_one_strange_element(tmp_path, examples):
    def check(element):
        path = write_slice(tmp_path / "slice.dcm", 5)
        replaced(path, *element)
        volume = read_or_refused(path)
        assert volume is None or is_as_written(volume, [5], element[0])

    for_all(ELEMENT, examples)(check)


@EXAMPLES
def test_a_series_with_one_strange_element_in_one_slice(tmp_path, examples, caplog):
    def check(element):
        caplog.clear()
        folder = write_series(tmp_path / "series", EVEN)
        replaced(folder / "00000002", *element)
        volume = read_or_refused(folder)
        right = volume is None or is_as_written(volume, EVEN, element[0])
        assert right or caplog.text, element

    for_all(ELEMENT, examples)(check)


@EXAMPLES
@pytest.mark.parametrize("frame", [None, 2])
def test_frames_with_one_strange_number(tmp_path, examples, frame):
    groups = {
        "PixelSpacing": "PixelMeasuresSequence",
        "ImageOrientationPatient": "PlaneOrientationSequence",
        "ImagePositionPatient": "PlanePositionSequence",
    }
    numbers = st.lists(st.floats(-1e9, 1e9) | st.just(0.0), min_size=1, max_size=6)

    def check(element):
        name, value = element

        def change(dataset):
            frames = dataset.PerFrameFunctionalGroupsSequence
            for group in frames if frame is None else [frames[frame]]:
                values = [float(f"{number:.8g}") for number in value]
                setattr(group, groups[name], [item(**{name: values})])

        path = write_multiframe(tmp_path / "frames.dcm", EVEN, change=change)
        volume = read_or_refused(path)
        assert volume is None or is_as_written(volume, EVEN, name)

    for_all(st.tuples(st.sampled_from(PLACE), numbers), examples)(check)
