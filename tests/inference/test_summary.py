# SPDX-License-Identifier: MIT
"""The summary replaces a summary, and nothing else."""

from pathlib import Path

import pytest

from segsrgan.cli.main import main
from segsrgan.inference.summary import Outcome, write_summary


def outcome(image):
    return Outcome(Path(image), 64, 32, "finished", Path("/results"))


def test_a_summary_replaces_an_older_one(tmp_path):
    for image in ("/a.nii", "/b.nii"):
        path = write_summary([outcome(image)], tmp_path / "people.csv")
    assert path == tmp_path / "people_summary.csv"
    assert "/b.nii" in path.read_text()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "content", [None, b"", b"subject,age\n1,30\n", b"\xff\xfe\n", b"image,patch\n"]
)
def test_a_file_or_folder_of_that_name_which_is_no_summary_stays(tmp_path, content):
    others = [tmp_path / name for name in ("people_summary.csv", "people_summary_1.csv")]
    for other in others:
        other.mkdir() if content is None else other.write_bytes(content)
    for image in ("/a.nii", "/b.nii"):
        path = write_summary([outcome(image)], tmp_path / "people.csv")
        assert path == tmp_path / "people_summary_2.csv"
        assert image in path.read_text()
    assert all(other.is_dir() or other.read_bytes() == content for other in others)


def test_no_other_folder_takes_the_summary_of_an_output_that_is_none(
    identity, image, tmp_path, monkeypatch, capsys
):
    """A file has the name of the output folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "out").write_text("mine")
    words = "predict", image(), "-o", tmp_path / "out", "--weights_path", identity
    assert main([str(word) for word in words]) == 1
    assert "the summary could not be written: " in capsys.readouterr().err
    assert not list((tmp_path / "here").iterdir()) and (tmp_path / "out").read_text() == "mine"
