# SPDX-License-Identifier: MIT
"""Pages of scans and jobs: what they say, what they refuse, and how a browser shows them."""

import errno
import json
import os
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote_to_bytes

import nibabel
import numpy as np
import pytest
from page_reading import RESOURCES, embedded, rows
from PIL import Image

from segsrgan.cli import report
from segsrgan.cli.main import main
from segsrgan.errors import TableError, UserError
from segsrgan.files import RECORD, write_text
from segsrgan.inference import markup, pages, pictures
from segsrgan.inference.results import ImageResults, result_files, results_below
from segsrgan.inference.summary import FAILED, FINISHED, Outcome, read_summary, write_summary
from segsrgan.inference.verdict import CHECKS, FAIL, LOOK, PASS, judge
from segsrgan.volumes import degrade, read_volume
from segsrgan.volumes.nifti import write_volume
from segsrgan.volumes.volume import Volume

DOCUMENTS = Path(__file__).parents[2] / "docs"
PAIR, LABEL = (64, 32), "patch_64_step_32"
MEASURES = {"noise_fraction": 0.047, "head_volume": 1400.0, "clipped": 1, "cortex_volume": 50.0}
MEASURES |= {"invented": 0.25, "thickness_mismatch": -0.21}
NAME = os.fsdecode(b"K\xf6pf<b>'\" #?.nii.gz")  # bytes that are not UTF-8, marks of HTML and URLs


@pytest.fixture(autouse=True)
def viewer(small_viewer):
    """Has a small viewer in the pages of a test that does not ask for `real_viewer`."""


def ball(shape, spacing):
    """A ball of 20 mm, brighter to the left (+x) than to the right, over a dark ground."""
    places = (np.indices(shape).T + 0.5) * spacing - np.multiply(shape, spacing) / 2
    x, y, z = np.moveaxis(places, -1, 0)
    return ((x**2 + y**2 + z**2 < 400) * (600 + 10 * x)).T.astype(np.float32)


@pytest.fixture
def made(tmp_path):
    """Return a function that writes a scan and its results, and returns their `ImageResults`."""

    def make(name="t2.nii.gz", measures=MEASURES, maps=True, folder="scan"):
        image = tmp_path / folder / name
        image.parent.mkdir(exist_ok=True)
        write_volume(Volume(ball((48, 50, 12), (1, 1, 4)), (1, 1, 4)), image)
        results = ImageResults(image, image.parent / "Result_with_w")
        sr = ball((48, 50, 48), (1, 1, 1))
        volumes = {"sr": sr, "cortex_mask": (sr > 500).astype(np.uint8)}
        volumes |= {"invented": sr / 100, "cortex_disagreement": sr / 2000} if maps else {}
        level, reasons = judge(measures)
        entry = {"engine": "openvino", "precision": "float32", "command": "job_model.py <&>"}
        entry |= {"settings": {"weights": "w", "weights_sha256": "ab12" * 16, "thickness": None}}
        entry |= {"measures": measures, "verdict": level, "reasons": list(reasons)}
        with results.replacing(PAIR, entry) as path_of:
            for key, array in volumes.items():
                write_volume(Volume(array, (1, 1, 1)), path_of(result_files()[key]))
        return results

    return make


def outcome(results, result=FINISHED, verdict=PASS, **rest):
    return Outcome(results.image, *PAIR, result, results.folder / LABEL, verdict=verdict, **rest)


def test_a_job_writes_pages_beside_its_results(identity, image, tmp_path, capsys):
    path, out = image("scan/t2.nii.gz"), tmp_path / "out"
    words = [path, "-o", out, "--resolution", "2", "--patch", "16", "--weights_path", identity]
    words = [str(word) for word in ("predict", *words)]
    assert main(words) == 0 and not (out / "t2_report.html").exists()
    # Of finished results the pages that are missing are made.
    assert main([*words, "--report"]) == 0
    assert "patch 16, step 8" in (out / "t2_report.html").read_text(encoding="utf-8")
    job_page = (out / "segsrgan_summary.html").read_text(encoding="utf-8")
    assert 'href="t2_report.html"' in job_page and "data:image/jpeg" in job_page
    for place in (out, out / "segsrgan_summary.csv"):  # and later, by a command of its own
        (out / "t2_report.html").unlink()
        assert main(["report", str(place)]) == 0
        assert (out / "t2_report.html").exists()
    assert main([*words, "--overwrite"]) == 0
    assert not (out / "t2_report.html").exists()  # of the results before


