# SPDX-License-Identifier: MIT
"""The command `job_model.py`: every image of a CSV file, at every patch size and step."""

import logging
import os
import sys
from hashlib import sha256
from pathlib import Path

from segsrgan.cli.console import ProgressBar, import_quietly, messages, status_of
from segsrgan.cli.job_model_flags import build_parser
from segsrgan.errors import UserError, one_line
from segsrgan.inference import checks, options
from segsrgan.inference.job import Job, run_job
from segsrgan.inference.outcome import FAILED
from segsrgan.inference.places import weights_name
from segsrgan.inference.summary import format_table, write_summary
from segsrgan.inference.worker import Recipe
from segsrgan.tables import find_table, read_paths

logger = logging.getLogger("segsrgan.job_model")


def main(argv=None, prog="job_model.py"):
    """Runs the command.

    Args:
        argv: arguments without the program's name, `sys.argv[1:]` when None.
        prog: the program's name in messages.

    Returns:
        The exit status: 0 all done, 1 some images failed, 2 nothing could be done,
        130 interrupted.
    """

    def run():
        args = build_parser(prog).parse_args(argv)
        with messages(prog, args.quiet, args.verbose):
            return _run(args)

    return status_of(run, prog, "the same command goes on from here")


def _run(args):
    csv_path = find_table(args.path, "path of one image on each line", args.debut_path)
    job, recipe = _plan(args, csv_path)
    bar = ProgressBar(args.quiet, unit="patch" if args.dask is None else "image")
    outcomes = []
    try:
        for outcome in run_job(job, recipe, bar, args.dask):
            outcomes.append(outcome)
    finally:
        bar.close()
        _report(job, outcomes, csv_path, args.quiet)
    return int(any(outcome.result == FAILED for outcome in outcomes))


def _plan(args, csv_path):
    """The job, and the recipe of its predictor."""
    pairs = options.parse_pairs(" ".join(args.patch), args.step and " ".join(args.step))
    resolution = options.parse_resolution(" ".join(args.new_low_res))
    alone = args.by_batch is False
    if alone and args.batch_size not in (None, 1):
        raise UserError(f"--by_batch False means --batch_size 1, received {args.batch_size}")
    if args.interpolation_type and args.interp != "sitk":
        logger.warning("--interpolation_type has no effect without --interp sitk")
    shown = {
        "geometry": args.geometry,
        "interp": args.interp,
        "interpolation_type": args.interpolation_type or "Spline",
        "blend": args.blend,
        "threshold": args.threshold,
    }
    hidden = {
        "batch_size": 1 if alone else args.batch_size,
        "threads": args.threads,
        "engine": args.engine,
        "precision": args.precision,
        "max_memory": args.max_memory,
    }
    checks.check_predictor(**shown, **hidden)
    if args.dask is not None:
        checks.local_workers(args.dask)
    images = read_paths(csv_path, args.debut_path)

    # Loads TensorFlow: only after a slip of the keyboard has had its answer.
    networks = import_quietly("segsrgan.networks")
    weights = args.weights_path or networks.default_weights()
    name, path = weights_name(weights), networks.resolve(weights)
    digest = sha256(path.read_bytes()).hexdigest()
    job = Job(
        tuple(images),
        pairs,
        args.result_folder_name or name,
        resolution,
        overwrite=args.overwrite,
        series=args.series,
        settings={
            "weights": name,
            "weights_sha256": digest,
            "resolution": list(resolution),
            "series": args.series,
            **shown,
        },
    )
    # Other computers may have the package, and the weights in it, elsewhere.
    where = os.path.abspath(path) if path == Path(weights) else str(weights)
    return job, Recipe(where, digest, tuple({**shown, **hidden}.items()))


def _report(job, outcomes, csv_path, quiet):
    """Prints the table, in the order of the CSV file, and writes it."""
    if not outcomes:
        return
    outcomes = sorted(outcomes, key=lambda outcome: job.images.index(outcome.image))
    if not quiet:
        print(format_table(outcomes))
    try:
        path = write_summary(outcomes, csv_path)
        logger.info("summary: %s", path)
    except OSError as error:
        logger.warning("the summary could not be written: %s", one_line(error))


if __name__ == "__main__":
    sys.exit(main())
