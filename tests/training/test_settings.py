# SPDX-License-Identifier: MIT
"""The settings of a training: what they refuse, and the file that repeats them."""

from dataclasses import replace
from pathlib import Path

import pytest

from segsrgan.config import from_toml, rules_of, to_toml
from segsrgan.training.settings import TrainingSettings

REQUIRED = {
    "csv": "data.csv",
    "low_res": (0.5, 0.5, 3.0),
    "low_res_upper": (0.5, 0.5, 3.0),
    "snapshot_folder": "run",
    "dice_file": "dice.csv",
    "mse_file": "mse.csv",
}
# Those that a rule does not suggest; none has its default but those that others rule out.
UNUSUAL = {
    "csv": r"C:\new\table ünï 表.csv",
    "base_path": "a \"quoted\" 'path'\twith\n[brackets] = # \x7f\x01 and \\",
    "snapshot_folder": "😀",
    "low_res": (0.1, 1 / 3, 1e-5),
    "low_res_upper": (0.1, 1 / 3, 1e17),
    "percent_val_max": 1e-300,
    "rotation": 180.0,
    "elastic": 0.1 + 0.2,
    "patch_size": 128,
    "fit_mask": False,
    "zero_head": False,
    "levels_gen": None,
    "slice_voxels": 0,
    "synthetic_thickness": (1.0, 1 / 0.3),
    "image_patches": "drawn",
    "reconstruction_loss": "balanced",
    "lambda_entropy": 0.0,
    "epoch": 10**6,
    "seed": 2**32 - 1,
    "workers": "node1:12345, [::1]:2",
    "worker_index": 1,
}


def unusual(name, rule):
    """A value of a setting that is not its default."""
    if name in UNUSUAL:
        return UNUSUAL[name]
    if rule.choices:
        return rule.choices[-1]
    if rule.kind is bool:
        return not rule.default
    value = {int: 3, float: 1 / 3, str: f"/a/{name}"}[rule.kind]
    return value if rule.count == 1 else (value,) * (rule.count or 1)


def settings(**values):
    return TrainingSettings(**{**REQUIRED, **values})


def test_settings_have_the_values_of_the_paper_and_the_released_code_by_default():
    s = settings()
    assert (s.lambgp, s.batch_size, s.number_of_discriminator_iteration) == (100, 32, 5)
    assert (s.lrgen, s.lrdis, s.lambrec, s.lambadv) == (1e-4, 1e-4, 1, 1e-3)
    assert (s.epoch, s.patch_size, s.stride) == (200, 64, 20)
    assert (s.contrast_max, s.percent_val_max) == (0.5, 0.03)


BALANCED = {"lambda_image": 0, "lambda_entropy": 0, "lambda_dice": 0}
SYNTHETIC = (
    *("synthetic", "synthetic_ratio", "stripped", "cropped", "synthetic_thickness"),
    *("cortex_labels", "tissues"),
)
DRAWN = ("image_patches", "image_power", "inverted")
FOLDED = ("kernel_gen", "u_net_generator", "growth_gen", "head_gen")  # of no effect with levels


@pytest.mark.parametrize("masks", [False, True])
def test_a_file_repeats_every_setting_exactly(masks, tmp_path):
    rules = rules_of(TrainingSettings)
    values = {name: unusual(name, rule) for name, rule in rules.items()}
    alike = {name for name, rule in rules.items() if values[name] == rule.default}
    assert alike == {"fit_mask", "zero_head", "levels_gen"}
    if masks:
        left = (*SYNTHETIC, *DRAWN, *FOLDED, "weights")
        values = {k: v for k, v in values.items() if k not in left}
        values |= {"fit_mask": True, "zero_head": True, "levels_gen": (8, 8)}
    before = TrainingSettings(**values)
    path = tmp_path / "settings.toml"
    path.write_text(to_toml(before, "train"), encoding="utf-8", newline="")
    read = from_toml(path, TrainingSettings)
    # None has no word in TOML.
    assert read.keys() == {name for name in rules if getattr(before, name) is not None}
    assert TrainingSettings(**read) == before
    assert all(type(read[name]) is type(getattr(before, name)) for name in read)