def test_a_scan_that_has_changed_is_pointed_out_by_the_command_and_on_both_pages(
    identity, image, tmp_path, capsys
):
    path, out = image("scan/t2.nii.gz"), tmp_path / "out"
    words = [path, "-o", out, "--resolution", "2", "--patch", "16", "--weights_path", identity]
    assert main([str(word) for word in ("predict", *words)]) == 0
    pages_of = out / "t2_report.html", out / "segsrgan_summary.html"
    for is_changed, change in ((0, None), (1, lambda: image("scan/t2.nii.gz", (16, 20, 7)))):
        if change:
            change()
        capsys.readouterr()
        assert main(["report", str(out / "segsrgan_summary.csv")]) == 0
        warned = f"{path}: the image has changed since its results were made"
        assert capsys.readouterr().err.count(warned) == is_changed
        for page in pages_of:
            assert page.read_text(encoding="utf-8").count("the scan has changed") == is_changed
    path.unlink()  # which is not known to have changed
    assert main(["report", str(out / "segsrgan_summary.csv")]) == 1
    assert "the scan has changed" not in pages_of[1].read_text(encoding="utf-8")


def test_a_page_describes_scan_and_result_as_they_are_stored(made):
    results = made(maps=False)
    for path in (results.image, results.folder / LABEL / f"SR_{LABEL}.nii.gz"):
        array = read_volume(path).array.transpose(2, 0, 1)
        sizes = np.divide((48, 48, 50), array.shape).round()
        direction = np.eye(3)[:, [2, 0, 1]] * [1, -1, -1]
        write_volume(Volume(array, sizes, (20, 30, 0), direction), path)
    text = pages.write_scan_page(results, PAIR).read_text(encoding="utf-8")
    place = "axes SRA, from (20, 30, 0) mm</dd>"
    assert f"<dt>scan</dt><dd>12 x 48 x 50 voxels of 4 x 1 x 1 mm, {place}" in text
    assert f"<dt>result</dt><dd>48 x 48 x 50 voxels of 1 x 1 x 1 mm, {place}" in text


@pytest.mark.parametrize(
    ("interp", "shown"), [(None, "what the weights were trained with"), ("sitk", "sitk")]
)
def test_the_interpolation_of_a_record_is_shown(made, interp, shown):
    results = made(maps=False)
    record = results.folder / RECORD
    content = json.loads(record.read_text())
    content["results"][LABEL]["settings"]["interp"] = interp
    record.write_text(json.dumps(content))
    text = pages.write_scan_page(results, PAIR).read_text(encoding="utf-8")
    assert f"<dt>interp</dt><dd>{shown}</dd>" in text


def test_a_page_that_fails_does_not_fail_its_result(identity, image, tmp_path, monkeypatch, capsys):
    def fail(*arguments):
        raise OSError("no space")

    monkeypatch.setattr(pages, "write_scan_page", fail)
    words = ["predict", image(), "-o", tmp_path / "out", "--resolution", "2", "--patch", "16"]
    assert main([str(word) for word in (*words, "--weights_path", identity, "--report")]) == 0
    assert "has no page: " in capsys.readouterr().err
    assert (tmp_path / "out" / "lr_sr.nii.gz").exists()


def test_a_page_has_every_threshold_and_what_the_record_says(made):
    text = pages.write_scan_page(made(), PAIR).read_text(encoding="utf-8")
    table = {row[0].split()[-1]: row[1:] for row in rows(text)}
    assert table.keys() == {check.measure for check in CHECKS}
    assert table["noise_fraction"] == ["4.7%", "&gt; 2.5%", "&gt; 6.0%", LOOK]
    assert table["head_volume"] == [
        *("1400 ml", "&lt; 40 ml, &gt; 2200 ml", "&lt; 20 ml, &gt; 2600 ml", PASS)
    ]
    assert table["clipped"] == ["yes", "yes", "", LOOK]
    assert table["cortex_volume"] == ["no", "", "yes", PASS]
    assert table["thickness_mismatch"][:2] == ["-21%", "&lt; -40%, &gt; 60%"]
    assert table["slice_shift"] == ["not measured", "&gt; 0.8 mm", "&gt; 2.5 mm", ""]
    levels = [row[-1] for row in rows(text)]
    assert levels == sorted(levels, key=[FAIL, LOOK, PASS, ""].index)
    for reason in judge(MEASURES).reasons:
        assert reason in text
    for words in (
        "ab12" * 16,
        "openvino",
        "job_model.py &lt;&amp;&gt;",
        "<dd>0.25</dd>",
        "&lt;BSD&gt;",
    ):
        assert words in text
    assert "has changed" not in text and "by the thresholds" not in text
    assert re.findall("<figcaption>axial: (.*?)</", text) == [
        *("scan, interpolated", "result", "result, outlined"),
        *("Cortex disagreement, white from 0.394", "Invented, white from 6 times the noise"),
    ]


