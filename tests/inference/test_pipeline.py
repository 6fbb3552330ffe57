# SPDX-License-Identifier: MIT
"""Images in a pipeline: read ahead, written behind, in order; whatever goes wrong, nothing torn."""

import json
import threading
import time
from dataclasses import replace

import pytest
from inference.stub import ENGINE, prediction

from segsrgan.errors import MemoryShortage
from segsrgan.files import stamp
from segsrgan.inference.jobs import run_job
from segsrgan.volumes import nifti


class Stage:
    """A predictor whose steps are recorded, and can be made to wait or to fail."""

    engine = ENGINE

    def __init__(self):
        self.steps = []
        self.before = {}

    def note(self, what, name):
        before = self.before.get((what, name), lambda: None)
        if isinstance(before, BaseException):
            raise before
        before()
        self.steps.append(f"{what} {name}")

    def prepare(self, image, new_resolution, series, patch):
        self.note("read", image.parent.name)
        return image.parent.name

    def predict_prepared(self, prepared, patch, step, progress):
        progress(0, 1)
        self.note("compute", f"{prepared} {patch}")
        return prediction(patch)


@pytest.fixture
def stage(monkeypatch):
    stage, real = Stage(), nifti.write_volume

    def write(volume, path):
        if path.name.startswith("SR"):
            stage.note("write", f"{path.parents[2].name} {int(volume.array[0, 0, 0])}")
        real(volume, path)

    monkeypatch.setattr(nifti, "write_volume", write)
    return stage


def run(job, stage):
    outcomes = run_job(job, lambda: stage)
    return [(outcome.image.parent.name, outcome.patch, outcome.result) for outcome in outcomes]


def files_of(job):
    """Names of all result files, and of what has no business there."""
    found = [p for item in job.results for p in item.image.parent.rglob("*") if p.is_file()]
    hidden = [path for path in found if any(part.startswith(".") for part in path.parts)]
    return {path.name for path in found if path.name.startswith("SR")}, hidden


def expect(event):
    """Waits for another thread; fails instead of hanging."""
    assert event.wait(60), "nobody came"


def test_everything_is_done_once_and_reported_in_order(job, stage):
    both = [(name, patch) for name in "abc" for patch in (8, 16)]
    assert run(job(*"abc"), stage) == [(*pair, "finished") for pair in both]
    expected = [f"{what} {name} {patch}" for what in ("compute", "write") for name, patch in both]
    # Sorting is stable: each kind of step keeps its order.
    steps = sorted(stage.steps, key=lambda step: step.split()[0])
    assert steps == [*expected[:6], "read a", "read b", "read c", *expected[6:]]


def test_one_image_is_read_ahead_and_one_result_written_behind(job, stage):
    reading, computing, seen = threading.Event(), threading.Event(), []
    stage.before["read", "b"] = reading.set
    stage.before["compute", "a 8"] = lambda: expect(reading)
    stage.before["compute", "a 16"] = lambda: seen.extend(stage.steps)
    stage.before["compute", "b 8"] = computing.set
    stage.before["write", "a 16"] = lambda: expect(computing)
    assert len(run(job(*"abc"), stage)) == 6
    assert "read b" in seen and "read c" not in seen


def test_progress_tells_how_far_the_job_is_and_when_it_ends(job, stage, monkeypatch):
    now, texts = [0.0], []
    monkeypatch.setattr("segsrgan.inference.jobs.time.monotonic", lambda: now[0])

    def work(prepared, patch, step, progress):
        for done in (0, 3, 4):
            progress(done, 4)
            now[0] += 10
        return prediction(patch)

    stage.predict_prepared = work
    stage.before["read", "b"] = ValueError("is no image")

    def note(label, done, total, text):
        texts.append(f"{label}: {text}")

    assert len(list(run_job(job(*"abc"), lambda: stage, note))) == 6
    assert texts[:4] == [
        "lr.nii patch_8_step_4: 1 of 6",
        "lr.nii patch_8_step_4: 1 of 6, 0:01:10 left in all",  # 5.25 pairs at 13 s
        "lr.nii patch_8_step_4: 1 of 6, 0:01:40 left in all",
        "lr.nii patch_16_step_8: 2 of 6, 0:02:30 left in all",
    ]
    # What failed takes no time.
    assert texts[6].endswith(": 5 of 6, 0:01:00 left in all")
    assert texts[-1].endswith(": 6 of 6, 0:00:00 left in all")
    texts.clear()
    single = job("d")
    single = replace(single, pairs=single.pairs[:1])
    list(run_job(single, lambda: stage, note))
    assert set(texts) == {"lr.nii patch_8_step_4: "}


