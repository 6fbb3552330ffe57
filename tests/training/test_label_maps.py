# SPDX-License-Identifier: MIT
"""The CSV of label maps: what a row may say, and all problems at once."""

import logging
from functools import partial

import numpy as np
import pytest
from training.heads import head, write_map, write_maps
from training.samples import problem, refusal

from segsrgan.training.label_maps import MapFile, load_maps, read_maps
from segsrgan.training.sources import Acquisition, SyntheticSource

FULL = "Label_map,Cortex,Tissues,Scale_min,Scale_max"
FRACTIONS = FULL + ",Fraction"
refused = partial(refusal, read_maps)


def read(folder, *rows, header=FULL, **options):
    return read_maps(write_maps(folder, header=header, rows=rows), **options)


def test_a_row_says_how_its_map_is_used(tmp_path):
    rows = "head0.nii.gz,,,,,0.25", "head1.nii.gz,2;3,own,0.5,1.5,0.5"
    first, second = read(tmp_path, *rows, header=FRACTIONS, cortex=(3,), tissues="own")
    assert first.file == MapFile(tmp_path / "head0.nii.gz", (3,), "own", None, 0.25)
    assert second.file == MapFile(tmp_path / "head1.nii.gz", (2, 3), "own", (0.5, 1.5), 0.5)
    assert len(first.labels.points) == (head() == 3).sum()
    assert len(second.labels.points) == np.isin(head(33), (2, 3)).sum()
    assert second.scale(0.1) == (0.5, 1.5)
    acquisition = Acquisition(ratio=(2.0, 3.0))
    for item, scale in ((first, (0.8, 1.25)), (second, (0.5, 1.5))):
        source = item.source(patch=12, acquisition=acquisition, strip=0.25)
        assert source == SyntheticSource(item.labels, 12, scale, acquisition, 0.25)
    anyhow, upright = read(tmp_path, "head0.nii.gz,any", "head0.nii.gz,", header="Label_map,Pose")
    assert (anyhow.source().upright, upright.source().upright) == (False, True)


def test_cortex_values_are_separated_by_blanks_semicolons_or_commas(tmp_path):
    texts = "2 3", "2;3", '"2, 3"', " 2 ; 3 "
    maps = read(tmp_path, *(f"head0.nii.gz,{text},,," for text in texts))
    assert [item.file.cortex for item in maps] == [(2, 3)] * 4


