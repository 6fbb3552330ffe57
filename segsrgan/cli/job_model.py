# SPDX-License-Identifier: MIT
"""The command `job_model.py`: every image of a CSV file, at every patch size and step."""

import logging
import os
import sys
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path

from segsrgan.cli.console import Parser, ProgressBar, command, import_quietly
from segsrgan.config import add_flags, check, setting, typed
from segsrgan.errors import UserError, one_line
from segsrgan.inference import jobs
from segsrgan.inference.engines import choose
from segsrgan.inference.results import NamedResults, choose_folders, weights_name
from segsrgan.inference.settings import (
    PredictorSettings,
    checked_resolution,
    local_workers,
    parse_pairs,
)
from segsrgan.inference.summary import (
    FAILED,
    FINISHED,
    PLANNED,
    format_table,
    read_summary,
    write_summary,
)
from segsrgan.inference.verdict import FAIL
from segsrgan.tables import find_table, read_paths, resolved

logger = logging.getLogger("segsrgan.job_model")

_EPILOG = """
The image may show a brain alone or a head, in which the brain is found first (--strip).

results:
  <image's folder>/Result_with_<name>/patch_64_step_32/
      SR_patch_64_step_32.nii.gz           high-resolution image
      Cortex_patch_64_step_32.nii.gz       probability of the cortex, 0 to 1
      Cortex_mask_patch_64_step_32.nii.gz  probability at or above --threshold, 0 or 1
      Mask_patch_64_step_32.nii.gz         classes, only for weights with a mask head
  For the whole image: patch_None/SR_whole_image.nii.gz and so on. A DICOM folder's results lie
  beside it, in the folder that holds it. Where several images of the CSV lie in one folder, the
  image's name comes between: Result_with_<name>/<image>/patch_64_step_32/. results.json says how
  the results were made. Finished results are skipped, unfinished ones are computed again.
  --output FOLDER writes nothing beside the images: the results of sub-01/anat/t2.nii.gz lie in
  FOLDER/sub-01/anat/Result_with_<name>/. The path starts in the BIDS data set or the CSV's folder.
  With --grid there are SR_native_…, Cortex_native_… and so on, too, or SR_like_….

verdict: pass, look or fail, with the reasons in results.json and the summary; what is measured
  and from which value on it is bad: docs/use/report.md.

exit status: 0 all done, 1 an image failed, or all did (with --strict, or the verdict on one is
fail), 2 nothing was begun, as an argument or the CSV is wrong, 130 interrupted.
"""


@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """What is computed and where it goes; how it is computed is in `PredictorSettings`."""

    output: str | None = setting(
        None, "folder for the results (default: beside the images)", flag="-o", metavar="FOLDER"
    )
    grid: str = setting(
        "hr",
        "results also on other voxels than their own, hr: native, the scan's, or those of an image "
        "of the same patient and space",
        metavar="hr|native|like=FILE",
    )
    weights_path: str | None = setting(
        None,
        "weight file, or a name that `segsrgan weights list` shows (default: the bundled)",
        flag="-wp",
        metavar="WEIGHTS",
    )
    series: str | None = setting(
        None,
        "DICOM series to take of several: UID, number or description; UID,UID merges two",
        metavar="SERIES",
    )
    dicom: bool = setting(
        False,
        "write the image and the masks as DICOM, too, a derived series and segmentations in the "
        "study of the scan, which has to be DICOM (needs SegSRGAN[dicom])",
    )
    report: bool = setting(
        False,
        "write a page of the results for a browser, too, and one of the job beside its summary, if "
        "there is one (needs SegSRGAN[report])",
    )
    overwrite: bool = setting(False, "compute finished results again")
    dry_run: bool = setting(
        False,
        "write nothing, but list what would be computed: voxels, patches, files, memory, and the "
        "network's seconds by a patch that is timed here",
        flag="--dry-run",
    )
    strict: bool = setting(False, "exit status 1 where the verdict on a result is fail")
    quiet: bool = setting(False, "errors only")
    verbose: bool = setting(False, "more messages, tracebacks of failed images included")
    debut_path: str | None = setting(
        None,
        "where relative paths in the CSV start (default: the CSV's folder)",
        flag="-dp",
        metavar="FOLDER",
        group="files",
    )
    result_folder_name: str | None = setting(
        None,
        "results go into Result_with_NAME (default: the name of the weights)",
        flag="-rf",
        metavar="NAME",
        group="files",
    )
    by_batch: bool | None = setting(
        None,
        "False: one patch at a time, for the least memory; numbers are the same",
        flag="-bb",
        group="computing",
    )
    dask: str | None = setting(
        None,
        "spread the images over a Dask cluster: its scheduler's address or file, or N processes "
        "here (needs SegSRGAN[dask])",
        metavar="ADDRESS|local:N",
        group="computing",
    )

    def __post_init__(self):
        check(self, "--{}".format)
        if self.dask is not None:
            local_workers(self.dask)
        kind, _, image = self.grid.partition("=")
        if self.grid not in ("hr", "native") and not (kind == "like" and image):
            raise UserError(
                f"--grid must be hr, native, or like= and an image file, received {self.grid}"
            )


