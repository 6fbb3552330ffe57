# SPDX-License-Identifier: MIT
"""Collections as they lie on the disk after unpacking."""

import numpy as np
import pytest
import SimpleITK as sitk

from segsrgan.errors import UserError
from supermask.simulation import find_pairs, read_channel


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(pairs, folder):
    return [tuple(str(path.relative_to(folder)) for path in pair) for pair in pairs]


def test_a_task_of_the_decathlon(tmp_path):
    touch(tmp_path, "dataset.json", "imagesTr/la_003.nii.gz", "imagesTr/la_010.nii.gz")
    touch(tmp_path, "labelsTr/la_010.nii.gz", "labelsTr/la_003.nii.gz", "labelsTr/._la_003.nii.gz")
    touch(tmp_path, "imagesTs/la_001.nii.gz")
    assert names(find_pairs(tmp_path), tmp_path) == [
        ("imagesTr/la_003.nii.gz", "labelsTr/la_003.nii.gz"),
        ("imagesTr/la_010.nii.gz", "labelsTr/la_010.nii.gz"),
    ]


def test_brats_of_2020_and_of_2023(tmp_path):
    for name in ("flair", "t1", "t1ce", "t2", "seg"):
        touch(tmp_path, f"BraTS20_Training_001/BraTS20_Training_001_{name}.nii")
    for name in ("t2f", "t1n", "t1c", "t2w", "seg"):
        touch(tmp_path, f"BraTS-GLI-00000-000/BraTS-GLI-00000-000-{name}.nii.gz")
    found = {
        modality: names(find_pairs(tmp_path, modality), tmp_path) for modality in ("flair", "t1")
    }
    images = {modality: [image for image, _ in pairs] for modality, pairs in found.items()}
    assert images == {
        "flair": [
            "BraTS-GLI-00000-000/BraTS-GLI-00000-000-t2f.nii.gz",
            "BraTS20_Training_001/BraTS20_Training_001_flair.nii",
        ],
        "t1": [
            "BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1n.nii.gz",
            "BraTS20_Training_001/BraTS20_Training_001_t1.nii",
        ],
    }
    masks = [mask for _, mask in found["t1"]]
    assert [mask.rpartition("seg")[1] for mask in masks] == ["seg", "seg"]


def test_brats_of_2015(tmp_path):
    folder = "HGG/brats_2013_pat0001_1"
    for name, number in (("MR_Flair", 684), ("MR_T1", 685), ("MR_T1c", 686), ("MR_T2", 687)):
        touch(
            tmp_path, f"{folder}/VSD.Brain.XX.O.{name}.{number}/VSD.Brain.XX.O.{name}.{number}.mha"
        )
    mask = f"{folder}/VSD.Brain_3more.XX.O.OT.6560/VSD.Brain_3more.XX.O.OT.6560.mha"
    touch(tmp_path, mask)
    for modality, name in (("flair", "MR_Flair.684"), ("t1", "MR_T1.685"), ("t1ce", "MR_T1c.686")):
        stem = f"VSD.Brain.XX.O.{name}"
        expected = [(f"{folder}/{stem}/{stem}.mha", mask)]
        assert names(find_pairs(tmp_path, modality), tmp_path) == expected


def test_brats_of_2015_without_the_inner_folders(tmp_path):
    for patient, number in (("pat1", 1), ("pat2", 5)):
        stems = f"MR_Flair.{number}", f"OT.{number + 1}"
        touch(tmp_path / patient, *(f"VSD.Brain.XX.O.{stem}.mha" for stem in stems))
    assert [image.name for image, _ in find_pairs(tmp_path)] == [
        "VSD.Brain.XX.O.MR_Flair.1.mha",
        "VSD.Brain.XX.O.MR_Flair.5.mha",
    ]
    (tmp_path / "pat2" / "VSD.Brain.XX.O.MR_Flair.5.mha").unlink()
    touch(tmp_path / "pat2", "VSD.Brain.XX.O.MR_T1.7.mha")
    with pytest.raises(UserError, match="1 of 2 masks have no image"):
        find_pairs(tmp_path)


def test_what_is_no_collection_or_an_incomplete_one_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds neither labelsTr"):
        find_pairs(tmp_path)
    with pytest.raises(UserError, match="nowhere: no such folder"):
        find_pairs(tmp_path / "nowhere")
    with pytest.raises(UserError, match="received 'pet'"):
        find_pairs(tmp_path, "pet")
    touch(tmp_path, "a/a_seg.nii.gz", "b/b_seg.nii.gz", "b/b_flair.nii.gz")
    with pytest.raises(UserError, match="1 of 2 masks have no image, such as .*a_seg.nii.gz"):
        find_pairs(tmp_path)


def test_one_channel_of_several_is_read(tmp_path):
    channels = np.random.default_rng(0).random((2, 4, 5, 6), np.float32)  # c, z, y, x
    frames = [sitk.GetImageFromArray(channel) for channel in channels]
    for frame in frames:
        frame.SetSpacing((1, 1, 3))
    sitk.WriteImage(sitk.JoinSeries(frames), str(tmp_path / "four.nii.gz"))
    found = read_channel(tmp_path / "four.nii.gz", 1)
    np.testing.assert_array_equal(found.array, channels[1].T)
    assert found.spacing == (1, 1, 3)
    with pytest.raises(UserError, match="channel must be from 0 to 1, received 2"):
        read_channel(tmp_path / "four.nii.gz", 2)
    sitk.WriteImage(frames[0], str(tmp_path / "three.nii.gz"))
    np.testing.assert_array_equal(read_channel(tmp_path / "three.nii.gz").array, channels[0].T)
