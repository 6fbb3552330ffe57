# SPDX-License-Identifier: MIT
"""Pages to look at results in a browser, without a network: one for a scan, one for a job.

They are made from what lies on disk: the scan, the result files, their record, and for a job the
pages of its scans. The viewer is NiiVue, taken from the installed package ipyniivue.
"""

import gzip
import json
import math
import os
import re
from base64 import b64encode
from collections import Counter
from functools import cache
from html import escape
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from string import Template
from urllib.parse import quote

import numpy as np

from segsrgan import __version__
from segsrgan.errors import UserError, printable
from segsrgan.files import has_content, write_text
from segsrgan.inference import pictures
from segsrgan.inference.consistency import SURE
from segsrgan.inference.results import found_results, is_map, result_files
from segsrgan.inference.summary import FAILED
from segsrgan.inference.verdict import CHECKS, FAIL, LOOK, PASS, judge
from segsrgan.volumes.comparison import described
from segsrgan.volumes.reading import read_volume, read_with_source

# Characters of a page; with the viewer (2 million) and the pictures it has less than 15 million.
_MOST_RESULT, _MOST_SCAN = 7_000_000, 3_500_000
_THUMBNAIL = 112  # pixels
_ICON = re.compile(rb'<link rel="icon" href="(data:image/jpeg;base64,[\w+/=]+)">')
_HEAD = 2**16  # bytes of a page, in which its icon is
_GENERATOR = '<meta name="generator" content="SegSRGAN">'
_COLOURS = {"cortex_mask": (255, 92, 51), "mask": (64, 200, 255), "brain_mask": (255, 213, 64)}
_WORST_FIRST = (FAILED, FAIL, LOOK, "", PASS)


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

    Example:
        >>> for results, pair in results_below("Result_with_synthetic_unet_8"):
        ...     write_scan_page(results, pair)
    """
    path = _free(results.page(pair) if path is None else path)
    viewer, entry = find_viewer(), _entry(results, pair)
    measures = {k: v for k, v in _part(entry, "measures").items() if isinstance(v, (int, float))}
    level, reasons = str(entry.get("verdict") or ""), list(entry.get("reasons") or ())
    if results.has_changed(pair):
        reasons.append("the scan has changed since these results were made")
    if level and judge(measures).level != level:
        reasons.append(f"by the thresholds of version {__version__}: {judge(measures).level}")
    fields = {
        "title": _text(results.image.name),
        "folder": _text(results.image.parent),
        "label": _text("whole image" if pair[0] is None else "patch {}, step {}".format(*pair)),
        "verdict": _badge(level),
        "reasons": _list(reasons),
        "checks": _checks(measures),
        "measures": _pairs({k: f"{v:.6g}" for k, v in sorted(measures.items())}),
        "made": _pairs(_provenance(results, entry)),
        **_images(results, pair, _part(entry, "settings").get("series")),
        **viewer,
    }
    return _write("scan_page.html", fields, path)


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
    path = _free(path)
    worst = sorted(outcomes, key=lambda outcome: _WORST_FIRST.index(_standing(outcome)))
    counts = Counter(map(_standing, worst))
    badges = [f"{_badge(level)} {counts[level]}" for level in _WORST_FIRST if counts[level]]
    fields = {
        "title": _text(path.stem),
        "counts": " ".join(f"<span>{badge}</span>" for badge in badges),
        "rows": "\n".join(_job_row(outcome, path.absolute().parent) for outcome in worst),
    }
    return _write("job_page.html", fields, path)


@cache
def find_viewer():
    """The fields of a scan's page with the JavaScript of NiiVue, its name and its licence.

    Raises `UserError` if the package ipyniivue is not installed.
    """
    try:
        package = distribution("ipyniivue")
        code = Path(package.locate_file("ipyniivue/static/widget.js")).read_bytes()
    except (PackageNotFoundError, OSError) as error:
        raise UserError(
            "the page of a scan needs the viewer of the package ipyniivue, which is not "
            "installed; pip install 'SegSRGAN[report]'"
        ) from error
    licence = package.read_text("licenses/LICENSE") or package.metadata["License"]
    return {
        "viewer": b64encode(gzip.compress(code, 9, mtime=0)).decode(),
        "viewer_name": _text(f"NiiVue, from ipyniivue {package.version}"),
        "licence": escape(licence),
    }


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
            problem = f"{results.folder / label}: the results are not whole, a file is missing"
        raise UserError(f"{problem}; job_model.py makes them anew")
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
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in facts.items()}
    made = {"record written by": f"SegSRGAN {results.record.version()}"}
    return made | {k: "-" if text == "null" else text for k, text in texts.items()}


def _images(results, pair, series):
    """The fields with voxels: scan, result, pictures, an icon, and the viewer's volumes."""
    prefixes, folder = result_files(), results.folder / results.label(pair)
    paths = {name: folder / results.file_name(p, pair) for name, p in prefixes.items()}
    paths = {name: path for name, path in paths.items() if has_content(path)}

    def read(name):
        return pictures.upright(read_volume(paths[name], labels=name in _COLOURS))

    scan, source = read_with_source(results.image, series)
    scan, sr = pictures.upright(scan), read("sr")
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
    packed, grid = pictures.packed_image(sr, *window, _MOST_RESULT)
    fields = {
        "scan": _text(described(scan.grid)),
        "result": _text(described(sr.grid)),
        "legend": _legend({prefixes[name]: _COLOURS[name] for name in masks}, source.is_oriented),
        "figures": _figures(columns),
        "icon": pictures.jpeg(outlined[0], _THUMBNAIL),
        "scan_data": pictures.packed_image(scan, *window, _MOST_SCAN)[0],
        "result_data": packed,
        "mask_data": "" if mask is None else pictures.packed_mask(mask, grid),
    }
    del scan, sr, masks, mask  # maps are as large, and read one by one
    maps = [name for name in paths if is_map(name)]
    doubts = dict(_map(prefixes[name], pictures.planes(read(name), grids)) for name in maps)
    return fields | {"maps": f"<h2>Where to doubt it</h2>{_figures(doubts)}" if maps else ""}


