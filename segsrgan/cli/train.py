# SPDX-License-Identifier: MIT
"""The commands `SegSRGAN_training.py` and `supermask-train`, and how a training is stopped."""

import argparse
import os
import signal
import sys
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from segsrgan.cli.console import (
    Parser,
    ProgressBar,
    accept_all_characters,
    coloured,
    import_quietly,
    messages,
)
from segsrgan.config import add_flags, from_toml, rules_of
from segsrgan.errors import UserError, full_text
from segsrgan.training.settings import RunSettings, TrainingSettings, flag_of
from supermask.training.settings import TrainingSettings as SuperMaskSettings

_ENDING = """\
  settings.toml        these flags, for --config: the same training again, or with --resume
                       the rest of it
  state_*.h5           all that --resume needs; the newest two

SIGTERM or Ctrl-C ends the training after the current cycle with its state saved, a second Ctrl-C
at once.

exit status: 0 done, 1 the training failed, 2 nothing could be done, 130 interrupted by Ctrl-C,
143 by SIGTERM."""


class Command(NamedTuple):
    """A command of training, and what tells it from the other."""

    program: str
    description: str
    epilog: str
    settings: type[RunSettings]
    required: tuple  # of tuples of settings, one of each of which must be given
    last: str  # the attribute of the settings that is the last epoch
    module: str  # its `run(settings, progress, stop)` trains
    scores: tuple  # those of the last row that are shown
    smaller: str  # what to try when memory runs out


SEGSRGAN = Command(
    program="SegSRGAN_training.py",
    description="Trains SegSRGAN on the images of a CSV file.",
    epilog="""
data:
  The CSV has the columns HR_image, Label_image and Base (Train or Test), Mask_image for --fit_mask
  and for --image_cropping_method overlapping_with_mask, and perhaps Pose (upright or any). In every
  epoch each image is degraded anew to the low resolution, interpolated back and cut into patches;
  without --folder_training_data nothing of it is written to disk. With --synthetic a fraction of
  the patches is cut from images of random contrast that are painted on label maps, a new one for
  each patch.

training:
  A cycle is --number_of_discriminator_iteration updates of the discriminator and one of the
  generator; an epoch is as many cycles as the patches of all images make batches. --lambadv 0
  trains the generator alone, on its reconstruction loss.

results, in the snapshot folder:
  SegSRGAN_epoch_<n>   weights, for job_model.py --weights_path
  SegSRGAN_best        those with the smallest loss on the test images
  epoch_<n>.png        a test patch: low and high resolution, result, label, prediction
  history.csv          a row of losses and scores for each epoch; the Dice and the mean squared
                       error also in --dice_file and --mse_file
  tensorboard          the same, for: tensorboard --logdir FOLDER
                       (pip install SegSRGAN[report])
"""
    + _ENDING,
    settings=TrainingSettings,
    required=(("csv",), ("low_res",), ("snapshot_folder",), ("dice_file",), ("mse_file",)),
    last="epoch",
    module="segsrgan.training.run",
    scores=("dice", "patch_dice", "psnr", "psnr_input", "ssim", "mse"),
    smaller="a smaller --images_in_memory, --batch_size or --patch_size",
)
SUPERMASK = Command(
    program="supermask-train",
    description="Trains the segmentor and the AlignNet of SuperMask.",
    epilog="""
data, either or both:
  --csv              a CSV of patients (columns view_1, view_2, view_3 or axial, coronal, sagittal;
                     mask_1, ... or axial_mask, ...; base: Train or Test), or a folder of them.
                     Stacks of supermask-simulate bring their true transforms along
  --synthetic_cases  a CSV with the columns mask, perhaps image and base (Train or Test), or a
                     folder of masks. Thick stacks of moved patients are made of them in memory;
                     where there is no image, one is painted

training:
  Stage 1 trains the segmentor by its Dice and AlignNet by the cross-correlation of what it aligns.
  Stage 2 trains both in turn, each with a loss that the other one gives it. In an epoch each view
  has its turn once, unless --steps says otherwise.

results, in the snapshot folder:
  SuperMask_epoch_<n>  weights of both, for supermask-predict --weights
  SuperMask_best       those with the smallest loss on the test patients
  epoch_<n>.png        a test pair: moving, fixed, aligned, mask, prediction
  history.csv          a row of losses and scores for each epoch
  tensorboard          the same, for: tensorboard --logdir FOLDER (pip install SegSRGAN[report])
"""
    + _ENDING
    + " docs/use/supermask_training.md tells more.",
    settings=SuperMaskSettings,
    required=(("csv", "synthetic_cases"), ("snapshot_folder",)),
    last="epochs",
    module="supermask.training.run",
    scores=("dice", "overlap_before", "overlap", "similarity", "angle_error", "shift_error"),
    smaller="a smaller --batch_size or --grid_size, or fewer --repeats",
)


