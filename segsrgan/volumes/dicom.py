# SPDX-License-Identifier: MIT
"""DICOM files and folders: which series of a folder to take, and the volume it makes."""

import logging
import unicodedata
from dataclasses import replace

import numpy as np

from segsrgan.errors import VolumeError
from segsrgan.volumes.dicom_files import Damaged, NoScan, scan
from segsrgan.volumes.dicom_stack import assembled, is_derived, is_fat, places_of

_logger = logging.getLogger(__name__)

_FEW = 5  # slices; a series of fewer is a localizer rather than a scan
_AS_LARGE = 0.8
_SAME_CONTRAST = ("EchoTime", "InversionTime", "FlipAngle", "ImageType", "FrameOfReferenceUID")


def read_dicom_file(path, labels=False):
    """The volume of one file and its `Stack`: a multi-frame image, or one slice.

    The spacing across a lone slice is its SpacingBetweenSlices, else its SliceThickness.
    """
    stack = scan(path)
    return assembled(stack, path, labels), stack


def read_dicom_series(folder, files, series=None, labels=False):
    """The volume of one series, see `read_volume`, of files of a folder, and its `Stack`."""
    stacks, damaged, refused, no_scans = _scan_all(files)
    usable = [stack for stack in stacks if not stack.slices[0].problem]
    if not usable:
        _refuse(folder, stacks, [*refused, *damaged, *no_scans])
    if series is None:
        chosen = max(usable, key=_rank)
        _check_patients(chosen, usable, folder)
        _check_choice(chosen, usable, folder)
    else:
        chosen = _named(stacks, str(series).strip(), folder, no_scans)
    uids = chosen.uid.split(",")
    if lost := [error for error in (*damaged, *refused) if error.series[0] in uids]:
        raise VolumeError(f"{lost[0]} ({len(lost)} files of its series)")
    for error in (*refused, *(error for error in damaged if not error.series[0])):
        _logger.warning("left out: %s", error)
    taken = {id(image) for image in chosen.slices}
    others = [stack for stack in stacks if id(stack.slices[0]) not in taken]
    if no_scans:
        text = "%s: leaving out %d files that are no scans, such as %s"
        _logger.info(text, folder, len(no_scans), no_scans[0])
    rest = f"; also there: {', '.join(map(str, others))}" if others else ""
    _logger.info("%s: taking %s%s", folder, chosen, rest)
    _check_rest(chosen, [stack for stack in others if stack.uid in uids], folder)
    return assembled(chosen, f"{folder}: {chosen}", labels), chosen


def find_scans(files):
    """A `Stack` of each series among files: scans, where there are some, rather than localizers.

    What is derived is left out as well; in the order of the files.
    """
    usable = [stack for stack in _scan_all(files)[0] if not stack.slices[0].problem]
    largest = {stack.uid: stack for stack in sorted(usable, key=_rank)}
    found = [stack for stack in usable if largest[stack.uid] is stack]
    return [stack for stack in found if _rank(stack)[0]] or found


def _scan_all(files):
    """Stacks of all images, by series and geometry; damaged, unusable ones, and what is no scan."""
    stacks, damaged, refused, no_scans = [], [], [], []
    for file in files:
        try:
            new = scan(file)
        except NoScan as error:
            _logger.debug("left out: %s", error)
            no_scans.append(error)
        except Damaged as error:
            damaged.append(error)
        except VolumeError as error:
            refused.append(error)
        else:
            alike = (
                stack
                for stack in stacks
                if stack.uid == new.uid
                and _is_of_one_patient(stack, new)
                and stack.slices[0].is_parallel(new.slices[0])
            )
            if found := next(alike, None):
                found.slices.extend(new.slices)
                found.patient = found.patient or new.patient
            else:
                stacks.append(new)
    for stack in stacks:  # it is an original where one of its slices is
        kinds = [image.labels["ImageType"] or stack.image_type for image in stack.slices]
        stack.image_type = min(kinds, key=is_derived)
    return stacks, damaged, refused, no_scans


def _is_of_one_patient(stack, other):
    """Whether the PatientID is the same, or that of one has been removed."""
    return stack.patient == other.patient or not (stack.patient and other.patient)


