# SPDX-License-Identifier: MIT
"""Files are whole or absent, and folders of results know what they hold."""

import errno
import json
import os
from pathlib import Path

import pytest

from segsrgan.errors import UserError
from segsrgan.files import (
    ResultsFolder,
    check_writable,
    create_text,
    files_below,
    remove_stale,
    replaced_file,
    stamp,
    temporary_beside,
    write_bytes,
    write_text,
)


def content(folder):
    """Name -> text of all files below a folder."""
    return {str(p.relative_to(folder)): p.read_text() for p in files_below(folder)}


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replaced_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
        assert len(list(tmp_path.iterdir())) == 2
    assert content(tmp_path) == {"a.txt": "new"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_ends_the_writing_leaves_the_old_file_and_nothing_else(tmp_path, error):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(error), replaced_file(tmp_path / "a.txt") as file:
        file.write(b"new")
        raise error
    assert content(tmp_path) == {"a.txt": "old"}


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path):
    (tmp_path / "target").write_text("target")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_bytes(tmp_path / "link", b"new")
    assert content(tmp_path) == {"target": "target", "link": "new"}
    assert not (tmp_path / "link").is_symlink()


def test_an_error_of_a_full_disk_names_the_file(tmp_path):
    path = tmp_path / "a.txt"
    with pytest.raises(OSError, match="a.txt") as caught, replaced_file(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.errno == errno.ENOSPC
    assert content(tmp_path) == {}


@pytest.mark.parametrize("links", [True, False])
def test_a_file_is_created_once(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "")))
    create_text(tmp_path / "a.txt", "first")
    with pytest.raises(FileExistsError):
        create_text(tmp_path / "a.txt", "second")
    assert content(tmp_path) == {"a.txt": "first"}