def test_volumes_are_embedded_with_their_place(made):
    results = made(maps=False)
    text = pages.write_scan_page(results, PAIR).read_text(encoding="utf-8")
    for name, file in (
        ("scan", results.image),
        ("result", results.folder / LABEL / f"SR_{LABEL}.nii.gz"),
    ):
        volume, stored = embedded(text, name), nibabel.load(file)
        assert np.allclose(volume.affine, stored.affine) and volume.shape == stored.shape
        array = np.asarray(volume.dataobj)
        assert array.dtype == np.uint8 and array.max() == 255
        assert np.corrcoef(array.ravel(), stored.get_fdata().ravel())[0, 1] > 0.99
    assert set(np.unique(embedded(text, "mask").dataobj)) == {0, 1}
    assert "Where to doubt it" not in text


def test_what_has_changed_since_is_said(made, monkeypatch):
    results = made()
    record = results.folder / RECORD
    content = json.loads(record.read_text())
    content["results"][LABEL] |= {"inputs": {"t2.nii.gz": [1, 1]}, "verdict": FAIL}
    record.write_text(json.dumps(content))
    text = pages.write_scan_page(results, PAIR).read_text(encoding="utf-8")
    assert "the scan has changed since" in text and f"dev0: {LOOK}" in text


def test_too_large_an_image_is_decimated_until_it_fits():
    noise = np.random.default_rng(0).uniform(0, 1, (40, 40, 10)).astype(np.float32)
    text, grid = pictures.packed_image(Volume(noise, (1, 1, 4)), 0, 1, 4000)
    assert len(text) <= 4000 and grid.spacing[0] == grid.spacing[1] > 1.5 and grid.spacing[2] == 4
    text, grid = pictures.packed_image(Volume(noise, (1, 1, 4)), 0, 1, 40_000)
    assert grid.shape == noise.shape


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)])
def test_the_right_is_on_the_left_the_front_and_the_top_above(flips):
    """A bright block at the patient's left, in front, on top; the axes are stored anyhow."""
    array = np.full((10, 12, 14), 0.2, np.float32)
    array[6:8, 2:4, 10:12] = 1  # +x left, +y back, +z top
    axes = tuple(slice(None, None, flip) for flip in flips)
    stored = Volume(
        array[axes].transpose(2, 0, 1), (1, 1, 1), (0, 0, 0), np.diag(flips)[:, [2, 0, 1]]
    )
    volume = pictures.upright(stored)
    mask = volume.with_array(volume.array == 1)
    grids = pictures.plane_grids(volume, 0, 1, mask)
    axial, coronal, sagittal = pictures.planes(volume, grids, 0)
    for plane, shape, (row, column) in (
        (axial, (12, 10), (2.5, 6.5)),
        (coronal, (14, 10), (2.5, 6.5)),
        (sagittal, (14, 12), (2.5, 2.5)),
    ):
        size = plane.shape[0] / shape[0]  # pixels of a voxel
        assert plane.shape[1] / shape[1] == size > 20
        places = np.argwhere(plane == 1).mean(0) / size - 0.5
        assert places == pytest.approx([row, column], abs=0.1)


def test_outlines_and_colours_by_hand():
    labels = np.zeros((5, 5), np.uint8)
    labels[1:4, 1:4] = 1
    picture = pictures.outlined(np.full((5, 5), 9, np.uint8), [labels], [(255, 0, 0)])
    ring = labels.astype(bool)
    ring[2, 2] = False
    assert (picture[ring] == (255, 0, 0)).all() and (picture[~ring] == 9).all()
    colours = pictures.heat(np.array([0, 2, 4, 6, 9.0]), 6)
    assert colours.tolist() == [[0] * 3, [255, 0, 0], [255, 255, 0], [255] * 3, [255] * 3]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_names_of_any_bytes_are_escaped_and_links_lead_to_their_pages(made, tmp_path):
    results = made(NAME, folder=NAME)
    page = pages.write_scan_page(results, PAIR)
    job = pages.write_job_page([outcome(results, verdict=LOOK)], tmp_path / "job.html")
    for text in (page.read_text(encoding="utf-8"), job.read_text(encoding="utf-8")):
        assert "K\\udcf6pf&lt;b&gt;&#x27;&quot; #?.nii.gz" in text and "<b>'" not in text
    (link,) = set(re.findall('href="([^"]+)"', job.read_text(encoding="utf-8")))
    assert (os.fsencode(tmp_path) + b"/" + unquote_to_bytes(link)) == os.fsencode(page)


