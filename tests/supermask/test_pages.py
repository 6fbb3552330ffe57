# SPDX-License-Identifier: MIT
"""Pages of patients and jobs: what they show and say, what they refuse, and the browser's view."""

import json
import os
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from examinations import examination
from page_reading import RESOURCES, embedded, rows

from segsrgan.cli.supermask_predict import main
from segsrgan.errors import UserError
from segsrgan.inference import markup, pictures
from segsrgan.inference.summary import FAILED, FINISHED
from segsrgan.volumes import dice, read_volume, write_volume
from supermask import pages
from supermask.folders import PatientResults
from supermask.geometry import Rigid, sample
from supermask.results import Outcome

MOVED = {"sagittal": Rigid((0.1, -0.2, 0.3), (7, -4, 5))}
NAMES = ("axial", "sagittal")

pytestmark = pytest.mark.usefixtures("small_viewer")


def find(reference, view, settings, *rest):
    return Rigid() if settings.alignment == "none" else MOVED[view.name]


def run(folder, *flags):
    """The command on the patients of `data`, which finds the true motion."""
    words = ("--path", folder / "data", "-o", folder / "out", "--alignment", "classical", *flags)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("supermask.prediction._aligned", find)
        return main([str(word) for word in words])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a folder with the stacks of one patient and their results."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "data" / "Anna").mkdir(parents=True)
    for view in examination(MOVED, planes=NAMES, fine=3.0, thick=6.0):
        path = folder / "data" / "Anna" / f"{view.name}.nii.gz"
        write_volume(view.volume, path)
        mask = view.mask.with_array(view.mask.array.astype(np.uint8))
        write_volume(mask, path.with_name(f"{view.name}_mask.nii.gz"))
    assert run(folder) == 0
    return folder


@pytest.fixture
def results(made, tmp_path):
    """Return the `PatientResults` of that patient, in a folder that a test may change."""
    shutil.copytree(made / "out" / "Anna", tmp_path / "out" / "Anna")
    return PatientResults(tmp_path / "out" / "Anna", "Anna")


def change(results, **items):
    path = results.folder / "results.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["results"][""] |= items
    path.write_text(json.dumps(record), encoding="utf-8")


def page_of(results):
    return pages.write_patient_page(results).read_text(encoding="utf-8")


def test_a_page_shows_views_alignment_and_fusion_and_says_what_the_record_does(results):
    text, entry = page_of(results), results.entry()
    assert re.findall("<figcaption>coronal: (.*?)</", text) == [
        *(f"{name} stack" for name in NAMES),
        *("masks by the headers", "masks aligned", "fused mask", "fused image"),
    ]
    (agreement,) = entry["agreement"]
    ((names, before, after, _, correlation, overlap),) = rows(text, 0)
    assert names == "axial and sagittal" and overlap.endswith("%")
    assert after == f"{agreement['dice']:.3f}" and float(before) < float(after) - 0.1
    assert correlation == f"{agreement['correlation']:.3f}"
    ((view, turned, shifted, *_),) = rows(text, 1)
    assert (view, shifted) == ("sagittal", "9.5 mm")
    assert turned == f"{MOVED['sagittal'].angle():.1f} degrees"
    assert [row[0] for row in rows(text, 2)] == list(NAMES)
    assert f"The fused mask has {entry['mask_volume']:.4g} ml" in text
    assert 'class="badge pass"' in text
    made_by = json.dumps(entry["command"])[1:-1].replace("'", "&#x27;")
    assert made_by.startswith("supermask-predict --path") and made_by in text
    for words in ("<dt>alignment</dt><dd>classical</dd>", "<dt>versions</dt>", "SimpleITK"):
        assert words in text


def test_overlaps_by_the_headers_are_those_that_no_alignment_would_have_recorded(made, tmp_path):
    (tmp_path / "data").symlink_to(made / "data")
    assert run(tmp_path, "--alignment", "none") == 1  # doubtful, as the patient has moved
    (none,) = PatientResults(tmp_path / "out" / "Anna", "Anna").entry()["agreement"]
    results = PatientResults(made / "out" / "Anna", "Anna")
    aligned = [pages._read(results, view) for view in results.entry()["views"]]
    image = read_volume(results.folder / "image.nii.gz")
    (found,) = pages._agreements_by_headers(aligned, image.grid)
    # As near as voxels of 3 mm allow, of an object 26 mm wide.
    assert found.dice == pytest.approx(none["dice"], abs=0.08)
    assert found.correlation == pytest.approx(none["correlation"], abs=0.1)


def test_masks_are_outlined_on_the_stacks_where_they_were_drawn(made):
    results = PatientResults(made / "out" / "Anna", "Anna")
    for number, name in enumerate(NAMES):
        item = pages._read(results, results.entry()["views"][number])
        drawn = read_volume(made / "data" / "Anna" / f"{name}_mask.nii.gz")
        assert dice(sample(item.mask, drawn.grid, item.back) >= 0.5, drawn.array > 0) > 0.9
        # Green is where the outline is, and nothing else has a colour.
        (axial, *_) = pages._own_planes(item, (0, 255, 0))
        coloured = (axial != axial[..., :1]).any(-1)
        assert coloured.any() and (axial[coloured] == (0, 255, 0)).all()
        inside = np.argwhere(coloured).mean(0)
        volume = pictures.upright(item.view.volume)
        mask = pictures.upright(drawn)
        grids = pictures.plane_grids(volume, *pictures.window(volume), mask)
        expected = np.argwhere(pictures.planes(mask, grids, 0)[0] > 0).mean(0)
        assert np.allclose(inside, expected, atol=0.06 * axial.shape[0])