def test_files_of_other_programs_are_not_stale(tmp_path):
    names = [".a.partial", ".a.host.1.partial", ".a.host.one.0123456789ab.segsrgan-partial"]
    for name in names:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    ours = temporary_beside(tmp_path / "a").name.replace(f".{os.getpid()}.", ".999999999.")
    (tmp_path / ours).touch()
    remove_stale(tmp_path)
    assert sorted(content(tmp_path)) == sorted(names)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    check_writable(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write into .*file/b .*name another folder"):
        check_writable(tmp_path / "file" / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_files_below_a_folder_are_found_through_links_once(tmp_path):
    (tmp_path / "scan" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for name in ("scan/a", "scan/deep/b", "elsewhere/c"):
        (tmp_path / name).touch()
    (tmp_path / "scan" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "scan" / "deep" / "loop").symlink_to(tmp_path / "scan")
    found = [str(p.relative_to(tmp_path / "scan")) for p in files_below(tmp_path / "scan")]
    assert found == ["a", "deep/b", "link/c"]


def test_a_stamp_tells_a_change_of_size_and_time_in_subfolders_too(tmp_path):
    (tmp_path / "series").mkdir()
    for name in ("a", "series/b"):
        (tmp_path / name).write_bytes(b"12")
        os.utime(tmp_path / name, (5.9, 7.9))
    assert stamp(tmp_path / "a") == [2, 7] and stamp(tmp_path) == [4, 7]
    os.utime(tmp_path / "series" / "b", (9, 9))
    assert stamp(tmp_path) == [4, 9]
    assert stamp(tmp_path / "none") is None


@pytest.mark.parametrize(("header", "voxels"), [("a.hdr", "a.img"), ("a.mhd", "a.zraw")])
def test_a_stamp_of_a_pair_sees_both_files(tmp_path, header, voxels):
    for name in (header, voxels):
        (tmp_path / name).write_bytes(b"12")
    assert stamp(tmp_path / header) == stamp(tmp_path / voxels)
    assert stamp(tmp_path / header)[0] == 4


def results(folder, source="a.nii"):
    return ResultsFolder(Path(folder), source)


def put(folder, text, label="", name="sr"):
    with folder.replacing(label, {}) as place:
        (place / name).write_text(text)


@pytest.mark.parametrize(("label", "prefix"), [("patch_64", "patch_64/"), ("", "")])
def test_results_replace_each_other_with_their_record(tmp_path, label, prefix):
    folder = results(tmp_path / "out")
    assert folder.claim() and folder.owner() == "a.nii" and folder.entry(label) is None
    with folder.replacing(label, {"settings": 1}) as place:
        (place / "sr").write_text("1")
        (place / "mask").write_text("1")
        assert folder.entry(label) is None
    assert folder.entry(label) == {"files": ["mask", "sr"], "settings": 1}
    entry = {"settings": 2}
    with folder.replacing(label, entry, possible=["never"]) as place:
        (place / "sr").write_text("2")
        entry["seconds"] = 3
    assert folder.entry(label) == {"files": ["sr"], "settings": 2, "seconds": 3}
    found = content(tmp_path / "out")
    assert found.pop("results.json") and found == {f"{prefix}sr": "2"}


def test_results_that_are_not_completed_leave_the_earlier_ones(tmp_path):
    folder = results(tmp_path)
    put(folder, "1")
    with pytest.raises(KeyboardInterrupt), folder.replacing("", {"new": 1}) as place:
        (place / "sr").write_text("2")
        raise KeyboardInterrupt
    assert folder.entry() == {"files": ["sr"]}
    assert sorted(content(tmp_path)) == ["results.json", "sr"]


def test_an_exchange_that_was_cut_short_has_no_whole_results(tmp_path, monkeypatch):
    folder, replace = results(tmp_path), os.replace
    put(folder, "1")

    def fail(source, target):
        if Path(target).name == "sr":
            raise OSError(errno.EIO, "disk lost")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk lost"):
        put(folder, "2")
    assert folder.knows() and folder.entry() is None
    monkeypatch.undo()
    put(folder, "3")
    assert folder.entry() == {"files": ["sr"]}


def test_a_folder_belongs_to_the_first_that_claims_it(tmp_path):
    assert results(tmp_path / "x").claim()
    assert not results(tmp_path / "x", "b.nii").claim()
    assert results(tmp_path / "x", "b.nii").owner() == "a.nii"


@pytest.mark.parametrize("damaged", ["", "{", "[]", '{"results": 3}', '{"image": "a.nii"}'])
def test_a_damaged_record_is_replaced(tmp_path, damaged):
    (tmp_path / "results.json").write_text(damaged)
    folder = results(tmp_path)
    assert folder.owner() is None and folder.entry() is None
    assert folder.claim() and folder.owner() == "a.nii"


def test_results_of_segsrgan_3_0_0_are_known(tmp_path):
    made = {"weights": "w", "threshold": 0.5, "image_stamp": [9, 7]}
    pairs = {"patch_64_step_32": made, "patch_None": None}
    (tmp_path / "results.json").write_text(json.dumps({"image": "a.nii", "pairs": pairs}))
    folder = results(tmp_path)
    assert folder.owner() == "a.nii" and folder.knows("patch_None")
    assert folder.entry("patch_None") is None
    expected = {"settings": {"weights": "w", "threshold": 0.5}, "inputs": {"a.nii": [9, 7]}}
    assert folder.entry("patch_64_step_32") == expected
    put(folder, "1", "patch_None")
    assert folder.entry("patch_64_step_32") == expected
    assert folder.entry("patch_None") == {"files": ["sr"]}


@pytest.mark.parametrize("whole", [True, False])
def test_results_of_supermask_3_0_0_are_known_and_replaced(tmp_path, whole):
    report = {"supermask": "3.0.0", "whole": whole, "patient": "p", "files": ["mask.nii.gz"]}
    (tmp_path / "report.json").write_text(json.dumps(report))
    (tmp_path / "mask.nii.gz").write_text("old")
    folder = results(tmp_path, "p")
    assert folder.owner() == "p" and folder.knows()
    assert (folder.entry() is not None) == whole
    put(folder, "new", name="image.nii.gz")
    left = [] if whole else ["mask.nii.gz", "report.json"]
    assert sorted(content(tmp_path)) == ["image.nii.gz", *left, "results.json"]
