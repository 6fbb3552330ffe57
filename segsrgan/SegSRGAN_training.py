# SPDX-License-Identifier: MIT
"""The command `SegSRGAN_training.py`: trains a generator on the images of a CSV file."""

import logging
import sys

from segsrgan.inference.console import Parser, ProgressBar, import_quietly, messages
from segsrgan.inference.errors import one_line
from segsrgan.training.settings import build_parser

logger = logging.getLogger("segsrgan.SegSRGAN_training")


def main(argv=None, prog="SegSRGAN_training.py"):
    """Runs the command.

    Args:
        argv: arguments without the program's name, `sys.argv[1:]` when None.
        prog: the program's name in messages.

    Returns:
        The exit status: 0 done, 1 the training failed, 2 nothing could be done, 130 interrupted.
    """
    try:
        args = build_parser(prog, Parser).parse_args(argv)
        with messages(prog):
            return _run(args)
    except KeyboardInterrupt:
        print(f"{prog}: interrupted; the last snapshot is whole", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError) as error:
        # A report on a whole CSV has several lines, one a problem.
        print(f"{prog}: error: {str(error).strip() or one_line(error)}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"{prog}: error: {one_line(error)}", file=sys.stderr)
        return 1


def _run(args):
    training = import_quietly("segsrgan.training.run")
    bar = ProgressBar(unit="step")
    try:
        row = training.run(args_to_settings(args), bar)
    finally:
        bar.close()
    scores = ", ".join(f"{key} {row[key]:.4g}" for key in ("dice", "psnr", "psnr_input", "mse"))
    print(f"epoch {row['epoch']}: {scores}; weights and history in {args.snapshot_folder}")
    return 0


def args_to_settings(args):
    """The `training.run.Settings` of parsed arguments.

    Raises:
        ValueError: if they contradict each other.
    """
    from segsrgan.training.run import Settings

    if len(args.new_low_res) > 2:
        raise ValueError(
            f"--new_low_res may be given once or twice, received {len(args.new_low_res)} times"
        )
    lower, upper = args.new_low_res[0], args.new_low_res[-1]
    values = {key: value for key, value in vars(args).items() if key != "new_low_res"}
    return Settings(low_res=tuple(lower), low_res_upper=tuple(upper), **values)


if __name__ == "__main__":
    sys.exit(main())