def damage(results, what):
    record, folder = results.folder / RECORD, results.folder / LABEL
    if what == "record gone":
        record.unlink()
    elif what == "record damaged":
        record.write_text(record.read_text()[:100])
    elif what == "label gone":
        record.write_text(record.read_text().replace(LABEL, "patch_None"))
    elif what == "file gone":
        (folder / f"SR_{LABEL}.nii.gz").unlink()
    elif what == "other image":
        write_text(record, record.read_text().replace("t2.nii.gz", "t1.nii.gz"))
    elif what == "scan gone":
        results.image.unlink()
    elif what == "file damaged":
        file = folder / f"SR_{LABEL}.nii.gz"
        file.write_bytes(file.read_bytes()[:1000])
    elif what == "name taken":
        results.page(PAIR).write_text("<html>")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("record gone", "Result_with_w: has no results.json, .*; the command that made them"),
        ("record damaged", "results.json: is damaged"),
        ("label gone", f"Result_with_w: has no results of {LABEL}"),
        ("file gone", f"{LABEL}: the results are not whole, without SR_{LABEL}.nii.gz"),
        ("other image", "expected the results of .*t2.nii.gz, found those of t1.nii.gz"),
        ("scan gone", "t2.nii.gz: no such file"),
        ("file damaged", f"SR_{LABEL}.nii.gz: .*truncated"),
        ("name taken", f"Report_{LABEL}.html: is there already"),
    ],
)
def test_what_no_page_can_be_made_of_is_named(made, what, message):
    results = made()
    damage(results, what)
    with pytest.raises(UserError, match=message):
        pages.write_scan_page(results, PAIR)
    assert what == "name taken" or not results.page(PAIR).exists()


def test_without_the_extra_its_name_is_said(made, monkeypatch):
    def missing(name):
        raise markup.PackageNotFoundError(name)

    monkeypatch.setattr(markup, "distribution", missing)
    with pytest.raises(UserError, match=r"ipyniivue.*pip install 'SegSRGAN\[report\]'"):
        pages.write_scan_page(made(), PAIR)


def test_a_page_goes_with_the_results_that_it_shows(made):
    results = made()
    page = pages.write_scan_page(results, PAIR)
    assert pages.write_scan_page(results, PAIR) == page  # replaces it
    with results.replacing(PAIR, {}) as path_of:
        path_of("SR").write_text("x")
    assert not page.exists()


def test_a_job_page_begins_with_the_worst_and_shows_what_is_there(made, tmp_path):
    results = [made(f"{name}.nii.gz", folder=name) for name in "abcde"]
    levels = (PASS, LOOK, FAIL, "", "")
    outcomes = [outcome(r, verdict=v) for r, v in zip(results, levels, strict=True)]
    outcomes[4] = replace(outcomes[4], result=FAILED, detail="no <such> file", seconds=1.5)
    outcomes[1] = replace(outcomes[1], reasons=("a", "b"), peak_bytes=7_000_000)
    page = pages.write_scan_page(results[1], PAIR)
    text = pages.write_job_page(outcomes, tmp_path / "job.html").read_text(encoding="utf-8")
    table = rows(text)
    assert [row[1].split()[0][0] for row in table] == list("ecbda")
    assert [row[2] for row in table] == [FAILED, FAIL, LOOK, "no verdict", PASS]
    assert (table[0][3], table[0][6]) == ("no &lt;such&gt; file", "1.5")
    assert (table[2][3].split(), table[2][7]) == (["a", "b"], "7")
    assert text.count("<a ") == 2 and f'href="b/Result_with_w/{LABEL}/{page.name}"' in text
    with pytest.raises(UserError, match="is no page of ours"):
        (tmp_path / "notes.html").write_text("mine")
        pages.write_job_page(outcomes, tmp_path / "notes.html")