@dataclass(frozen=True)
class Recipe:
    """How a predictor is made, in this process or on a worker of a cluster."""

    weights: str  # registry name or absolute path
    sha256: str  # of the weights' file; another file of that name makes another predictor
    settings: PredictorSettings

    def __call__(self):
        """The predictor; what TensorFlow says at its start is not shown."""
        if choose(self.settings.engine, self.settings.precision) == "tensorflow":
            import_quietly("segsrgan.inference.engines.tensorflow")
        from segsrgan.inference.predictor import Predictor

        return Predictor(self.weights, **asdict(self.settings))


def build_parser():
    """The parser of the command line."""
    parser = Parser(
        prog="job_model.py",
        description="Super-resolves and segments every image of a CSV file.",
        epilog=_EPILOG,
    )

    parser.add_argument(
        "-p",
        "--path",
        required=True,
        metavar="CSV",
        help="CSV file; its first column names NIfTI, Analyze, MGH/MGZ, NRRD, MetaImage or DICOM "
        "files, or DICOM folders",
    )
    add_job_flags(parser)
    return parser


def add_job_flags(parser, without=()):
    """Adds to a parser what may be said of a job, whatever names its images.

    `without` are names of settings that have no flag, as they make no sense for these images.
    """
    add = parser.add_argument
    add(
        "-pa",
        "--patch",
        nargs="+",
        default=["128"],
        metavar="SIZES",
        help="patch sizes in voxels by comma, divisible by 4 (by 16 for folded U-Nets); None: the "
        'whole image. "64,128" (default: 128)',
    )
    add(
        "-s",
        "--step",
        nargs="+",
        metavar="STEPS",
        help='voxels between patches: one group per patch by comma, values by blank, "32 64,64" '
        "(default: half the patch)",
    )
    add(
        "-n",
        "--new_low_res",
        "--resolution",
        nargs="+",
        default=["0.5,0.5,0.5"],
        metavar="MM",
        help="voxel size of the results in mm; auto: the scan's smallest (default: 0.5,0.5,0.5)",
    )
    add_flags(parser, JobSettings, PredictorSettings, without=without)


def _run(args):
    csv_path = find_table(args.path, "path of one image on each line", args.debut_path)
    start = resolved(args.debut_path or csv_path.parent)
    images = read_paths(csv_path, start)
    return run(args, lambda output, name: choose_folders(images, name, output, start), csv_path)


def run(args, choose, csv_path=None, keep=False):
    """Computes images as the flags of `add_job_flags` say; the exit status.

    Args:
        args: the namespace with those flags.
        choose: function of the output folder or None, and of the name of the results, that returns
            the `ImageResults` of every image.
        csv_path: gives the summary its name and, without an output folder, its place; None: no
            summary.
        keep: whether the rows of other images in an older summary stay.
    """
    settings = typed(args, JobSettings)
    job, recipe = _plan(args, settings, choose)
    unit, run, outcomes = "patch", jobs.run_here, []
    if settings.dry_run:
        run, csv_path = jobs.plan_here, None
    elif settings.dask is not None:
        from segsrgan.inference.dask_cluster import run_on_cluster

        unit, run = "image", partial(run_on_cluster, address=settings.dask)
    try:
        with ProgressBar(settings.quiet, unit) as bar:
            for outcome in jobs.run_job(job, recipe, bar, run):
                outcomes.append(outcome)
    finally:
        _report(job, outcomes, csv_path, keep, settings.quiet)
    if settings.dry_run:
        _report_plan(outcomes)
    bad = [outcome.result == FAILED for outcome in outcomes]
    if settings.strict:
        bad += [outcome.verdict == FAIL for outcome in outcomes]
    return int(any(bad))


