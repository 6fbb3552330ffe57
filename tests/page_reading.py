# SPDX-License-Identifier: MIT
"""What is in a page of results: its tables and volumes, and what the browser has loaded."""

import gzip
import re
from base64 import b64decode

import nibabel

# Goes into a page: in the end `data-loaded` names what was loaded from elsewhere.
RESOURCES = """addEventListener("load", () => setTimeout(() => document.body.dataset.loaded =
  performance.getEntriesByType("resource").map(entry => entry.name.slice(0, 5)).join(), 9000));"""


def rows(text, number=0):
    """The cells of the rows of the body of a page's table of that number, as text."""
    body = re.findall("<tbody.*?</tbody", text, re.DOTALL)[number]
    found = [re.findall(r"<td>(.*?)</td>", row) for row in body.split("<tr ")[1:]]
    return [[re.sub("<[^>]+>", " ", cell).strip() for cell in row] for row in found]


def embedded(text, name):
    """A volume in a page."""
    data = re.search(f'id="{name}">([^<]*)<', text)[1]
    return nibabel.Nifti1Image.from_bytes(gzip.decompress(b64decode(data)))