def test_the_command_makes_pages_of_a_summary_and_of_folders(made, tmp_path, capsys):
    good, bad = made("a.nii.gz", folder="a"), made("b.nii.gz", folder="b")
    outcomes = [outcome(good, verdict=LOOK, reasons=("x", "y"), seconds=2.0, peak_bytes=3_000_000)]
    outcomes += [outcome(bad), outcome(made("c.nii.gz", folder="c"), FAILED, "", detail="a, b")]
    summary = write_summary(outcomes, tmp_path / "data.csv")
    assert read_summary(summary) == outcomes
    damage(bad, "file gone")
    assert report.main([str(summary)]) == 1
    assert "not whole" in capsys.readouterr().err
    assert good.page(PAIR).exists() and not bad.page(PAIR).exists()
    table = rows((tmp_path / "data_summary.html").read_text(encoding="utf-8"))
    assert [row[2] for row in table] == [FAILED, LOOK, PASS]
    for place in (good.folder, good.folder / LABEL, tmp_path / "a"):
        assert [(r.image, pair) for r, pair in results_below(place)] == [(good.image, PAIR)]
        good.page(PAIR).unlink()
        assert report.main([str(place), "-o", str(tmp_path / "a.html"), "--quiet"]) == 0
        assert good.page(PAIR).exists() and (tmp_path / "a.html").exists()
    for wrong in ([str(tmp_path / "no.csv")], [str(good.image.parent), "-o", "page.txt"]):
        assert report.main(wrong) == 2
    (tmp_path / "empty").mkdir()
    assert report.main([str(tmp_path / "empty")]) == 2
    assert "holds no results" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_ends_the_command_before_it_begins(
    made, tmp_path, monkeypatch, capsys
):
    results, notes = made(), tmp_path / "notes.html"
    notes.write_text("mine")
    assert report.main([str(results.folder), "-o", str(notes)]) == 2
    assert "is no page of ours" in capsys.readouterr().err

    def refuse(dir):  # noqa: A002 - the library's name
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert report.main([str(results.folder), "-o", str(tmp_path / "all.html")]) == 2
    assert "Read-only file system); make it writable, or name" in capsys.readouterr().err
    assert not results.page(PAIR).exists()


def test_a_result_that_is_gone_is_named(identity, image, tmp_path, capsys):
    words = "predict", image(), "-o", tmp_path / "out", "--resolution", "2", "--patch", "16"
    assert main([str(word) for word in (*words, "--weights_path", identity)]) == 0
    (tmp_path / "out" / "lr_sr.nii.gz").unlink()
    assert main(["report", str(tmp_path / "out")]) == 1
    assert "the results are not whole, without lr_sr.nii.gz" in capsys.readouterr().err


def test_results_in_an_output_folder_know_their_image(made, tmp_path):
    image = made().image
    results = ImageResults(image, tmp_path / "out" / "Result_with_w", tmp_path / "out")
    with results.replacing((None, None), {}) as path_of:
        path_of("SR").write_text("x")
    ((found, pair),) = results_below(tmp_path / "out")
    assert (found.image, pair) == (image, (None, None))
    assert found.page(pair).name == "Report_whole_image.html"


def test_other_tables_are_no_summary(tmp_path):
    table = tmp_path / "people.csv"
    table.write_text("image,age\nx,3\n")
    with pytest.raises(TableError, match="lacks the columns patch, step"):
        read_summary(table)
    write_summary([outcome(ImageResults(tmp_path, tmp_path))], table)
    summary = tmp_path / "people_summary.csv"
    summary.write_text(summary.read_text().replace("64", "x"))
    with pytest.raises(TableError, match="line 2 is not of a summary"):
        read_summary(summary)


def test_the_browser_finds_no_fault_in_a_scan_page_and_loads_nothing(made, browse, real_viewer):
    page = pages.write_scan_page(made(), PAIR)
    text, said = browse(page, RESOURCES)
    assert not said and 'data-state="ready"' in text
    assert 'data-loaded=""' in text


