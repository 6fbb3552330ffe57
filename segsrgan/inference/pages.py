# SPDX-License-Identifier: MIT
"""Pages to look at results in a browser, without a network: one for a scan, one for a job.

They are made from what lies on disk: the scan, the result files, their record, and for a job the
pages of its scans.
"""

import math
from pathlib import Path

import numpy as np

from segsrgan import __version__
from segsrgan.errors import UserError
from segsrgan.files import has_content
from segsrgan.inference import markup, pictures
from segsrgan.inference.consistency import SURE
from segsrgan.inference.results import found_results, is_map, result_files
from segsrgan.inference.summary import FAILED
from segsrgan.inference.verdict import CHECKS, FAIL, LOOK, PASS, judge
from segsrgan.volumes.comparison import described
from segsrgan.volumes.reading import read_volume, read_with_source

_COLOURS = {"cortex_mask": (255, 92, 51), "mask": (64, 200, 255), "brain_mask": (255, 213, 64)}
_CHANGED = "the scan has changed since these results were made"
_WORST_FIRST = (FAILED, FAIL, LOOK, "", PASS)
_MEASURED = ("measure", "value", "look if", "fail if", "")
_HEADS = ("", "image", "verdict", "reasons", "patch, step", "result", "seconds", "memory, MB")


def write_scan_page(results, pair, path=None):
    """Writes the page of one image's results at one patch and step, a file of HTML.

    Args:
        results: the `ImageResults`.
        pair: (patch, step) in voxels, (None, None) for the whole image.
        path: of the page; None: `results.page(pair)`.

    Returns:
        The `Path` of the page.

    Raises:
        UserError: if there is no whole result with its record, the scan or a result cannot be read
            (`VolumeError`), ipyniivue is not installed, or a file of another kind has that name.

    Examples:
        >>> for results, pair in results_below("Result_with_folded_unet_48"):
        ...     write_scan_page(results, pair)
    """
    path = markup.free_path(results.page(pair) if path is None else path)
    viewer, entry = markup.find_viewer(), _entry(results, pair)
    measures = {k: v for k, v in _part(entry, "measures").items() if isinstance(v, (int, float))}
    level, reasons = str(entry.get("verdict") or ""), list(entry.get("reasons") or ())
    if results.has_changed(pair):
        reasons.append(_CHANGED)
    if level and judge(measures).level != level:
        reasons.append(f"by the thresholds of version {__version__}: {judge(measures).level}")
    images, maps = _images(results, pair, _part(entry, "settings").get("series"))
    label = "whole image" if pair[0] is None else "patch {}, step {}".format(*pair)
    measured = markup.table(_MEASURED, _checks(measures), "checks"), markup.numbers(measures)
    fields = {
        "title": markup.text(results.image.name),
        "subtitle": markup.text(f"{results.image.parent} · {label}"),
        "verdict": markup.badge(level),
        "reasons": markup.bullets(reasons),
        "before": "scan",
        "after": "result",
        "numbers": markup.section("What was measured", *measured) + maps,
        "made": images.pop("grids") + markup.facts(_provenance(results, entry)),
    }
    return markup.write_result_page(path, fields | images | viewer)


def write_job_page(outcomes, path):
    """Writes the page of a job: a table with the worst first, and links to the scans' pages.

    Args:
        outcomes: of `segsrgan.inference.summary`, as a job yields or `read_summary` reads them.
            Where the page of one exists, see `ImageResults.page`, its picture and a link appear.
        path: of the page.

    Returns:
        The `Path` of the page.

    Raises:
        UserError: if a file of another kind has that name.
    """
    start = Path(path).absolute().parent
    rows = [(_standing(outcome), _job_cells(outcome, start)) for outcome in outcomes]
    return markup.write_job_page(path, _HEADS, rows, _WORST_FIRST)


def _entry(results, pair):
    """What the record says of whole results, a dict; `UserError` if there are none."""
    entry, record, label = results.entry(pair), results.record, results.label(pair)
    if not entry:
        problem = f"{results.folder}: has no results of {label or results.image.name}"
        if not (results.folder / record.name).is_file():
            problem = f"{results.folder}: has no {record.name}, which says how results were made"
        elif record.owner() is None:
            problem = f"{results.folder / record.name}: is damaged"
        elif record.knows(label):
            lost = ", ".join(record.missing(label)) or "what made them was interrupted"
            problem = f"{results.folder / label}: the results are not whole, without {lost}"
        raise UserError(f"{problem}; the command that made them makes them anew")
    if record.owner() not in (results.image.name, str(results.image)):
        raise UserError(
            f"{results.folder}: expected the results of {results.image}, found those of "
            f"{record.owner()}; name the folder of that image's results"
        )
    return entry


def _part(entry, name):
    """A dict in the record, empty if it is none."""
    found = entry.get(name)
    return found if isinstance(found, dict) else {}


def _provenance(results, entry):
    """How the results were made, a dict of texts: all that the record says and no other part."""
    shown = ("files", "inputs", "settings", "measures", "verdict", "reasons")
    facts = {k: v for k, v in entry.items() if k not in shown} | _part(entry, "settings")
    if "interp" in facts:
        facts["interp"] = facts["interp"] or "what the weights were trained with"
    return {"record written by": f"SegSRGAN {results.record.version()}", **facts}


