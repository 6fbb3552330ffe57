# SPDX-License-Identifier: MIT
"""What MkDocs does not do by itself: pages from outside `docs/`, their links, the tutorial.

Links lead from file to file of the repository, so that they work there, too. On the site `docs/`
is the root, and the other files lie where they do in the repository.
"""

import json
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = ["*.md", "weights/*.md", "weights/recipes/*", "weights/registry.json"]
OUTSIDE += ["benchmarks/results/*", "Test_package_and_local/*.md"]
TUTORIAL = ROOT / "docs" / "tutorial.ipynb"


def on_files(files, config):
    """Adds the pages and files from outside `docs/`, and the tutorial as a page."""
    for path in sorted(path for pattern in OUTSIDE for path in ROOT.glob(pattern)):
        name = path.relative_to(ROOT).as_posix()
        files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    cells = json.loads(TUTORIAL.read_text(encoding="utf-8"))["cells"]
    parts = [("".join(cell["source"]), cell["cell_type"] == "code") for cell in cells]
    text = "\n\n".join(f"```python\n{part}\n```" if is_code else part for part, is_code in parts)
    files.append(File.generated(config, f"{TUTORIAL.stem}.md", content=text))
    return files


def on_page_markdown(markdown, page, **_):
    """Leads the links of a page to where their files lie on the site."""
    file = page.file
    folder = Path(file.abs_src_path or ROOT / "docs" / file.src_uri).resolve().parent

    def on_site(match):
        target = (folder / match[0]).resolve()
        target = target.with_suffix(".md") if target == TUTORIAL else target
        name = target.relative_to(ROOT).as_posix().removeprefix("docs/")
        return posixpath.relpath(name, posixpath.dirname(file.src_uri))

    return re.sub(r"(?<=\]\()(?!https?:|#)[^)\s#]+", on_site, markdown)
