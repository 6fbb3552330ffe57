# SPDX-License-Identifier: MIT
"""Files are whole or absent, and folders of results know what they hold."""

import errno
import gc
import json
import os
import warnings
from pathlib import Path

import pytest

from segsrgan.errors import UserError
from segsrgan.files import (
    ResultsFolder,
    check_writable,
    create_text,
    files_below,
    has_content,
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


@pytest.mark.parametrize(
    "error", [ValueError(), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")]
)
def test_what_ends_the_writing_leaves_the_old_file_and_nothing_else(tmp_path, error):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(type(error)) as caught, replaced_file(tmp_path / "a.txt") as file:
        file.write(b"new")
        raise error
    assert content(tmp_path) == {"a.txt": "old"}
    if isinstance(error, OSError):  # which does not say itself what could not be written
        assert caught.value.errno == errno.ENOSPC and "a.txt" in str(caught.value)


def test_a_device_or_pipe_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileExistsError, match="device or pipe.*pipe'"):
        write_bytes(tmp_path / "pipe", b"new")
    assert (tmp_path / "pipe").is_fifo()


def test_errors_name_the_file_and_not_what_is_written_beside_it(tmp_path):
    (tmp_path / "folder").mkdir()
    for name, error in (("folder", IsADirectoryError), ("none/a.txt", FileNotFoundError)):
        with pytest.raises(error, match=f"directory: '{tmp_path / name}'$"):
            write_bytes(tmp_path / name, b"new")
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path):
    (tmp_path / "target").write_text("target")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_bytes(tmp_path / "link", b"new")
    assert content(tmp_path) == {"target": "target", "link": "new"}
    assert not (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("links", [True, False])
def test_a_file_is_created_once(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "")))
    create_text(tmp_path / "a.txt", "first")
    with pytest.raises(FileExistsError):
        create_text(tmp_path / "a.txt", "second")
    assert content(tmp_path) == {"a.txt": "first"}


def test_a_link_that_leads_elsewhere_has_changed(tmp_path):
    for name in ("a", "b"):
        write_text(tmp_path / name, "same size")
        os.utime(tmp_path / name, (1e9, 1e9))
    link = tmp_path / "link"
    link.symlink_to("a")
    os.utime(link, (2e9, 2e9), follow_symlinks=False)
    before = stamp(link)
    link.unlink()
    link.symlink_to("b")
    assert stamp(link) != before and stamp(tmp_path / "a") == stamp(tmp_path / "b")


def test_files_of_other_programs_are_not_stale(tmp_path):
    names = [".a.partial", ".a.host.1.partial", ".a.host.one.0123456789ab.segsrgan-partial"]
    ours = temporary_beside(tmp_path / "a").name.replace(f".{os.getpid()}.", ".999999999.")
    for name in (*names, ours):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
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


def test_a_stamp_of_header_or_voxels_sees_both_files(tmp_path):
    for names in (("a.hdr", "a.img"), ("b.mhd", "b.zraw"), ("C.HDR.GZ", "C.img.gz")):
        for name in names:
            (tmp_path / name).write_bytes(b"12")
        assert [stamp(tmp_path / name)[0] for name in names] == [4, 4]


def results(folder, source="a.nii"):
    return ResultsFolder(Path(folder), source)


def put(folder, text, label="", name="sr"):
    with folder.replacing(label, {}) as place:
        (place / name).write_text(text)


@pytest.mark.parametrize(("label", "prefix"), [("patch_64", "patch_64/"), ("", "")])
def test_results_of_who_claims_the_folder_first_replace_each_other_with_their_record(
    tmp_path, label, prefix
):
    folder = results(tmp_path / "out")
    assert folder.claim() and folder.owner() == "a.nii" and folder.entry(label) is None
    other = results(tmp_path / "out", "b.nii")
    assert not other.claim() and other.owner() == "a.nii"
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

    def fail(source, target):
        if Path(target).name == "sr":
            raise OSError(errno.EIO, "disk lost")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk lost"):
        put(folder, "1")
    assert folder.knows() and folder.entry() is None
    monkeypatch.undo()
    put(folder, "2")
    assert folder.entry() == {"files": ["sr"]}


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


def test_a_folder_looked_into_is_closed(tmp_path):
    for name in "ab":
        (tmp_path / name).touch()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert has_content(tmp_path) and not has_content(tmp_path / "a")
        gc.collect()
    assert not caught