def _plan(args, settings, choose):
    """The job, and the recipe of its predictor."""
    pairs = parse_pairs(" ".join(args.patch), args.step and " ".join(args.step))
    resolution = checked_resolution(" ".join(args.new_low_res))
    chosen = _predictor_settings(args, settings.by_batch)
    kind, _, like = settings.grid.partition("=")
    if settings.report:
        from segsrgan.inference.markup import find_viewer

        find_viewer()

    from segsrgan.networks.registry import default_weights, resolve
    from segsrgan.volumes import read_volume

    weights = settings.weights_path or default_weights()
    name, path = weights_name(weights), resolve(weights)
    digest = sha256(path.read_bytes()).hexdigest()
    record = {
        "weights": name,
        "weights_sha256": digest,
        "resolution": resolution if resolution == "auto" else list(resolution),
        "grid": settings.grid,
        "dicom": settings.dicom,
        "series": settings.series,
        **chosen.record(),
    }
    output = settings.output and resolved(settings.output)
    results = choose(output, settings.result_folder_name or name)
    if len(pairs) > 1 and any(isinstance(item, NamedResults) for item in results):
        raise UserError(
            "the results of several patches or steps have no place in one folder; give one patch "
            "and one step"
        )
    job = jobs.Job(
        tuple(results),
        pairs,
        new_resolution=resolution,
        overwrite=settings.overwrite,
        series=settings.series,
        settings=record,
        command=args.command,
        output=output,
        grid=read_volume(resolved(like)).grid if like else None,
        grid_end="" if kind == "hr" else f"_{kind}",
        dicom=settings.dicom,
        report=settings.report and not settings.dry_run,
    )
    # Other computers may have the package, and the weights in it, elsewhere.
    where = os.path.abspath(path) if path == Path(weights) else str(weights)
    return job, Recipe(where, digest, chosen)


def _predictor_settings(args, by_batch):
    chosen = typed(args, PredictorSettings)
    if by_batch is False:
        if chosen.batch_size not in (None, 1):
            raise UserError(f"--by_batch False means --batch_size 1, received {chosen.batch_size}")
        chosen = replace(chosen, batch_size=1)
    if args.interpolation_type is not None and chosen.interp != "sitk":
        logger.warning("--interpolation_type has no effect without --interp sitk")
    return chosen


def _report(job, outcomes, csv_path, keep, quiet):
    """Writes the table, in the order of the CSV file, and prints it."""
    if not outcomes:
        return
    places = {results.image: place for place, results in enumerate(job.results)}
    outcomes = sorted(outcomes, key=lambda outcome: places[outcome.image])
    try:
        if csv_path is not None:
            path = write_summary(outcomes, csv_path, job.output, keep)
            logger.info("summary: %s", path)
            if job.report:
                from segsrgan.inference.pages import write_job_page

                shown = read_summary(path) if keep else outcomes
                logger.info("page: %s", write_job_page(shown, path.with_suffix(".html")))
    except (OSError, UserError) as error:
        logger.warning("the summary could not be written: %s", one_line(error))
    folders = list(dict.fromkeys(o.folder for o in outcomes if o.result == FINISHED))
    if folders and not job.output:
        more = f" and {len(folders) - 1} more folders" if folders[1:] else ""
        logger.info("results: %s%s", folders[0], more)
    if not quiet:
        try:
            print(format_table(outcomes), flush=True)
        except BrokenPipeError:  # `| head`: nobody reads on, and all is done
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report_plan(outcomes):
    seconds = [outcome.seconds for outcome in outcomes if outcome.result == PLANNED]
    if not seconds:
        logger.info("nothing was written, and nothing would be computed")
        return
    total = timedelta(seconds=round(sum(seconds)))
    text = "nothing was written; %d of %d to compute, about %s for the network alone, by one patch"
    text += " timed here; reading, interpolating, what is measured and writing come on top"
    logger.info(text, len(seconds), len(outcomes), total)


main = command(build_parser, _run, "the same command goes on from here")