def test_what_is_not_said_about_label_maps_is_filled_in_where_there_are_some():
    ours = settings(synthetic="maps.csv", tissues="own")
    assert (ours.synthetic_ratio, ours.synthetic_thickness) == (0.5, (1.5, 7.0))
    assert (ours.cortex_labels, ours.tissues, ours.stripped) == ((3, 42), "own", 0.6)
    assert all(getattr(settings(), name) is None for name in SYNTHETIC)


def test_a_file_may_be_partial_and_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "some.toml"
    path.write_bytes(
        b"\xef\xbb\xbflambgp = 10 # an integer will do\r\nlow_res = [1, 1, 3.0]\r\n"
        b"cortex_labels = '3,42' # as version 3.0.0 wrote it"
    )
    values = from_toml(path, TrainingSettings)
    assert values == {"lambgp": 10.0, "low_res": (1.0, 1.0, 3.0), "cortex_labels": (3, 42)}
    assert isinstance(values["lambgp"], float)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epochs = 2", "epochs is not a setting; did you mean epoch?"),
        ("[data]\ncsv = 'a'", "data is not a setting; settings stand in no section"),
        ('csv = "a\\u0000"', "csv must be a text that is not empty, received 'a\\x00'"),
        ("xyzzy = 2", "expected some of precision, seed"),
        ("epoch = 2.0", "epoch must be a whole number from 1 up, received 2.0"),
        ("epoch = true", "epoch must be a whole number"),
        ("lrgen = '1e-4'", "lrgen must be a number above 0, received '1e-4'"),
        ("lambgp = inf", "lambgp must be a number from 0 up, received inf"),
        (f"lambgp = 1{'0' * 400}", "lambgp must be a number"),
        ("flip = 1", "flip must be True or False"),
        ("flip = 'True'", "flip must be True or False, received 'True'"),
        ("low_res = 3", "low_res must be 3 numbers above 0, received 3"),
        ("low_res = [1, 1]", "low_res must be 3 numbers above 0, received [1, 1]"),
        ("low_res = [1, 1, 'a']", "low_res must be 3 numbers above 0"),
        ("csv = ''", "csv must be a text that is not empty"),
        ("csv = 2020-01-01", "csv must be a text"),
        ("precision = 'float64'", "one of float32, mixed_bfloat16, mixed_float16, received"),
        ("csv = 'a'\ncsv = 'b'", "is not a TOML file"),
    ],
)
def test_a_bad_file_is_answered_with_file_key_and_what_was_expected(text, words, tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        from_toml(path, TrainingSettings)
    assert str(caught.value).startswith(str(path))
    assert words in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "damaged.toml").write_bytes(b"csv = '\xe4")
    for name, words in (("none.toml", "cannot"), ("", "cannot"), ("damaged.toml", "is not a TOML")):
        with pytest.raises(ValueError, match=f"{name}: {words}"):
            from_toml(tmp_path / name, TrainingSettings)