def test_tissues_of_freesurfer_leave_the_skull_outside_and_own_ones_do_not(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    freesurfer, own = read(tmp_path, "head0.nii.gz,,freesurfer,,", "head0.nii.gz,,own,,")
    assert freesurfer.labels.brain.tolist() == [False, True, True, True, False]  # 0 2 3 24 515
    assert own.labels.brain.tolist() == [False, True, True, True, True]
    assert (freesurfer.outside, own.outside) == ((515,), ())
    assert caplog.messages == [
        f"{tmp_path / 'maps.csv'}: values of no tissue of the brain are taken to lie outside "
        "it: 515"
    ]
    read(tmp_path, "head0.nii.gz,2,a", header="Label_map,cortex,Notes")
    assert "ignored columns: Notes; known are Label_map" in caplog.text


def test_a_map_is_kept_without_the_background_and_shows_the_anatomy_at_its_size(tmp_path):
    path = write_map(tmp_path / "a.nii", np.pad(head(), (0, 9)), (2.0, 2.0, 2.0))
    (item,) = load_maps([MapFile(path)])
    assert item.labels.labels.shape == (28, 28, 28)  # radius 14
    assert len(item.labels.points) == (head() == 3).sum()
    assert item.scale() == (0.8, 1.25)
    assert item.scale(0.5) == item.source(0.5, patch=8).scale == (0.2, 0.3125)


def test_the_patches_of_a_map_are_counted_as_those_of_an_image(tmp_path):
    path = write_map(tmp_path / "a.nii", head())
    scales = (1.0, 1.0), (0.5, 2.0), (0.5, 0.5)
    same, wide, fine = load_maps([MapFile(path, scale=scale) for scale in scales])
    assert same.tiles(8, 8) == wide.tiles(8, 8) == 3**3  # 28 voxels: 0, 8, 16
    assert same.tiles(8, 10) == 3**3  # 0, 10, 20
    assert same.tiles(64, 8) == 1
    assert fine.tiles(8, 8) == 7**3  # 56 voxels


BAD_MAPS = {
    "half": (head() * 0.5, "whole numbers from 0 to 65535; found 257.5"),
    "negative": (-head(), "found -515"),
    "large": (head() * 1000, "found 515000"),
    "nan": (np.where(head() == 3, np.nan, 0), "NaN or infinite"),
    "bare": (head() * (head() != 3), "has no cortex: expected a value of (3, 42), found [0, 2, 24"),
    "empty": (head() * 0, "has no cortex"),
    "image": (
        np.arange(32**3).reshape(32, 32, 32) % 999,
        "up to 250 values, received 999; is it an image",
    ),
    "slice": (head()[:, :, :1], "its shape is (32, 32, 1)"),
}


BAD_ROWS = {
    ",3,,,,1": "line 2: Label_map is empty",
    "head0.nii.gz,x,,,,1": "line 3: Cortex must be whole numbers from 1 up by comma",
    "head0.nii.gz,0,,,,1": "line 4: Cortex must be whole numbers from 1 up",
    "head0.nii.gz,,FreeSurfer,,,1": "line 5: Tissues must be one of freesurfer, fetal, own",
    "head0.nii.gz,,,1,,1": "line 6: Scale_max must be a number above 0",
    "head0.nii.gz,,,0,1,1": "line 7: Scale_min must be a number above 0",
    "head0.nii.gz,,,1,x,1": "line 8: Scale_max must be a number above 0",
    "head0.nii.gz,,,2,1,1": "line 9: Scale_min and Scale_max: the first number is the lower bound",
    "head0.nii.gz,,,1,inf,1": "line 10: Scale_max must be a number above 0",
    "head0.nii.gz,,,,,0": "line 11: Fraction must be a number above 0",
    "head0.nii.gz,,,,,": "line 12: Fraction must be a number above 0",
    "head1.nii.gz,515,,,,1": "head1.nii.gz: some of the cortex (515,) are not tissues",
    "absent.nii,,,,,1": "absent.nii: no such file",
    "text.nii,,,,,1": "text.nii: ",
    "flat.nii,,,,,1": "flat.nii: its voxels are 1x1x3 mm",
}


def test_all_bad_maps_and_rows_are_listed_at_once(tmp_path):
    for name, (array, _) in BAD_MAPS.items():
        write_map(tmp_path / f"{name}.nii", array)
    write_map(tmp_path / "flat.nii", head(), (1.0, 1.0, 3.0))
    (tmp_path / "text.nii").write_text("no image")
    rows = [*BAD_ROWS, "head0.nii.gz,,,,,1", *(f"{name}.nii,,,,,1" for name in BAD_MAPS)]
    message = refused(write_maps(tmp_path, header=FRACTIONS, rows=rows))
    count = len(BAD_ROWS) + len(BAD_MAPS)
    assert f"{tmp_path / 'maps.csv'}: {count} problem(s)" in message
    for words in BAD_ROWS.values():
        assert problem(message, words), words
    for name, (_, words) in BAD_MAPS.items():
        assert problem(message, f"{name}.nii: ", words), message
    assert problem(message, "flat.nii", "resample") and not problem(message, "head0")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("Label,Cortex\na,3\n", "no column Label_map; expected it"),
        ("Label_map\n", "no row names a label map"),
        ("", "is empty; expected a CSV file with the column Label_map"),
    ],
)
def test_a_table_without_what_it_needs_is_refused(content, words, tmp_path):
    (tmp_path / "maps.csv").write_text(content)
    assert words in refused(tmp_path / "maps.csv")