def build_parser(command=SEGSRGAN):
    """The parser of the command line; the namespace holds only what was typed."""
    parser = Parser(
        prog=command.program,
        description=command.description,
        epilog=command.epilog,
        argument_default=argparse.SUPPRESS,
    )
    is_segsrgan = command.settings is TrainingSettings
    bounds = ", and low_res and low_res_upper for --new_low_res" * is_segsrgan
    parser.add_argument(
        "--config",
        metavar="FILE.toml",
        help="settings of an earlier training, or your own: any of the flags below by its long "
        f"name{bounds}; what is typed goes first",
    )
    if is_segsrgan:
        parser.add_argument(
            "-n",
            "--new_low_res",
            nargs=3,
            type=rules_of(TrainingSettings)["low_res"].parse,
            action="append",
            metavar="MM",
            help="low resolution in mm, e.g. 0.5 0.5 3; given twice: bounds between which it is "
            "drawn for each image and epoch",
        )
    add_flags(parser, command.settings)
    return parser


def settings_of(argv, command=SEGSRGAN):
    """The settings that a command line asks for.

    Raises:
        UserError: if one is missing, or a value is not possible.
    """
    typed = vars(build_parser(command).parse_args(argv))
    config, bounds = typed.pop("config", None), typed.pop("new_low_res", ())
    values = {**from_toml(config, command.settings), **typed} if config else typed
    if len(bounds) > 2:
        raise UserError(f"--new_low_res may be given once or twice, received {len(bounds)} times")
    if bounds:
        values |= {"low_res": bounds[0], "low_res_upper": bounds[-1]}
    elif "low_res" in values:
        values.setdefault("low_res_upper", values["low_res"])
    required = (names for names in command.required if not values.keys() & names)
    missing = ", ".join(" or ".join(map(flag_of, names)) for names in required)
    if missing:
        raise UserError(
            f"{missing}: required, on the command line or in the file of --config (see --help)"
        )
    return command.settings(**values)


def main(argv=None, prog=None, command=SEGSRGAN):
    """Runs a command; `prog` is the name by which it was called if not by its own.

    Returns:
        The exit status: 0 done, 1 the training failed, 2 nothing could be done, 130 interrupted
        by Ctrl-C, 143 by SIGTERM.
    """
    program = prog or command.program
    stop, command = _Stop(), command._replace(program=program)
    accept_all_characters()
    try:
        settings = settings_of(argv, command)
        with messages(program), stop:
            return _train(settings, command, stop)
    except KeyboardInterrupt:
        sys.stderr.write(f"{program}: interrupted; --resume goes on from the last state\n")
        return 128 + (stop.signal or signal.SIGINT)
    except (ValueError, OSError, ImportError, RuntimeError, MemoryError) as error:
        is_memory = isinstance(error, MemoryError)
        text = f"out of memory; try {command.smaller}" if is_memory else full_text(error)
        sys.stderr.write(f"{program}: {coloured('error')}: {text}\n")
        return 1 if stop.listening or isinstance(error, RuntimeError) else 2


def _train(settings, command, stop):
    # The threads that draw patches are many already; those of BLAS would fight with them and with
    # the network's. Read when NumPy is first imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    training = import_quietly(command.module)
    with ProgressBar(unit="cycle") as bar:
        row = training.run(settings, progress=bar, stop=stop) or {}
    folder = settings.snapshot_folder
    if row and not settings.worker_index:  # the chief alone has scores
        shown = ", ".join(f"{key} {row[key]:.4g}" for key in command.scores if key in row)
        print(f"epoch {row['epoch']}: {shown or 'nothing to score it on'}; results in {folder}")
    if stop.signal is None or row.get("epoch", 0) >= getattr(settings, command.last):
        return 0
    sys.stderr.write(
        f"{command.program}: stopped by {stop.signal.name}, the state is saved; go on with the "
        f"same command and --resume, or --config {os.path.join(folder, 'settings.toml')} "
        "--resume\n"
    )
    return 128 + stop.signal


class _Stop:
    """Whether SIGTERM or Ctrl-C asked a training to stop; the training asks by calling it.

    Before the first call a signal would go unnoticed: then, and at a second Ctrl-C,
    `KeyboardInterrupt` is raised.
    """

    def __init__(self):
        self.signal = None
        self.listening = False
        self._handlers = {}

    def __call__(self):
        """Whether to stop."""
        self.listening = True
        return self.signal is not None

    def __enter__(self):
        with suppress(ValueError):  # only the main thread may; elsewhere nothing is caught
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._receive)

    def __exit__(self, *_):
        for number, handler in self._handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def _receive(self, number, _):
        again = self.signal is not None and number == signal.SIGINT
        self.signal = self.signal or signal.Signals(number)
        if again or not self.listening:
            raise KeyboardInterrupt
        with suppress(OSError):  # not through the log, which may be in the middle of a line
            os.write(2, b"\nstopping after this cycle; Ctrl-C again stops at once\n")


supermask_main = partial(main, command=SUPERMASK)
