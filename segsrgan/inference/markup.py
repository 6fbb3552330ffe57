# SPDX-License-Identifier: MIT
"""What the pages of results are made of: text as HTML, tables, pictures, a viewer, the file.

The viewer is NiiVue, taken from the installed package ipyniivue.
"""

import gzip
import json
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

from segsrgan import __version__
from segsrgan.errors import UserError, printable
from segsrgan.files import has_content, write_text
from segsrgan.inference import pictures

# Characters of a page; with the viewer (2 million) and the pictures it has less than 15 million.
_MOST_RESULT, _MOST_SCAN = 7_000_000, 3_500_000
_THUMBNAIL = 112  # pixels
_ICON = re.compile(rb'<link rel="icon" href="(data:image/jpeg;base64,[\w+/=]+)">')
_HEAD = 2**16  # bytes of a page, in which its icon is
_GENERATOR = '<meta name="generator" content="SegSRGAN">'


def free_path(path):
    """The `Path` of a page; `UserError` if a file that is no page of ours has that name."""
    path = Path(path)
    if os.path.lexists(path):
        head = path.read_bytes()[:_HEAD] if path.is_file() else b""
        if _GENERATOR.encode() not in head:
            raise UserError(f"{path}: is there already and is no page of ours; name another file")
    return path


def write_result_page(path, fields):
    """Writes the page of a scan or patient; returns its `Path`.

    Args:
        path: of the page, see `free_path`.
        fields: HTML of each `$name` in result_page.html, those of `find_viewer` and
            `volume_fields` among them.
    """
    return _write("result_page.html", fields, path)


def volume_fields(icon, scan, result, mask, window):
    """The fields of a page with its icon and what the viewer shows.

    Args:
        icon: picture, uint8 (rows, columns, 3), that stands for the page in a table.
        scan: a `Volume`.
        result: a `Volume`; the viewer shows its field of view.
        mask: a `Volume` whose axes are parallel to those of the result, or None.
        window: the intensities of scan and result that are black and white.
    """
    packed, grid = pictures.packed_image(result, *window, _MOST_RESULT)
    return {
        "icon": f'<link rel="icon" href="{pictures.jpeg(icon, _THUMBNAIL)}">',
        "scan_data": pictures.packed_image(scan, *window, _MOST_SCAN)[0],
        "result_data": packed,
        "mask_data": "" if mask is None else pictures.packed_mask(mask, grid),
    }


def write_job_page(path, heads, rows, order):
    """Writes the page of a job, a table that a click on a head sorts; returns its `Path`.

    Args:
        path: of the page.
        heads: of the columns, the first "" for the picture, the third "verdict".
        rows: (standing, cells) of each result.
        order: the standings, the worst first.

    Raises:
        UserError: if a file of another kind has that name.
    """
    path = free_path(path)
    rows = sorted(rows, key=lambda row: order.index(row[0]))
    counts = Counter(standing for standing, _ in rows)
    badges = [f"<span>{badge(level)} {counts[level]}</span>" for level in order if counts[level]]
    ranked = [row(cells, f'data-rank="{order.index(standing)}"') for standing, cells in rows]
    fields = {"title": text(path.stem), "counts": " ".join(badges), "icon": ""}
    return _write("job_page.html", fields | {"table": table(heads, ranked, "job")}, path)


@cache
def find_viewer():
    """The fields of a page with the JavaScript of NiiVue, its name and its licence.

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
        "viewer_name": text(f"NiiVue, from ipyniivue {package.version}"),
        "licence": escape(licence),
    }


def text(value):
    """Any text as HTML, in one line; what is not UTF-8 in names is escaped."""
    return escape(printable(str(value)).encode(errors="backslashreplace").decode())


def badge(level):
    """A verdict, or whatever else became of a result."""
    return f'<b class="badge {text(level)}">{text(level or "no verdict")}</b>'


def bullets(texts):
    """A list of texts, "" without any."""
    items = "".join(f"<li>{text(item)}</li>" for item in texts)
    return f"<ul>{items}</ul>" if items else ""


def facts(values):
    """The items of a definition list of JSON values by name; what is None is "-"."""
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in values.items()}
    texts = {k: "-" if shown == "null" else shown for k, shown in texts.items()}
    return "".join(f"<dt>{text(k)}</dt><dd>{text(shown)}</dd>" for k, shown in texts.items())


def numbers(values):
    """A closed list of numbers by name."""
    shown = facts({k: f"{v:.6g}" for k, v in sorted(values.items())})
    return f"<details><summary>All numbers of the record</summary><dl>{shown}</dl></details>"


def row(cells, attribute=""):
    """A row of a table, of cells that are HTML."""
    return f"<tr {attribute}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def table(heads, rows, kind=""):
    """A table of `row`s."""
    heads = "".join(f"<th>{text(head)}</th>" for head in heads)
    body = "\n".join(rows)
    return (
        f'<div class="{f"wide {kind}".rstrip()}"><table>\n<thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def section(title, *parts):
    """Parts of a page under a heading."""
    return "\n".join([f"<h2>{text(title)}</h2>", *parts])


def figures(columns):
    """Rows of figures, one for each plane, of columns: title -> pictures of all planes."""
    rows = ""
    for number, plane in enumerate(pictures.PLANES):
        rows += '<div class="planes">'
        for title, planes in columns.items():
            caption, source = text(f"{plane}: {title}"), pictures.jpeg(planes[number])
            rows += f'<figure><img src="{source}" alt="{caption}">'
            rows += f"<figcaption>{caption}</figcaption></figure>"
        rows += "</div>\n"
    return rows


def legend(colours, is_oriented):
    """What the colours of outlines mean, name -> RGB, and on which side the patient's right is."""
    marks = [
        f'<span style="color:rgb{colour}">&#9632;</span> {text(name)}'
        for name, colour in colours.items()
    ]
    side = "The patient's right is on the left." if is_oriented else "Left and right are not known."
    return f'<p class="faint">{" &nbsp; ".join([*marks, side])}</p>'


def linked(name, page, start):
    """The picture of a page and a name, both HTML and links from the folder `start` to the page.

    Without a page they are "" and the name alone.
    """
    if page is None or not has_content(page):
        return "", text(name)
    link = f'<a href="{_address(page, start)}">'
    with open(page, "rb") as file:
        icon = _ICON.search(file.read(_HEAD))
    picture = f'{link}<img src="{icon[1].decode()}" alt=""></a>' if icon else ""
    return picture, f"{link}{text(name)}</a>"


def _address(page, start):
    """A link from a folder to a file, whatever bytes its name has."""
    try:
        return quote(os.fsencode(Path(os.path.relpath(page, start)).as_posix()))
    except ValueError:  # another drive of Windows
        return page.absolute().as_uri()


def _write(template, fields, path):
    """Writes a page whose content is a template, with fields that stand there as `$name`."""
    folder = Path(__file__).parent
    names = ("page.css", "page.html", template)
    texts = [(folder / name).read_text(encoding="utf-8") for name in names]
    style, page, content = (part.partition("\n")[2] for part in texts)  # without the licence's line
    common = {"generator": _GENERATOR, "style": style, "version": text(__version__)}
    content = Template(content).substitute(fields)
    write_text(path, Template(page).substitute(common | fields | {"content": content}))
    return path