def _images(results, pair, series):
    """The fields of what scan and results show, and the section of the maps of doubt, HTML."""
    prefixes, folder = result_files(), results.folder / results.label(pair)
    paths = {name: folder / results.file_name(p, pair) for name, p in prefixes.items()}
    paths = {name: path for name, path in paths.items() if has_content(path)}

    def read(name):
        return pictures.upright(read_volume(paths[name], labels=name in _COLOURS))

    (scan, source), sr = read_with_source(results.image, series), read_volume(paths["sr"])
    grids_stored = {"scan": described(scan.grid), "result": described(sr.grid)}
    scan, sr = map(pictures.upright, (scan, sr))
    masks = {name: read(name) for name in _COLOURS if name in paths}
    mask, window = next(iter(masks.values()), None), pictures.window(scan)
    grids = pictures.plane_grids(sr, *window, mask)
    before, after = (
        [pictures.grey(pixels, *window) for pixels in pictures.planes(volume, grids)]
        for volume in (scan, sr)
    )
    columns, outlined = {"scan, interpolated": before, "result": after}, after
    if masks:
        labels = zip(*(pictures.planes(m, grids, 0) for m in masks.values()), strict=True)
        colours = [_COLOURS[name] for name in masks]
        outlined = [pictures.outlined(*p, colours) for p in zip(after, labels, strict=True)]
        columns["result, outlined"] = outlined
    colours = {prefixes[name].replace("_", " "): _COLOURS[name] for name in masks}
    parts = markup.legend(colours, source.is_oriented), markup.figures(columns)
    fields = {
        "grids": markup.facts(grids_stored),
        "pictures": markup.section("Before and after", *parts),
        **markup.volume_fields(outlined[0], scan, sr, mask, window),
    }
    del scan, sr, masks, mask  # maps are as large, and read one by one
    maps = [name for name in paths if is_map(name)]
    doubts = dict(_map(prefixes[name], pictures.planes(read(name), grids)) for name in maps)
    return fields, markup.section("Where to doubt it", markup.figures(doubts)) if maps else ""


def _map(prefix, planes):
    """The title of a map of doubt and its planes in colours."""
    is_relative = prefix == result_files()["invented"]
    top = 2 * SURE if is_relative else max(np.percentile(p, 99.8) for p in planes) or 1.0
    unit = " times the noise" if is_relative else ""
    title = f"{prefix.replace('_', ' ')}, white from {top:.3g}{unit}"
    return title, [pictures.heat(pixels, top) for pixels in planes]


def _checks(measures):
    """The rows of the table of measures that are judged, the worst first."""
    rows = []
    for check in CHECKS:
        value, level, shown = measures.get(check.measure), "", "not measured"
        if value is not None:
            level = judge({check.measure: value}).level
            shown = check.show(value) if check.form else "no" if level == PASS else "yes"
        named = markup.text(check.text.replace("{}", "…"))
        name = f"{named}<br><code>{markup.text(check.measure)}</code>"
        bounds = (_beyond(check, *bounds) for bounds in (check.look, check.fail))
        cells = [name, *map(markup.text, (shown, *bounds)), markup.badge(level) if level else ""]
        rows.append((level, markup.row(cells, f'class="{level or "none"}"')))
    order = (FAIL, LOOK, PASS, "")
    return [row for _, row in sorted(rows, key=lambda found: order.index(found[0]))]


def _beyond(check, low, high):
    """The values beyond two bounds in words, "" if there are none."""
    sides = [(sign, b) for sign, b in (("<", low), (">", high)) if math.isfinite(b)]
    if not check.form:
        return "yes" if sides else ""
    return ", ".join(f"{sign} {check.form.format(b, check.digits)}" for sign, b in sides)


def _standing(outcome):
    """What an outcome is sorted by: FAILED, or its verdict."""
    known = outcome.verdict if outcome.verdict in _WORST_FIRST else ""
    return FAILED if outcome.result == FAILED else known


def _job_cells(outcome, start):
    """The cells of an outcome in the table of a job, whose page lies in the folder `start`."""
    page, standing, reasons = None, _standing(outcome), [outcome.detail, *outcome.reasons]
    if standing != FAILED:
        results = found_results(outcome.image, outcome.folder)
        page = results.page(pair := (outcome.patch, outcome.step))
        reasons += [_CHANGED] * results.has_changed(pair)
    picture, name = markup.linked(outcome.image.name, page, start)
    return [
        picture,
        f"{name}<br><small>{markup.text(outcome.image.parent)}</small>",
        markup.badge(standing),
        markup.bullets(filter(None, reasons)),
        "whole image" if outcome.patch is None else f"{outcome.patch}, {outcome.step}",
        markup.text(outcome.result),
        f"{outcome.seconds:.1f}" if outcome.seconds else "",
        f"{outcome.peak_bytes / 1e6:.0f}" if outcome.peak_bytes else "",
    ]
