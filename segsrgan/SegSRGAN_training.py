# SPDX-License-Identifier: MIT
"""The command `SegSRGAN_training.py`: trains SegSRGAN on the images of a CSV file."""

import signal
import sys

from segsrgan.inference.console import Parser, ProgressBar, import_quietly, messages
from segsrgan.inference.errors import one_line
from segsrgan.training.errors import TrainingError
from segsrgan.training.settings import build_parser, settings_of
from segsrgan.training.stopping import Stop

_SCORES = ("dice", "patch_dice", "psnr", "psnr_input", "ssim", "mse")


def main(argv=None, prog="SegSRGAN_training.py"):
    """Runs the command.

    Args:
        argv: arguments without the program's name, `sys.argv[1:]` when None.
        prog: the program's name in messages.

    Returns:
        The exit status: 0 done, 1 the training failed, 2 nothing could be done, 130 interrupted
        by Ctrl-C, 143 by SIGTERM.
    """
    stop = Stop()
    try:
        settings = settings_of(build_parser(prog, Parser).parse_args(argv))
        with messages(prog), stop:
            return _train(settings, stop, prog)
    except KeyboardInterrupt:
        print(f"{prog}: interrupted; --resume goes on from the last state", file=sys.stderr)
        return 128 + (stop.signal or signal.SIGINT)
    except (ValueError, OSError, ImportError, RuntimeError, MemoryError) as error:
        print(f"{prog}: error: {_text(error)}", file=sys.stderr)
        began = stop.listening or isinstance(error, RuntimeError)
        return 1 if began else 2


def _train(settings, stop, prog):
    training = import_quietly("segsrgan.training.run")
    bar = ProgressBar(unit="cycle")
    try:
        row = training.run(settings, progress=bar, stop=stop)
    finally:
        bar.close()
    row = row or {}
    scores = ", ".join(f"{key} {row[key]:.4g}" for key in _SCORES if key in row)
    if scores:  # the chief alone has them
        print(f"epoch {row['epoch']}: {scores}; results in {settings.snapshot_folder}")
    if stop.signal is None or row.get("epoch", 0) >= settings.epoch:
        return 0
    print(f"{prog}: {stop.farewell(settings.snapshot_folder)}", file=sys.stderr)
    return 128 + stop.signal


def _text(error):
    """The error as a user reads it; a report on a whole CSV has several lines, one a problem."""
    if isinstance(error, MemoryError):
        return "out of memory; try a smaller --images_in_memory, --batch_size or --patch_size"
    known = isinstance(error, (ValueError, OSError, TrainingError)) and str(error).strip()
    return known or one_line(error)


if __name__ == "__main__":
    sys.exit(main())
