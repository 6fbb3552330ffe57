# SPDX-License-Identifier: MIT
"""Pages to look at results in a browser, without a network: one for a patient, one for a job.

They are made from what lies on disk: the stacks, the result files and their record, and for a job
the pages of its patients.
"""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segsrgan.errors import UserError
from segsrgan.files import stamp
from segsrgan.inference import markup, pictures
from segsrgan.inference.summary import FAILED
from segsrgan.inference.verdict import LOOK, PASS
from segsrgan.volumes import Volume, read_volume
from segsrgan.volumes.comparison import described
from supermask.folders import DOUBTFUL, extremes_of, recorded_inputs, verdict_of
from supermask.fusion import agreements
from supermask.geometry import Rigid, isotropic_grid, sample, sampling, voxels_of
from supermask.views import View, read_view

_FUSED = (255, 92, 51)
_COLOURS = ((64, 200, 255), (255, 213, 64), (230, 120, 255))  # of the views' masks
_WORST_FIRST = (FAILED, DOUBTFUL, LOOK, PASS)
_OVERLAPS = (
    *("views", "Dice by the headers", "aligned", "correlation by the headers", "aligned"),
    "seen by both",
)
_MOTIONS = ("view", "turned", "shifted", "about x, y, z, degrees", "along x, y, z, mm")
_RESIDUALS = ("view", "noise", "slices from the image", "from the fused one", "profile")
_HEADS = (
    *("", "patient", "verdict", "reasons", "views", "result"),
    *("least Dice", "turn, degrees", "shift, mm"),
)
# Parts of the record that have a place of their own on the page.
_SHOWN = {
    *("patient", "settings", "files", "inputs", "views", "agreement", "residuals"),
    *("doubtful", "lost", "warnings"),
}
_ROOM = 25.0  # mm around the object that is shown
_MOST_VOXELS = 2e6  # in which overlaps by the headers are measured


class _Aligned(NamedTuple):
    """A view as it was acquired, and what became of it."""

    view: View
    transform: Rigid  # from the reference to the view
    mask: Volume  # in the pose of the reference

    @property
    def back(self):
        """The `Rigid` from the view to the reference: samples the mask in the view's own pose."""
        return self.transform.inverse()


def write_patient_page(results):
    """Writes the page of a patient's results, a file of HTML; returns its `Path`.

    Args:
        results: the `PatientResults`.

    Raises:
        UserError: if there are no whole results, a stack or a result cannot be read
            (`VolumeError`), ipyniivue is not installed, or a file of another kind has that name.
    """
    path, viewer = markup.free_path(results.page), markup.find_viewer()
    entry = results.entry()
    if entry is None:
        raise UserError(f"{results.folder}: has no whole results; supermask-predict makes them")
    level, reasons = verdict_of(entry)
    if any(stamp(name) != before for name, before in (recorded_inputs(entry)[1] or {}).items()):
        reasons.append("files have changed since these results were made")
    aligned = [_read(results, view) for view in entry["views"]]
    mask, image = (
        read_volume(results.folder / results.file_name(kind), labels=kind == "mask")
        for kind in ("mask", "image")
    )
    made = {f"{item.view.name} stack": described(item.view.grid) for item in aligned}
    made |= {
        "fused image": described(image.grid),
        "record written by": f"SegSRGAN {results.record.version()}",
    }
    made |= (entry.get("settings") or {}) | {k: v for k, v in entry.items() if k not in _SHOWN}
    fields = {
        "title": markup.text(results.patient),
        "subtitle": markup.text(results.folder),
        "verdict": markup.badge(level),
        "reasons": markup.bullets(reasons),
        "before": markup.text(f"{aligned[0].view.name} stack"),
        "after": "fused image",
        "numbers": markup.section("What was measured", *_tables(entry, aligned, image)),
        "made": markup.facts(made),
    }
    return markup.write_result_page(path, fields | _images(aligned, image, mask) | viewer)