def _refuse(folder, stacks, errors):
    """Say why a folder without usable slices has none."""
    if stacks:
        images = stacks[0].slices
        count = sum(len(stack.slices) for stack in stacks)
        raise VolumeError(
            f"{images[0].path}: {images[0].problem} ({len(images)} of {count} slices of the folder)"
        )
    if errors:
        raise errors[0]
    raise VolumeError(
        f"{folder}: expected a folder with DICOM images, received none; check the path"
    )


def _positions(stack):
    return places_of(stack.slices)[1][-1] + 1


def _rank(stack):
    """What is larger is taken first: scans before what was made of them, then the most slices."""
    is_scan = not is_derived(stack.image_type) and _positions(stack) >= _FEW
    return is_scan, _positions(stack), not is_fat(stack.image_type)


def _check_patients(chosen, stacks, folder):
    """Refuse scans of several patients, of which one would be taken and the others forgotten."""
    other = next((s for s in stacks if _rank(s)[0] and not _is_of_one_patient(s, chosen)), None)
    if other is not None:
        raise VolumeError(
            f"{folder}: scans of several patients (PatientID {chosen.patient!r} of {chosen}, "
            f"{other.patient!r} of {other}); put each into a folder of its own, or name one: "
            f"--series {chosen.uid}"
        )


def _check_choice(chosen, stacks, folder):
    """Warn of series that might as well be meant, or that complete the chosen one."""
    count = _positions(chosen)
    others = [stack for stack in stacks if stack.uid != chosen.uid]
    if count == 1 and others:
        raise VolumeError(
            f"{folder}: {len({stack.uid for stack in stacks})} series of one slice each; if an "
            "anonymiser gave each file a SeriesInstanceUID of its own, export them again with one, "
            f"or merge them: --series {chosen.uid},{others[0].uid},..."
        )
    if parts := [stack for stack in others if _completes(stack, chosen)]:
        total = count + sum(map(_positions, parts))
        _logger.warning(
            "%s: taking %d of %d slices; %s has the others; --series %s merges them",
            *(folder, count, total, ", ".join(map(str, parts))),
            ",".join(stack.uid for stack in (chosen, *parts)),
        )
    rivals = [
        stack
        for stack in others
        if stack not in parts
        and _positions(stack) >= _AS_LARGE * count
        and (_rank(stack)[0] == _rank(chosen)[0] or _positions(stack) > count)
    ]
    if rivals:
        _logger.warning(
            "%s: taking %s (%s), others are as large or larger: %s; --series chooses",
            *(folder, chosen, chosen.image_type or "no ImageType"),
            ", ".join(f"{stack} ({stack.image_type or 'no ImageType'})" for stack in rivals),
        )


def _completes(stack, chosen):
    """Whether the slices of two series alternate or follow each other on one even grid."""
    first, other = chosen.slices[0], stack.slices[0]
    if not first.is_parallel(other) or stack.patient != chosen.patient or _positions(chosen) < 2:
        return False
    if any(first.labels[name] != other.labels[name] for name in _SAME_CONTRAST):
        return False
    offsets = np.array([image.origin for image in (*chosen.slices, *stack.slices)]) - first.origin
    offsets = offsets @ first.direction
    heights = np.split(offsets[:, 2].round(2), [len(chosen.slices)])
    gaps = np.diff(np.sort(np.concatenate([np.unique(part) for part in heights])))
    aligned = (np.abs(offsets[:, :2]) < 0.5 * np.array(first.spacing[:2])).all()
    return bool(aligned and gaps.min() > 0.5 * gaps.max())


def _named(stacks, text, folder, no_scans):
    """The stack, or the merged stacks, of one series or of several by comma."""
    try:
        return _find(stacks, text, folder)
    except VolumeError:
        for error in no_scans:
            if text and _folded(text) in map(_folded, error.series):
                raise error from None
        parts = [part.strip() for part in text.split(",") if part.strip()]
        if len(parts) < 2:
            raise
    found = list({id(found): found for found in (_find(stacks, p, folder) for p in parts)}.values())
    if not all(found[0].slices[0].is_parallel(stack.slices[0]) for stack in found):
        raise VolumeError(
            f"{folder}: {' and '.join(map(str, found))} differ in ImageOrientationPatient, "
            "PixelSpacing, Rows or Columns, and cannot be merged; name one"
        )
    if len(patients := {stack.patient for stack in found}) > 1:
        raise VolumeError(
            f"{folder}: {' and '.join(map(str, found))} are of several patients (PatientID "
            f"{', '.join(map(repr, sorted(patients)))}), and cannot be merged; name one"
        )
    slices = [image for stack in found for image in stack.slices]
    return replace(found[0], uid=",".join(stack.uid for stack in found), slices=slices)