def _map(prefix, planes):
    """The title of a map of doubt and its planes in colours."""
    is_relative = prefix == result_files()["invented"]
    top = 2 * SURE if is_relative else max(np.percentile(p, 99.8) for p in planes) or 1.0
    unit = " times the noise" if is_relative else ""
    title = f"{prefix.replace('_', ' ')}, white from {top:.3g}{unit}"
    return title, [pictures.heat(pixels, top) for pixels in planes]


def _legend(colours, is_oriented):
    marks = [
        f'<span style="color:rgb{colour}">&#9632;</span> {_text(prefix.replace("_", " "))}'
        for prefix, colour in colours.items()
    ]
    side = "The patient's right is on the left." if is_oriented else "Left and right are not known."
    return " &nbsp; ".join([*marks, side])


def _figures(columns):
    """Rows of figures, one for each plane, of columns: title -> pictures of all planes."""
    rows = ""
    for row, plane in enumerate(pictures.PLANES):
        rows += '<div class="planes">'
        for title, planes in columns.items():
            caption, source = _text(f"{plane}: {title}"), pictures.jpeg(planes[row])
            rows += f'<figure><img src="{source}" alt="{caption}">'
            rows += f"<figcaption>{caption}</figcaption></figure>"
        rows += "</div>\n"
    return rows


def _checks(measures):
    """The rows of the table of measures that are judged, the worst first."""
    rows = []
    for check in CHECKS:
        value, level, shown = measures.get(check.measure), "", "not measured"
        if value is not None:
            level = judge({check.measure: value}).level
            shown = check.show(value) if check.form else "no" if level == PASS else "yes"
        name = f"{_text(check.text.replace('{}', '…'))}<br><code>{_text(check.measure)}</code>"
        bounds = (_beyond(check, *bounds) for bounds in (check.look, check.fail))
        cells = [name, *map(_text, (shown, *bounds)), _badge(level) if level else ""]
        rows.append((level, _row(cells, f'class="{level or "none"}"')))
    order = (FAIL, LOOK, PASS, "")
    return "\n".join(row for _, row in sorted(rows, key=lambda found: order.index(found[0])))


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


def _job_row(outcome, start):
    """A row of the table of a job, whose page lies in the folder `start`."""
    results = found_results(outcome.image, outcome.folder)
    page = results.page((outcome.patch, outcome.step))
    name, picture, standing = _text(outcome.image.name), "", _standing(outcome)
    if has_content(page) and standing != FAILED:
        link = f'<a href="{_address(page, start)}">'
        with open(page, "rb") as file:
            icon = _ICON.search(file.read(_HEAD))
        name = f"{link}{name}</a>"
        picture = f'{link}<img src="{icon[1].decode()}" alt=""></a>' if icon else ""
    cells = [
        picture,
        f"{name}<br><small>{_text(outcome.image.parent)}</small>",
        _badge(standing),
        _list(filter(None, (outcome.detail, *outcome.reasons))),
        "whole image" if outcome.patch is None else f"{outcome.patch}, {outcome.step}",
        _text(outcome.result),
        f"{outcome.seconds:.1f}" if outcome.seconds else "",
        f"{outcome.peak_bytes / 1e6:.0f}" if outcome.peak_bytes else "",
    ]
    return _row(cells, f'data-rank="{_WORST_FIRST.index(standing)}"')


def _address(page, start):
    """A link from a folder to a file, whatever bytes its name has."""
    try:
        return quote(os.fsencode(Path(os.path.relpath(page, start)).as_posix()))
    except ValueError:  # another drive of Windows
        return page.absolute().as_uri()


def _text(value):
    """Any text as HTML, in one line; what is not UTF-8 in names is escaped."""
    return escape(printable(str(value)).encode(errors="backslashreplace").decode())


def _row(cells, attribute):
    return f"<tr {attribute}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _badge(level):
    return f'<b class="badge {_text(level)}">{_text(level or "no verdict")}</b>'


def _list(texts):
    items = "".join(f"<li>{_text(text)}</li>" for text in texts)
    return f"<ul>{items}</ul>" if items else ""


def _pairs(texts):
    return "".join(f"<dt>{_text(k)}</dt><dd>{_text(text)}</dd>" for k, text in texts.items())


def _free(path):
    """The `Path` of a page, unless a file that is no page of ours lies there."""
    path = Path(path)
    if os.path.lexists(path):
        head = path.read_bytes()[:_HEAD] if path.is_file() else b""
        if _GENERATOR.encode() not in head:
            raise UserError(f"{path}: is there already and is no page of ours; name another file")
    return path


def _write(template, fields, path):
    """Writes a template with its fields, which stand there as `$name`; returns the path."""
    folder = Path(__file__).parent
    texts = [(folder / name).read_text(encoding="utf-8") for name in ("page.css", template)]
    style, page = (text.partition("\n")[2] for text in texts)  # without the line of the licence
    common = {"generator": _GENERATOR, "style": style, "version": _text(__version__)}
    write_text(path, Template(page).substitute(common | fields))
    return path