def test_the_viewer_gets_reference_fused_image_and_mask(results):
    text = page_of(results)
    for name, file in (("result", "image.nii.gz"), ("mask", "mask.nii.gz")):
        volume, stored = embedded(text, name), read_volume(results.folder / file)
        assert volume.shape == stored.array.shape
        assert np.corrcoef(np.ravel(volume.dataobj), stored.array.ravel())[0, 1] > 0.98
    stack = results.entry()["views"][0]["stack"]
    assert embedded(text, "scan").shape == read_volume(stack).array.shape


def test_doubts_and_changes_since_are_said(results):
    change(results, warnings=["the <mask> is empty"], inputs={"gone.nii": [1, 1]})
    text = page_of(results)
    assert 'class="badge look"' in text and "the &lt;mask&gt; is empty" in text
    assert "files have changed since these results were made" in text
    change(results, doubtful=True)
    assert 'class="badge doubtful"' in page_of(results)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: os.remove(folder / "results.json"), "has no whole results"),
        (lambda folder: os.remove(folder / "image.nii.gz"), "has no whole results"),
        (lambda folder: (folder / "mask.nii.gz").write_bytes(b"x" * 99), "mask.nii.gz: "),
        (lambda folder: (folder / "report.html").write_text("mine"), "is no page of ours"),
    ],
)
def test_what_no_page_can_be_made_of_is_named(results, damage, message):
    damage(results.folder)
    with pytest.raises(UserError, match=message):
        pages.write_patient_page(results)
    assert not results.page.exists() or results.page.read_text() == "mine"


def test_a_stack_that_has_gone_is_named(results):
    (view, other) = results.entry()["views"]
    change(results, views=[view | {"stack": "/gone/axial.nii.gz"}, other])
    with pytest.raises(UserError, match="/gone/axial.nii.gz: no such file"):
        pages.write_patient_page(results)


def test_the_page_of_a_job_begins_with_the_worst_and_links_to_what_there_is(results, tmp_path):
    copies = [replace(results, folder=tmp_path / "out" / n, patient=n) for n in "abc"]
    for copy in copies:
        shutil.copytree(results.folder, copy.folder)
    change(copies[1], lost=["cor.nii: has no mask"])
    change(copies[2], doubtful=True)
    pages.write_patient_page(copies[2])
    outcomes = [Outcome(copy, FINISHED) for copy in copies]
    failed = replace(results, folder=tmp_path / "out" / "d", patient="<d>")
    outcomes.append(Outcome(failed, FAILED, detail="no stack can be used"))
    page = pages.write_job_page(outcomes, tmp_path / "out" / "job.html")
    text = page.read_text(encoding="utf-8")
    table = rows(text)
    assert [row[2] for row in table] == ["failed", "doubtful", "look", "pass"]
    assert table[0][1].startswith("&lt;d&gt;") and table[0][3:] == [
        *("no stack can be used", "", "failed", "", "", "")
    ]
    assert table[2][3] == "cor.nii: has no mask"
    turned = f"{MOVED['sagittal'].angle():.1f}"
    assert table[3][4:6] == ["axial, sagittal", "finished"] and table[3][7:] == [turned, "9.5"]
    assert set(re.findall('href="([^"]+)"', text)) == {"c/report.html"}
    assert text.count("<img ") == 1


def test_the_command_makes_the_pages_that_are_missing(made, tmp_path, capsys):
    shutil.copytree(made, tmp_path / "made")
    folder, out = tmp_path / "made", tmp_path / "made" / "out"
    (folder / "data").rename(tmp_path / "elsewhere")
    (folder / "data").symlink_to(made / "data")
    assert run(folder, "--report", "--overwrite") == 0
    shutil.copytree(out / "Anna", out / "Ben")  # of an earlier run
    first = (out / "Anna" / "report.html").read_text(encoding="utf-8")
    assert run(folder, "--report") == 0
    assert "page: " in capsys.readouterr().err
    names = [row[1].split()[0] for row in rows((out / "supermask.html").read_text())]
    assert sorted(names) == ["Anna", "Ben"]
    (out / "Anna" / "report.html").unlink()
    assert run(folder, "--report") == 0
    assert (out / "Anna" / "report.html").read_text(encoding="utf-8") == first
    assert run(folder, "--overwrite") == 0
    assert not (out / "Anna" / "report.html").exists()  # of the results before


def test_a_page_that_fails_does_not_fail_its_result(made, tmp_path, monkeypatch, capsys):
    def fail(*arguments):
        raise OSError("no space")

    monkeypatch.setattr(pages, "write_patient_page", fail)
    (tmp_path / "data").symlink_to(made / "data")
    assert run(tmp_path, "--report") == 0
    assert "Anna: has no page: no space" in capsys.readouterr().err


def test_without_the_extra_or_over_files_of_others_nothing_is_made(
    made, tmp_path, monkeypatch, capsys
):
    (tmp_path / "data").symlink_to(made / "data")

    def missing(name):
        raise markup.PackageNotFoundError(name)

    with monkeypatch.context() as patch:
        patch.setattr(markup, "distribution", missing)
        assert run(tmp_path, "--report") == 2
    assert "pip install 'SegSRGAN[report]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "supermask.html").write_text("mine")
    assert run(tmp_path, "--report") == 2
    assert "supermask.html: is there already and is no page of ours" in capsys.readouterr().err
    assert os.listdir(tmp_path / "out") == ["supermask.html"]


def test_the_browser_finds_no_fault_in_a_patients_page(results, browse, real_viewer):
    text, said = browse(pages.write_patient_page(results), RESOURCES)
    assert not said and 'data-state="ready"' in text and 'data-loaded=""' in text