def write_job_page(outcomes, path):
    """Writes the page of a job: a table with the worst first, and links to the patients' pages.

    Args:
        outcomes: of `supermask.results.Job`.
        path: of the page.

    Raises:
        UserError: if a file of another kind has that name.
    """
    start = Path(path).absolute().parent
    rows = [_job_row(outcome, start) for outcome in outcomes]
    return markup.write_job_page(path, _HEADS, rows, _WORST_FIRST)


def _job_row(outcome, start):
    """The standing of an outcome, and its cells in the table of a job in the folder `start`."""
    results = outcome.results
    entry = None if outcome.result == FAILED else results.entry()
    standing, reasons, names, numbers = FAILED, [outcome.detail], "", (None,) * 3
    if entry is not None:
        (standing, reasons), numbers = verdict_of(entry), extremes_of(entry)
        names = ", ".join(view["name"] for view in entry["views"])
    picture, name = markup.linked(results.patient, entry and results.page, start)
    shown = zip(("{:.3f}", "{:.1f}", "{:.1f}"), numbers, strict=True)
    return standing, [
        picture,
        f"{name}<br><small>{markup.text(results.folder)}</small>",
        markup.badge(standing),
        markup.bullets(reasons),
        markup.text(names),
        markup.text(outcome.result),
        *("" if value is None else form.format(value) for form, value in shown),
    ]


def _read(results, made):
    """The `_Aligned` of a view of the record."""
    view = read_view(made["stack"], series=made.get("series"))
    view = replace(view, name=made["name"])
    angles = np.deg2rad(made["angles_degrees"])
    transform = Rigid(tuple(angles), tuple(made["translation_mm"]), tuple(made["centre_mm"]))
    name = results.mask_name(made["name"], made["stack"])
    return _Aligned(view, transform, read_volume(results.folder / name, labels=True))


def _images(aligned, image, mask):
    """The fields of what the views, the fused image and the fused mask show."""
    reference = aligned[0].view.volume
    window = pictures.window(reference)
    own = {
        f"{item.view.name} stack": _own_planes(item, colour)
        for item, colour in zip(aligned, _COLOURS, strict=False)
    }
    fused = _fusion_columns(aligned, image, mask, window)
    names = [item.view.name for item in aligned]
    colours = dict(zip(names, _COLOURS, strict=False))
    is_oriented = all(item.view.is_oriented for item in aligned)
    legends = [markup.legend(c, is_oriented) for c in (colours, colours | {"fused mask": _FUSED})]
    sections = (
        markup.section("The views and their masks", legends[0], markup.figures(own)),
        markup.section("Alignment and fusion", legends[1], markup.figures(fused)),
    )
    volumes = map(pictures.upright, (reference, image, mask))
    return {
        "pictures": "".join(sections),
        **markup.volume_fields(fused["fused image"][0], *volumes, window),
    }


def _own_planes(item, colour):
    """Pictures of a view as it was acquired, through its mask, which is outlined."""
    volume = pictures.upright(item.view.volume)
    mask = volume.with_array(sample(item.mask, volume.grid, item.back, order=0))
    window = pictures.window(volume)
    grids = pictures.plane_grids(_near(volume, mask), *window, mask)
    pixels = pictures.planes(volume, grids)
    return _outlined(pixels, window, [_sampled(item.mask, grids, item.back)], [colour])


def _fusion_columns(aligned, image, mask, window):
    """Pictures by title of the alignment and the fusion, in planes of the reference."""
    volume = pictures.upright(aligned[0].view.volume)
    seen = volume.with_array(sample(mask, volume.grid, order=0))
    grids = pictures.plane_grids(_near(volume, seen), *window, pictures.upright(mask))
    pixels, fused = pictures.planes(volume, grids), [_sampled(mask, grids)]
    by_headers = [_sampled(item.mask, grids, item.back) for item in aligned]
    after = [_sampled(item.mask, grids) for item in aligned]
    images = _sampled(image, grids, order=1)
    return {
        "masks by the headers": _outlined(pixels, window, by_headers, _COLOURS),
        "masks aligned": _outlined(pixels, window, after, _COLOURS),
        "fused mask": _outlined(pixels, window, fused, [_FUSED]),
        "fused image": _outlined(images, window, fused, [_FUSED]),
    }


