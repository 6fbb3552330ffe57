# SPDX-License-Identifier: MIT
"""The command `segsrgan synthesize`: which files it writes, and what its flags change."""

import numpy as np
import pytest
from training.heads import write_maps

from segsrgan import read_volume
from segsrgan.cli.main import main as segsrgan
from segsrgan.cli.synthesize import main
from segsrgan.training.validation import _GAP, _HEADING


@pytest.fixture
def heads(tmp_path):
    write_maps(tmp_path)
    return [str(tmp_path / f"head{index}.nii.gz") for index in range(2)]


def samples(folder, number=1):
    """The arrays of a sample: LR, HR, label."""
    files = (folder / f"sample_{number:03d}_{part}.nii.gz" for part in ("LR", "HR", "label"))
    return [read_volume(path).array for path in files]


def draw(tmp_path, *words, name="out"):
    """The first sample of the command with a few flags."""
    words = " ".join(words).split()
    output = ["--output", str(tmp_path / name), "--overwrite"]
    assert main([*words, *output, *"--number 1 --patch 16".split()]) == 0
    return samples(tmp_path / name)


def test_samples_and_a_picture_of_them_are_written(heads, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    command = ["synthesize", *heads, "--output", str(out), "--number", "3", "--patch", "16"]
    assert segsrgan(command) == 0
    names = {f"sample_00{n}_{part}.nii.gz" for n in (1, 2, 3) for part in ("LR", "HR", "label")}
    assert {path.name for path in out.iterdir()} == names | {"samples.png"}
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert "s per sample" in lines[3] and str(out / "samples.png") in lines[3]
    for number, line in enumerate(lines[:3]):  # the maps in turn
        assert line.startswith(f"sample {number + 1}: head{number % 2}.nii.gz, slices ")
        assert line.endswith(" s")
        lr, hr, label = samples(out, number + 1)
        assert lr.shape == hr.shape == label.shape == (16, 16, 16)
        assert set(np.unique(label)) == {0, 1}
        assert np.abs(lr - hr).max() > 0.01


def test_the_picture_has_a_row_for_each_sample_with_its_plane_from_the_side(heads, tmp_path):
    from PIL import Image

    draw(tmp_path, heads[0])
    lr, hr, label = samples(tmp_path / "out")
    picture = np.asarray(Image.open(tmp_path / "out" / "samples.png"))
    size = 16 * 12
    assert picture.shape == (_HEADING + size + _GAP, 3 * (size + _GAP), 3)
    tiles = [
        picture[_HEADING : _HEADING + size : 12, _GAP + n * (size + _GAP) :][:, :size:12]
        for n in range(3)
    ]
    low, high = hr.min(), hr.max()
    for tile, array in zip(tiles, (lr, hr), strict=False):
        expected = 255 * np.clip((array[8].T[::-1] - low) / (high - low), 0, 1)
        assert np.abs(tile - expected[..., None]).max() <= 0.51
    inside = label[8].T[::-1] > 0
    assert inside.any()
    np.testing.assert_array_equal(tiles[2][~inside], tiles[1][~inside])
    assert (tiles[2][inside][:, 0] > tiles[2][inside][:, 1] + 50).all()


def test_the_seed_alone_decides(heads, tmp_path):
    first, again = (draw(tmp_path, heads[0], name=name) for name in ("a", "b"))
    other = draw(tmp_path, heads[0], "--seed 1")
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a != c).any()
    pictures = [(tmp_path / name / "samples.png").read_bytes() for name in ("a", "b")]
    assert pictures[0] == pictures[1]


def test_every_flag_changes_the_samples(heads, tmp_path, capsys):
    plain = draw(tmp_path, heads[0])
    for flags in ("--thickness 4.5 4.5", "--cortex_labels 2", "--tissues own"):
        assert (draw(tmp_path, heads[0], flags)[0] != plain[0]).any(), flags
    assert "slices 4.50 voxels apart" in capsys.readouterr().out
    stripped, whole = (draw(tmp_path, heads[0], f"--stripped {fraction}") for fraction in (1, 0))
    assert (stripped[1] != whole[1]).any()
    np.testing.assert_array_equal(stripped[2], whole[2])


def test_a_table_may_name_the_maps(heads, tmp_path):
    table = write_maps(tmp_path, header="Label_map,Cortex", rows=["head0.nii.gz,2"])
    from_table = draw(tmp_path, "--csv", str(table))
    named = draw(tmp_path, heads[0], "--cortex_labels 2", name="named")
    table = write_maps(tmp_path, rows=["head0.nii.gz"])
    by_flag = draw(tmp_path, f"--csv {table} --cortex_labels 2 --tissues own", name="flag")
    owned = draw(tmp_path, heads[0], "--cortex_labels 2 --tissues own", name="owned")
    for a, b, c, d in zip(from_table, named, by_flag, owned, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(c, d)
    assert (by_flag[1] != named[1]).any()


def test_samples_are_not_replaced_unless_that_is_asked_for(heads, tmp_path, capsys):
    draw(tmp_path, heads[0])
    sample = tmp_path / "out" / "sample_001_LR.nii.gz"
    before = sample.read_bytes()
    command = [heads[1], "--output", str(tmp_path / "out"), "--number", "2", "--patch", "16"]
    assert main(command) == 2 and sample.read_bytes() == before
    assert "sample_001_LR.nii.gz: exists already" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0 and sample.read_bytes() != before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "name label maps, or a CSV of them with --csv: one of the two"),
        ("{map} --csv {map}", "one of the two"),
        ("{map} --number 0", "--number must be a whole number from 1 up, received 0"),
        ("{map} --patch x", "--patch must be a whole number from 8 up, received 'x'"),
        ("{map} --thickness 0 2", "--thickness must be 2 numbers from 1 up"),
        ("{map} --stripped 2", "--stripped must be a number from 0 to 1, received 2"),
        ("{map} --tissues all", "argument --tissues: invalid choice: 'all'"),
        ("{map} --cortex_labels -1", "--cortex_labels must be whole numbers from 1 up"),
        ("{map} --cortex_labels 9", "has no cortex: expected a value of (9,)"),
        ("{map} --seed -1", "--seed must be a whole number from 0"),
        ("none.nii {map} gone.nii", "label maps: 2 problem(s)"),
        ("{map} --output {map}/out", "cannot write into"),
    ],
)
def test_bad_lines_are_answered_with_what_to_do(words, message, heads, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["--output", str(out), *words.format(map=heads[0]).split()]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_an_output_folder_has_to_be_named(heads, capsys):
    assert main(heads) == 2 and "--output" in capsys.readouterr().err