def test_values_get_the_type_of_the_setting():
    ours = settings(low_res=[1, 1, 3], low_res_upper=(1, 1, 3), csv=Path("a"), lambgp=10)
    assert (ours.low_res, ours.csv) == ((1.0, 1.0, 3.0), "a")
    assert type(ours.low_res[0]) is type(ours.lambgp) is float


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"patch_size": 30}, "divisible by 4 and at least 8, received 30; try 28"),
        ({"patch_size": 48}, "power of two from 16 up.*received 48; take 32, 64 or 128.*adv 0"),
        ({"patch_size": 8}, "power of two from 16 up"),
        ({"patch_size": 4, "lambadv": 0}, "--patch_size must be a whole number from 8 up"),
        ({"init_epoch": 5, "epoch": 4}, "--init_epoch 5 lies beyond the last epoch, --epoch 4"),
        ({"low_res": (1, 1, 4)}, "first --new_low_res is the lower bound"),
        ({"contrast_max": 1}, "--contrast_max must be a number from 0 up and below 1, received 1"),
        ({"rotation": 181}, "--rotation must be a number from 0 to 180"),
        ({"seed": 2**32}, "--seed must be a whole number from 0 to 4294967295"),
        ({"lambrec": 0, "lambadv": 0}, "nothing to learn"),
        ({"epoch": None}, "--epoch must be a whole number"),
        ({"dice_file": "mse.csv"}, "--dice_file and --mse_file are both mse.csv"),
        ({"dice_file": "./data.csv"}, "--csv and --dice_file"),
        ({"mse_file": "run/history.csv"}, "--mse_file and the history"),
        ({"keep_training_data": True}, "--folder_training_data; name it too"),
        ({"folder_training_data": "./run"}, "cannot be --snapshot_folder"),
        ({"synthetic_ratio": 0.3}, "--synthetic_ratio: .*the CSV of label maps with --synthetic"),
        ({"tissues": "own", "cortex_labels": "5"}, "--cortex_labels, --tissues: "),
        ({"synthetic": "m", "fit_mask": True}, "--fit_mask learns.*received --synthetic m"),
        ({"synthetic": "m", "synthetic_ratio": 0}, "must be a number above 0 and up to 1, rec"),
        ({"synthetic": "m", "synthetic_ratio": 1.1}, "must be a number above 0 and up to 1, rec"),
        ({"synthetic": "m", "synthetic_thickness": (4, 2)}, "lower bound, received 4 and 2; swap"),
        ({"synthetic": "m", "synthetic_thickness": (0.5, 2)}, "must be 2 numbers from 1 up"),
        ({"synthetic": "m", "cortex_labels": "3,-4"}, "--cortex_labels must be whole numbers"),
        ({"synthetic": "m", "tissues": "all"}, "--tissues must be one of freesurfer, fetal, own"),
        ({"image_power": (0.5, 2)}, "--image_power: .*add --image_patches drawn"),
        ({"synthetic_thickness": (2, 4)}, "--synthetic_thickness: .*or --image_patches drawn"),
        ({"image_patches": "drawn", "fit_mask": True}, "received --image_patches drawn as well"),
        ({"label_values": "5;x"}, "--label_values must be whole numbers from 1 up"),
        ({"synthetic": "dice.csv"}, "--synthetic and --dice_file are both dice.csv"),
        ({"scaled_residual": True, "is_residual": False}, "needs a residual network"),
        ({"zero_head": True, "weights": "w"}, "for a fresh generator, received --weights w"),
        ({"lambda_dice": 1.0}, "--lambda_dice: .*add --reconstruction_loss balanced"),
        ({"reconstruction_loss": "balanced", **BALANCED}, "nothing to reconstruct"),
        ({"ema": 1.0}, "--ema must be a number from 0 up and below 1, received 1"),
        ({"clip_gradient": 0}, "--clip_gradient must be a number above 0"),
        ({"head_gen": 4}, "--head_gen must be odd, received 4"),
        ({"levels_gen": (8,)}, "--levels_gen must be 2 to 6 numbers, received 1; try 48,80,96"),
        ({"levels_gen": "8,0"}, "--levels_gen must be whole numbers from 1 up"),
        ({"levels_gen": (8, 8), "kernel_gen": 8}, "--kernel_gen: of no effect with --levels_gen"),
        ({"levels_gen": (8,) * 6}, "divisible by 64 and at least 128, received 64; try 128"),
        ({"slice_voxels": 3}, "--slice_voxels must be 0, 2 or 4, received 3"),
        ({"slice_voxels": 4, "low_res_upper": (9.0,) * 3}, "needs images of one slice distance"),
        ({"workers": "a:1"}, "go together"),
        ({"worker_index": 0}, "go together"),
        ({"workers": "a:1,b:2", "worker_index": 2}, "--worker_index must be from 0 to 1"),
        ({"workers": "a:1,a:1", "worker_index": 0}, "names a worker twice"),
        ({"workers": "a", "worker_index": 0}, "must be host:port.*received 'a'"),
        ({"workers": ":1", "worker_index": 0}, "must be host:port"),
        ({"workers": "a:65536", "worker_index": 0}, "must be host:port"),
        ({"workers": "a:²", "worker_index": 0}, "must be host:port"),
    ],
)
def test_what_cannot_be_is_refused_with_the_flag_and_a_remedy(values, words):
    with pytest.raises(ValueError, match=words):
        settings(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"patch_size": 48, "lambadv": 0},
        {"patch_size": 16},
        {"patch_size": 128},
        {"scaled_residual": True},
        {"levels_gen": "8,8,8", "optimizer": "muon"},
        {"resume": True, "weights": "w", "init_epoch": 3},  # how a resumed training once began
        {"lambrec": 0},
        {"workers": "a:1", "worker_index": 0},
        {"synthetic": "m", "synthetic_ratio": 1, "synthetic_thickness": (3, 3)},
    ],
)
def test_what_can_be_is_taken(values):
    assert replace(settings(**values)) == settings(**values)