def _near(volume, mask):
    """The part of a stack around a mask on its grid, all of it if the mask is empty."""
    index = np.argwhere(mask.array)
    if not len(index):
        return volume
    room = np.ceil(_ROOM / np.array(volume.spacing)).astype(int)
    first = np.maximum(index.min(axis=0) - room, 0)
    box = tuple(map(slice, first, index.max(axis=0) + room + 1))
    place = volume.spacing, volume.grid.index_to_physical(first), volume.direction
    return Volume(volume.array[box], *place)


def _sampled(volume, grids, transform=None, order=0):
    """A volume in planes, which may lie in any direction; 0 beyond it."""
    return pictures.flattened([sample(volume, grid, transform, order=order) for grid in grids])


def _outlined(pixels, window, masks, colours):
    """Planes in grey with the outline of each of the masks, planes as well, in its colour."""
    colours = colours[: len(masks)]
    return [
        pictures.outlined(pictures.grey(plane, *window), labels, colours)
        for plane, labels in zip(pixels, zip(*masks, strict=True), strict=True)
    ]


def _tables(entry, aligned, image):
    """The tables of what was measured, HTML."""
    tables = []
    if len(aligned) > 1:
        pairs = zip(entry["agreement"], _agreements_by_headers(aligned, image.grid), strict=True)
        tables = [
            markup.table(_OVERLAPS, [markup.row(_overlap_cells(*pair)) for pair in pairs]),
            markup.table(_MOTIONS, [_motion_row(view) for view in entry["views"][1:]]),
        ]
    if found := entry.get("residuals"):
        tables.append(markup.table(_RESIDUALS, [_residual_row(*item) for item in found.items()]))
    if "mask_volume" in entry:
        tables.append(f"<p>The fused mask has {entry['mask_volume']:.4g} ml.</p>")
    return tables


def _agreements_by_headers(aligned, grid):
    """The `Agreement` of every two views where their headers place them, as if nothing had moved.

    Its numbers are nan where no mask is seen.
    """
    points = [i.transform.apply(voxels_of(i.mask)) for i in aligned if i.mask.array.any()]
    points = np.concatenate(points or [voxels_of(aligned[0].view.volume)])
    extent = np.ptp(points @ grid.direction, axis=0) + 10 * grid.spacing[0]
    spacing = max(grid.spacing[0], float(np.cbrt(np.prod(extent) / _MOST_VOXELS)))
    around = isotropic_grid(points, grid.direction, spacing, margin=5 * spacing)
    return agreements(
        [item.view.name for item in aligned],
        [sample(item.mask, around, item.back) >= 0.5 for item in aligned],
        [sample(item.view.clipped, around) for item in aligned],
        [sampling(item.view.grid, around).inside for item in aligned],
    )


def _overlap_cells(after, before):
    numbers = (before.dice, after["dice"], before.correlation, after["correlation"])
    shown = ["-" if n is None or n != n else f"{n:.3f}" for n in numbers]
    names = markup.text(f"{after['first']} and {after['second']}")
    return [names, *shown, f"{after['overlap']:.0%}"]


def _motion_row(view):
    shift = float(np.linalg.norm(view["translation_mm"]))
    triples = [
        ", ".join(f"{part:.1f}" for part in view[key])
        for key in ("angles_degrees", "translation_mm")
    ]
    turned = f"{view['turned_degrees']:.1f} degrees"
    return markup.row([markup.text(view["name"]), turned, f"{shift:.1f} mm", *triples])


def _residual_row(name, found):
    numbers = [f"{found[key]:.4g}" for key in ("noise", "after", "before")]
    width = f"{found['width']:.2f} times the thickness"
    return markup.row([markup.text(name), *numbers, width])
