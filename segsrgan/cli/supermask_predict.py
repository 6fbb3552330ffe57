# SPDX-License-Identifier: MIT
"""The command `supermask-predict`: a high-resolution mask of each patient's stacks."""

import sys

from segsrgan.cli.console import ProgressBar, import_quietly, messages, status_of
from segsrgan.cli.supermask_flags import build_parser, labels_of, patients_of, settings_of


def main(argv=None, prog="supermask-predict"):
    """Runs the command.

    Args:
        argv: arguments without the program's name, `sys.argv[1:]` when None.
        prog: the program's name in messages.

    Returns:
        The exit status: 0 all done, 1 some patients failed or are doubtful, or a stack could not
        be used, 2 nothing could be done, 130 interrupted.
    """

    def run():
        args = build_parser(prog).parse_args(argv)
        with messages(prog, args.quiet, args.verbose):
            return _run(args)

    return status_of(run, prog, "the same command goes on from here")


def _run(args):
    settings, labels, patients = settings_of(args), labels_of(args), patients_of(args)
    networks = sharpener = None
    if args.weights:
        networks = import_quietly("supermask.weights").load_networks(args.weights)
    if args.segsrgan:
        import_quietly("segsrgan.inference.predictor")
        sharpener = import_quietly("supermask.sharpening").load_sharpener(args.segsrgan)

    from supermask.alignment import check_alignment
    from supermask.job import FAILED, run_patients

    check_alignment(settings.alignment or "none", getattr(networks, "alignnet", None))
    bar = ProgressBar(args.quiet, unit="step")
    outcomes = []
    try:
        for outcome in run_patients(
            patients,
            args.output,
            settings,
            networks,
            sharpener=sharpener,
            labels=labels,
            overwrite=args.overwrite,
            weights={"supermask": args.weights, "segsrgan": args.segsrgan},
            progress=bar,
        ):
            outcomes.append(outcome)
            bar.close()
            if not args.quiet:
                print(_line(outcome), flush=True)
    finally:
        bar.close()
    bad = (one.result == FAILED or one.lost or one.doubtful for one in outcomes)
    return int(any(bad))


def _line(outcome):
    """A patient's line: what became of it, and how well its views agree."""
    parts = [f"{outcome.patient}: {outcome.result}{', doubtful' * outcome.doubtful}"]
    if outcome.detail:
        parts.append(outcome.detail)
    for item in outcome.agreements:
        parts.append(
            f"{item.first}-{item.second} Dice {item.dice:.3f} correlation {item.correlation:.2f}"
        )
    if not outcome.detail:
        parts.append(str(outcome.folder))
    return "; ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