@pytest.mark.slow
def test_the_viewer_shows_scan_result_and_mask(made, browse, real_viewer, tmp_path):
    page = pages.write_scan_page(made(), PAIR)
    alone = "main ~ *, header, main > :not(#view) { display: none !important }"

    def shown(blend, mask, style=""):
        script = f"""element = id => document.getElementById(id);
            new MutationObserver(() => {{
              element("blend").value = {blend}; element("show").checked = {mask};
              element("blend").oninput();
            }}).observe(element("view"), {{attributes: true, attributeFilter: ["data-state"]}});"""
        flags = (f"--screenshot={tmp_path / 'shot.png'}", "--virtual-time-budget=20000")
        browse(page, script, alone + style, flags)
        return np.asarray(Image.open(tmp_path / "shot.png").convert("RGB")).astype(int)[:440]

    empty = shown(1, "false", "canvas { visibility: hidden }")
    result, scan, mask = shown(1, "false"), shown(0, "false"), shown(1, "true")
    is_bright = (result.min(-1) > 100) & (empty.max(-1) < 60)
    assert is_bright.sum() > 5000  # voxels, which are grey
    assert (abs(result - scan).max(-1) > 40).sum() > 500  # slices of 4 mm
    assert ((mask[..., 0] - mask[..., 2] > 40) & is_bright).sum() > 0.5 * is_bright.sum()


def test_a_click_sorts_the_table_of_a_job(made, browse, tmp_path):
    outcomes = [
        replace(outcome(ImageResults(tmp_path / f"{name}.nii", tmp_path), verdict=v), seconds=s)
        for name, v, s in (("b", PASS, 9.5), ("a", FAIL, 10.5), ("c", LOOK, 1.0))
    ]
    page = pages.write_job_page(outcomes, tmp_path / "job.html")
    script = """document.body.dataset.orders = [-1, 0, 0, 5, 1].map(column => {
      document.querySelectorAll("th button")[column]?.click();
      const rows = [...document.querySelectorAll("tbody tr")];
      return rows.map(row => row.cells[1].textContent[0]).join("");
    });"""
    text, said = browse(page, script)
    assert not said and re.search('data-orders="([^"]*)"', text)[1] == "acb,abc,cba,cba,acb"
    text, said = browse(page, "fetch('https://example.org').catch(() => {});")
    assert said  # so what a page must not do would be seen


@pytest.mark.slow
def test_a_page_of_fifty_scans_loads_in_two_seconds(made, browse, tmp_path):
    first = made()
    pages.write_scan_page(first, PAIR)
    outcomes = [outcome(first, verdict=LOOK, reasons=("a reason " * 9,) * 4) for _ in range(50)]
    page = pages.write_job_page(outcomes, tmp_path / "job.html")
    timer = "addEventListener('load', () => document.title = performance.now());"
    times = []
    for _ in range(3):  # others may compute meanwhile
        text, _ = browse(page, timer, flags=("--dump-dom",))
        times.append(float(re.search("<title>(.*?)</title>", text)[1]))
        assert text.count("<img ") == 50
        if times[-1] < 2000:
            break
    assert min(times) < 2000


@pytest.mark.slow
def test_a_page_looks_as_in_the_documents(browse, real_viewer, tmp_path, monkeypatch):
    """With SEGSRGAN_WRITE_IMAGES in the environment, it writes the documents' picture anew."""
    datasets = pytest.importorskip("nilearn.datasets")
    template, brain = datasets.load_mni152_template(1), datasets.load_mni152_brain_mask(1)
    truth = template.get_fdata() * brain.get_fdata()
    nibabel.Nifti1Image(truth.astype("f4"), template.affine).to_filename(tmp_path / "t1.nii.gz")
    monkeypatch.chdir(tmp_path)
    write_volume(degrade(read_volume("t1.nii.gz"), (1, 1, 4)), "t1_thick.nii.gz")
    words = ["t1_thick.nii.gz", "-o", "results", "--resolution", "1", "--report"]
    assert main(["predict", *words]) == 0
    # Folders differ from one computer to the next.
    script = f"""const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        while (texts.nextNode())
          texts.currentNode.data = texts.currentNode.data.replaceAll("{tmp_path}", "scans");"""
    shot, kept = tmp_path / "report.png", DOCUMENTS / "images" / "report.jpg"
    flags = f"--screenshot={shot}", "--window-size=1000,2100", "--virtual-time-budget=20000"
    browse(Path("results/t1_thick_report.html"), script, "html { overflow: hidden }", flags)
    image = Image.open(shot).convert("RGB")
    image.thumbnail((760, 1600))
    if os.environ.get("SEGSRGAN_WRITE_IMAGES"):
        image.save(kept, quality=85)
    difference = np.asarray(image, float) - np.asarray(Image.open(kept), float)
    assert np.abs(difference).mean() < 6