def _find(stacks, text, folder):
    """The stack with most positions of the one series with a UID, number or description."""
    wanted, found = _folded(text), []
    for matches in (
        lambda stack: text == stack.uid,
        lambda stack: text == stack.number,
        lambda stack: wanted == _folded(stack.description),
        lambda stack: text in stack.uid or wanted in _folded(stack.description),
    ):
        found = found or [stack for stack in stacks if text and matches(stack)]
    if len({stack.uid for stack in found}) == 1:
        return max(found, key=_positions)
    raise VolumeError(
        f"{folder}: expected the name of one series, received {text!r}; give the UID of one of: "
        + ", ".join(map(str, found or stacks))
    )


def _folded(text):
    return unicodedata.normalize("NFC", text).casefold()


def _check_rest(chosen, rest, folder):
    """Refuse or report the slices of a series that do not belong to its chosen stack."""
    first = chosen.slices[0]
    count, total = len(chosen.slices), sum(len(stack.slices) for stack in (chosen, *rest))
    for stack in rest:
        image = stack.slices[0]
        if not _is_of_one_patient(stack, chosen):
            raise VolumeError(
                f"{image.path}: one SeriesInstanceUID, but PatientID {stack.patient!r} and "
                f"{chosen.patient!r}; give each patient a folder of its own"
            )
        if image.problem and image.size == first.size:
            raise VolumeError(
                f"{image.path}: {image.problem} ({len(stack.slices)} of {total} slices of {chosen})"
            )
        if not image.problem and _lies_between(stack, chosen):
            name, sizes = "Rows or Columns", (image.size[::-1], first.size[::-1])
            if image.size == first.size:
                name, sizes = "PixelSpacing", (image.spacing[1::-1], first.spacing[1::-1])
            found, expected = ("\\".join(map("{:g}".format, values)) for values in sizes)
            raise VolumeError(
                f"{image.path}: {name} is not that of the other slices, {found} instead of "
                f"{expected} ({len(stack.slices)} of {total} slices of {chosen}); copy or export "
                "the series again"
            )
    if rest and _positions(chosen) == 1:
        raise VolumeError(
            f"{folder}: expected a stack of parallel slices, received {total} slices of "
            f"{len(rest) + 1} orientations or sizes (ImageOrientationPatient), such as radial ones "
            f"or a localizer; give the scan itself ({chosen})"
        )
    if rest:
        heights = np.unique([image.origin @ first.direction[:, 2] for image in chosen.slices])
        gap = f"{np.median(np.diff(heights)):.1f} mm apart" if len(heights) > 1 else "one position"
        _logger.warning(
            "%s: taking %d of %d slices (%s); the %d of other orientation or size are left out: %s",
            *(folder, count, total, gap, total - count, chosen),
        )


def _lies_between(stack, chosen):
    """Whether slices of one orientation, but another size, lie in the gaps of a stack.

    Of nearly the same size they may also continue it.
    """
    first, other = chosen.slices[0], stack.slices[0]
    if not np.allclose(first.direction, other.direction, rtol=0, atol=1e-3):
        return False
    heights = [
        [image.origin @ first.direction[:, 2] for image in part.slices] for part in (chosen, stack)
    ]
    near = np.abs(np.subtract.outer(heights[1], heights[0])).min(axis=1)
    gaps = np.diff(np.unique(np.round(heights[0], 2)))
    is_alike = first.size == other.size and np.allclose(first.spacing[:2], other.spacing[:2], 0.1)
    farthest = near.min() if is_alike else near.max()
    return bool(len(gaps) and (near > 0.5 * gaps.min()).any() and farthest < 2.5 * gaps.max())
