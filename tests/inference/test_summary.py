# SPDX-License-Identifier: MIT
"""The summary replaces a summary, and nothing else."""

from pathlib import Path

import pytest

from segsrgan.inference.jobs import Outcome, write_summary


def outcome(image):
    return Outcome(Path(image), 64, 32, "finished", Path("/results"))


def test_a_summary_replaces_an_older_one(tmp_path):
    for image in ("/a.nii", "/b.nii"):
        path = write_summary([outcome(image)], tmp_path / "people.csv")
    assert path == tmp_path / "people_summary.csv"
    assert "/b.nii" in path.read_text()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"subject,age\n1,30\n", b"\xff\xfe\n", b"image,patch\n"])
def test_a_file_of_that_name_which_is_no_summary_stays(tmp_path, content):
    for name in ("people_summary.csv", "people_summary_1.csv"):
        (tmp_path / name).write_bytes(content)
    for image in ("/a.nii", "/b.nii"):
        path = write_summary([outcome(image)], tmp_path / "people.csv")
        assert path == tmp_path / "people_summary_2.csv"
        assert image in path.read_text()
    assert (tmp_path / "people_summary.csv").read_bytes() == content


def test_a_folder_of_that_name_is_no_obstacle(tmp_path):
    (tmp_path / "people_summary.csv").mkdir()
    path = write_summary([outcome("/a.nii")], tmp_path / "people.csv")
    assert path == tmp_path / "people_summary_1.csv"