def test_an_image_replaced_while_it_is_computed_counts_as_changed(job, stage, caplog):
    todo = job("a")
    stage.before["compute", "a 8"] = lambda: todo.results[0].image.write_text("a new scan")
    assert {result for *_, result in run(todo, stage)} == {"finished"}
    assert {result for *_, result in run(todo, stage)} == {"skipped"}
    assert f"{todo.results[0].image}, patch_8_step_4: the image has changed since" in caplog.text


def test_the_record_names_inputs_settings_engine_and_precision(job, stage):
    todo = job("a")
    run(todo, stage)
    record = json.loads(
        (todo.results[0].image.parent / "Result_with_r" / "results.json").read_text()
    )
    assert record["source"] == "lr.nii"
    entry = record["results"]["patch_8_step_4"]
    assert entry["inputs"] == {"lr.nii": stamp(todo.results[0].image)}
    assert entry["settings"] == {"k": 1, "patch": 8, "step": 4}
    assert (entry["engine"], entry["precision"]) == ("stub", "float64")
    assert entry["measures"] == {"noise": 1.5}
    names = [f"{kind}_patch_8_step_4.nii.gz" for kind in ("Cortex_mask", "Cortex", "SR")]
    assert entry["files"] == names


@pytest.mark.parametrize(
    "moment, error, failed",
    [
        (("read", "b"), ValueError("is no image"), ["b", "b"]),
        (("compute", "b 8"), RuntimeError("a strange patch"), ["b"]),
        (("write", "b 8"), OSError(28, "No space left on device"), ["b"]),
    ],
)
def test_what_fails_is_reported_in_its_turn_and_leaves_the_others(
    job, stage, moment, error, failed, caplog
):
    stage.before[moment] = error
    todo = job(*"abc")
    found = run(todo, stage)
    assert [name for name, _, result in found if result == "failed"] == failed
    assert [name for name, _, _ in found] == list("aabbcc")
    assert f"{todo.results[1].image}: " in caplog.text and error.args[-1] in caplog.text
    assert files_of(todo)[1] == []
    assert not (todo.results[1].image.parent / "Result_with_r" / "patch_8_step_4").exists()


@pytest.mark.parametrize("error", [MemoryShortage("too large"), MemoryError()])
@pytest.mark.parametrize(
    "moment, again", [(("read", "b"), "read b"), (("compute", "b 8"), "read c")]
)
def test_what_does_not_fit_beside_others_is_done_again_alone(job, stage, moment, again, error):
    tries = []

    def fail_at_first():
        tries.append(list(stage.steps))
        if len(tries) == 1:
            raise error

    stage.before[moment] = fail_at_first
    assert {result for *_, result in run(job(*"abc"), stage)} == {"finished"}
    # The second time nothing else is in the memory: what had been read ahead was let go.
    assert "write a 16" in tries[1]
    assert stage.steps.count("read c") == 1 + (again == "read c")


def test_what_never_fits_fails_and_the_next_image_is_done(job, stage):
    for patch in (8, 16):
        stage.before["compute", f"a {patch}"] = MemoryShortage("too large")
    assert [result for *_, result in run(job(*"ab"), stage)] == ["failed"] * 2 + ["finished"] * 2


@pytest.mark.parametrize("moment", [("read", "b"), ("compute", "b 8"), ("write", "b 8")])
def test_an_interrupt_leaves_whole_results_and_reports_them(job, stage, moment):
    stage.before[moment] = KeyboardInterrupt()
    todo, found = job(*"abc"), []
    with pytest.raises(KeyboardInterrupt):
        for outcome in run_job(todo, lambda: stage):
            found.append((outcome.image.parent.name, outcome.patch))
    assert found == [("a", 8), ("a", 16)]
    assert files_of(todo) == ({"SR_patch_8_step_4.nii.gz", "SR_patch_16_step_8.nii.gz"}, [])
    stage.before.clear()
    assert [result for *_, result in run(todo, stage)] == ["skipped"] * 2 + ["finished"] * 4


def test_whatever_ends_it_waits_for_what_is_being_written(job, stage):
    stage.before["compute", "b 8"] = SystemExit()
    stage.before["write", "a 16"] = lambda: time.sleep(0.3)
    todo = job(*"ab")
    with pytest.raises(SystemExit):
        run(todo, stage)
    assert "write a 16" in stage.steps
    assert files_of(todo) == ({"SR_patch_8_step_4.nii.gz", "SR_patch_16_step_8.nii.gz"}, [])
