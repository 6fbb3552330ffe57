# SPDX-License-Identifier: MIT
"""The flags of `SegSRGAN_training.py`: spellings, defaults, and a file that stands in for them."""

from dataclasses import MISSING, fields

import pytest

from segsrgan.cli.train import build_parser, settings_of
from segsrgan.config import to_toml
from segsrgan.training.settings import TrainingSettings

REQUIRED = "-csv data.csv -n 0.5 0.5 3 -sf run -dice dice.csv -mse mse.csv"


def parse(line):
    return settings_of(line.split())


def test_every_setting_has_a_flag_of_its_name_whose_help_tells_the_default():
    actions = {action.dest: action for action in build_parser()._actions}
    settings = {item.name: item.default for item in fields(TrainingSettings)}
    assert actions.keys() ^ settings.keys() == {
        *("low_res", "low_res_upper"),
        *("help", "version", "config", "new_low_res"),
    }
    assert all(f"--{name}" in action.option_strings for name, action in actions.items())
    for name, default in settings.items():
        assert default in (MISSING, None, "") or f"(default: {default})" in actions[name].help


@pytest.mark.parametrize(
    ("value", "spellings"),
    [
        ("a", "-csv=csv -begining_path=base_path -sf=snapshot_folder -w=weights -dice=dice_file"),
        ("b", "-mse=mse_file -folder_training_data=folder_training_data"),
        (7, "-e=epoch -b=batch_size -s=snapshot -i=init_epoch"),
        (7, "--number_of_disciminator_iteration=number_of_discriminator_iteration"),
        (32, "-ps=patch_size"),
        (0.25, "-contrast_max=contrast_max -percent_val_max=percent_val_max"),
        (True, "-u_net=u_net_generator -is_conditional=is_conditional -fm=fit_mask"),
        (False, "-is_residual=is_residual -multi_gpu=multi_gpu"),
        ("sitk", "-int=interp"),
        ("Welch", "-it=interpolation_type"),
        ("overlapping_with_mask", "-icm=image_cropping_method"),
        ("dice", "-rl=reconstruction_loss"),
    ],
)
def test_the_spellings_of_the_original_are_understood(value, spellings):
    for flag, name in (word.split("=") for word in spellings.split()):
        for spelling in (flag, f"--{name}"):
            assert getattr(parse(f"{REQUIRED} {spelling} {value}"), name) == value


@pytest.mark.parametrize(("yes", "no"), [("True", "False"), ("yes", "no"), ("ON", "0")])
def test_booleans_are_read_in_several_words(yes, no):
    assert parse(f"{REQUIRED} -u_net {yes} --resume").u_net_generator is True
    assert parse(f"{REQUIRED} --resume").resume is True
    assert parse(f"{REQUIRED} --flip {no}").flip is False
    assert parse(REQUIRED).u_net_generator is None


def test_the_resolution_is_given_once_or_twice():
    assert parse(REQUIRED).low_res == parse(REQUIRED).low_res_upper == (0.5, 0.5, 3.0)
    twice = parse(f"{REQUIRED} -n 0.5 0.5 4")
    assert (twice.low_res, twice.low_res_upper) == ((0.5, 0.5, 3.0), (0.5, 0.5, 4.0))


@pytest.fixture
def config(tmp_path):
    """The file of a training with unusual settings."""
    path = tmp_path / "settings.toml"
    line = f"{REQUIRED} -n 0.5 0.5 4 -w start --init_epoch 3 --lambgp 10 --flip False"
    path.write_text(to_toml(parse(line), "train"))
    return path


def test_a_file_stands_in_for_all_flags(config):
    ours = parse(f"--config {config}")
    assert (ours.csv, ours.lambgp, ours.flip, ours.epoch) == ("data.csv", 10.0, False, 200)
    assert ours.low_res_upper == (0.5, 0.5, 4.0)


def test_what_is_typed_goes_before_the_file_even_where_it_is_the_default(config):
    ours = parse(f"--lambgp 100 --flip --config {config} -n 1 1 2")
    assert (ours.lambgp, ours.flip) == (100.0, True)
    assert ours.low_res == ours.low_res_upper == (1.0, 1.0, 2.0)


def test_a_file_with_one_resolution_fixes_it(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text("csv = 'a.csv'\nlow_res = [1, 1, 3]\nsnapshot_folder = 'r'\ndice_file = 'd'")
    assert parse(f"--config {path} -mse m").low_res_upper == (1.0, 1.0, 3.0)


def test_a_training_is_resumed_by_its_file_or_the_same_command(config):
    for line in (f"--config {config} --resume", f"{REQUIRED} -w start -i 3 --resume"):
        ours = parse(line)
        assert (ours.resume, ours.weights, ours.init_epoch) == (True, "start", 3)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("-csv a", "--new_low_res, --snapshot_folder, --dice_file, --mse_file: required"),
        (f"{REQUIRED} -n 1 1 4 -n 1 1 5", "once or twice, received 3 times"),
        (f"{REQUIRED} -n 1 1", "expected 3 arguments"),
        (f"{REQUIRED} -n 1 1 x", "the second --new_low_res must be 3 numbers above 0"),
        (f"{REQUIRED} --lrgen fast", "--lrgen must be a number above 0, received 'fast'"),
        (f"{REQUIRED} -e 2.5", "--epoch must be a whole number from 1 up, received '2.5'"),
        (f"{REQUIRED} -u_net perhaps", "--u_net_generator must be True or False"),
        (f"{REQUIRED} --interp cubic", "invalid choice: 'cubic'"),
        (f"{REQUIRED} --config none.toml", "none.toml: cannot be read"),
        (f"{REQUIRED} --unknown 1", "unrecognized arguments"),
    ],
)
def test_bad_lines_are_answered_with_what_to_do(line, words):
    with pytest.raises(ValueError, match=words):
        parse(line)
