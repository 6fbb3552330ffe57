# SPDX-License-Identifier: MIT
"""The command `segsrgan synthesize`: samples of the synthetic images that a training would see."""

from dataclasses import dataclass
from pathlib import Path

from segsrgan.cli.console import Parser, command
from segsrgan.config import add_flags, check, setting, typed
from segsrgan.errors import UserError, full_text
from segsrgan.training.settings import DRAWN, SYNTHETIC, TISSUES


@dataclass(frozen=True, kw_only=True)
class SynthesisSettings:
    """What the flags of the command say."""

    number: int = setting(4, "of samples", ">= 1")
    patch: int = setting(128, "edge of a sample in voxels", ">= 8")
    seed: int = setting(0, "of all randomness", "[0, 4294967295]")
    thickness: tuple[float, float] = setting(
        DRAWN["synthetic_thickness"], "bounds of the slice distance, voxels", ">= 1"
    )
    stripped: float | None = setting(
        None, "fraction of brains alone (default: as in training)", "[0, 1]"
    )
    cropped: float = setting(
        SYNTHETIC["cropped"], "fraction whose field of view ends inside, beyond it zeros", "[0, 1]"
    )
    cortex_labels: tuple[int, ...] = setting(
        SYNTHETIC["cortex_labels"], "values of the structure to segment", ">= 1"
    )
    tissues: str = setting(SYNTHETIC["tissues"], "what looks alike", choices=TISSUES)

    def __post_init__(self):
        check(self, "--{}".format)


def build_parser():
    """The parser of the command line."""
    parser = Parser(
        prog="segsrgan synthesize",
        description="Paints images of random contrast on label maps, with low-resolution scans of "
        "them, as\ntraining with --synthetic does, and writes some to look at.",
        epilog="exit status: 0 done, 2 it could not be done, 130 interrupted.",
    )
    add = parser.add_argument
    add("maps", nargs="*", metavar="MAP", help="label maps, each used in turn")
    add("--csv", metavar="PATH", help="CSV of label maps instead, as for `train --synthetic`")
    add("--output", required=True, metavar="FOLDER", help="where the samples go; made if need be")
    add("--overwrite", action="store_true", help="replace what is there")
    add_flags(parser, SynthesisSettings)
    return parser


def _run(args):
    settings, maps, table = typed(args, SynthesisSettings), args.maps, args.csv
    if bool(maps) == bool(table):
        raise UserError("name label maps, or a CSV of them with --csv: one of the two")
    from segsrgan.training.label_maps import MapFile, load_maps, read_maps
    from segsrgan.training.sources import SHEET, Acquisition, write_samples

    cortex = settings.cortex_labels
    if table:
        found = read_maps(table, None, cortex, settings.tissues)
    else:
        found = load_maps([MapFile(Path(path), cortex, settings.tissues) for path in maps])
    how = {"patch": settings.patch, "acquisition": Acquisition(ratio=settings.thickness)}
    how["cropped"] = settings.cropped
    if settings.stripped is not None:
        how["strip"] = settings.stripped
    sources, total = [item.source(**how) for item in found], 0.0
    written = write_samples(sources, args.output, settings.number, settings.seed, args.overwrite)
    for index, (source, distance, seconds) in enumerate(written, start=1):
        name, total = found[source].file.path.name, total + seconds
        print(
            f"sample {index}: {name}, slices {distance:.2f} voxels apart, {seconds:.2f} s",
            flush=True,
        )
    print(f"{total / settings.number:.2f} s per sample; see {Path(args.output, SHEET)}")


main = command(build_parser, _run, text=full_text)
