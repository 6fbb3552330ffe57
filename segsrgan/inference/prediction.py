# SPDX-License-Identifier: MIT
"""From a network's output to the results of one image, with what was measured on the way."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segsrgan.errors import UserError
from segsrgan.files import check_writable, stamp
from segsrgan.inference.consistency import DARK, SURE, make_consistent
from segsrgan.inference.measures import POSSIBLE, mask_measures
from segsrgan.inference.results import GRID_ENDS, NamedResults, result_files
from segsrgan.inference.stripping import Brain
from segsrgan.inference.verdict import judge
from segsrgan.networks.outputs import output_channels
from segsrgan.tables import stem
from segsrgan.volumes import nifti
from segsrgan.volumes.intensities import Normalisation
from segsrgan.volumes.labels import islands
from segsrgan.volumes.resampling import average_onto, resample_to
from segsrgan.volumes.volume import Grid, Volume

_ISLAND = 0.02  # of the largest part's volume
_LEAST_NOISE = 1e-3  # of the range of intensities; what noise is at least taken for


class Origin(NamedTuple):
    """The scan that results are made from."""

    grid: Grid | None = None
    path: Path | None = None  # None: a `Volume`
    images: tuple = ()  # of DICOM, see `segsrgan.volumes.reading.Source`
    settings: dict = {}  # of the results, JSON values
    end: str = ""  # of names, see `segsrgan.inference.results.GRID_ENDS`


@dataclass(frozen=True, eq=False)
class Prediction:
    """The results of one image, all on the same grid.

    Each of the `volumes` is an attribute, too; None where the network has no such output:

    - `sr`: high-resolution image, float32, in the input's intensities.
    - `cortex`: probability of the cortex, float32 in [0, 1].
    - `cortex_mask`: uint8, 1 where the probability reaches the threshold.
    - `mask`: uint8 class numbers of the mask head.
    - `brain_mask`: uint8, 1 in the brain, where that alone was segmented (`strip`).
    - `invented`, `sr_disagreement`, `cortex_disagreement`: float32, with the setting `maps`: what
      the network's image contradicted in the scan, over the noise; standard deviation of image and
      probability over overlapping patches and flips.

    Attributes:
        volumes: name -> `Volume`, of the heads of `segsrgan.networks.outputs`.
        measures: what was measured on the way, name -> number. `noise` in the input's intensities.
            Where the result is finer than the scan, `residual`, the root mean square of what the
            network's image contradicts in the scan, in those intensities, `residual_fraction` of
            the range, `profile_width` over the slice thickness, `correction`, the fraction of the
            contradiction that was taken back, see `segsrgan.inference.consistency`, and `invented`,
            the fraction of the scan's foreground contradicted by more than 3 times the noise.
            `sr_disagreement` in the input's intensities and `cortex_disagreement`, means in the
            foreground and where the probability is not below 0.05. `missing_slices`, also empty
            ones, and (0 or 1) `alternating` contrast of the slices, a `repaired` header, `clipped`
            voxels. `thickness` in mm is the slices' that was taken, `thickness_mismatch` how much
            thicker they look than is stated, or than their distance where nothing is, relative.
            Where a brain was segmented alone, `brain_volume` in ml and `brain_unsure`, the fraction
            of it with a probability below 0.8. The others: see `segsrgan.inference.measures`.
        origin: the `Origin` of the results.
    """

    volumes: dict
    measures: dict = field(default_factory=dict)
    origin: Origin = Origin()

    @property
    def verdict(self):
        """The `segsrgan.inference.verdict.Verdict`: `level` and `reasons`."""
        return judge(self.measures)

    def on_grid(self, grid=None):
        """The results on the voxels of another grid, a `Prediction`.

        Image, probabilities and maps are averaged where its voxels are larger and interpolated
        where they are smaller; a mask holds what lies in it to at least a half. 0 beyond the field
        of view.

        Args:
            grid: a `Grid`, turned in whatever way; None: the scan's own.

        Raises:
            ValueError: if no voxel of the grid lies in the field of view, or it is no `Grid`.

        Examples:
            >>> native = predictor.predict("t2.nii.gz").on_grid()
            >>> native.cortex_mask.array.shape == read_volume("t2.nii.gz").array.shape
            True
        """
        end = GRID_ENDS[grid is not None]
        grid = self.origin.grid if grid is None else grid
        if not isinstance(grid, Grid):
            raise UserError(f"grid must be a Grid, such as volume.grid, received {grid!r}")
        moved = {name: _moved(name, volume, grid) for name, volume in self.volumes.items()}
        return replace(self, volumes=moved, origin=self.origin._replace(end=end))

    def save(self, folder, name=None):
        """Writes `NAME_sr.nii.gz`, `NAME_cortex.nii.gz` and so on, and the record `NAME.json`.

        On another grid, see `on_grid`, they are `NAME_sr_native.nii.gz` or `NAME_sr_like.nii.gz`.
        What an earlier call wrote there for the same scan is replaced.

        Args:
            folder: made where it is missing.
            name: that the files begin with; None: that of the image's file, `result` of a `Volume`.

        Returns:
            The paths of the files, a dict: name of the result -> `Path`.

        Raises:
            UserError: if files of these names are not results of this scan, or the folder or name
                is none; `VolumeError` if they cannot be written.

        Examples:
            >>> predictor.predict("scans/t2.nii.gz").save("out")["sr"]
            PosixPath('out/t2_sr.nii.gz')
        """
        path, folder, pair = self.origin.path, Path(folder), (None, None)
        name = name or (stem(path) if path else "result")
        if Path(name).name != name:
            raise UserError(f"name must be that of a file, without a path, received {name!r}")
        check_writable(folder)
        results = NamedResults(path or Path(name), folder, name=name, end=self.origin.end)
        level, reasons = self.verdict
        entry = {"inputs": {path.name: stamp(path)}} if path else {}
        entry |= {"settings": self.origin.settings, "measures": self.measures}
        entry |= {"verdict": level, "reasons": list(reasons)}
        results.claim()
        with results.replacing(pair, entry) as path_of:
            self.write(path_of)
        files = result_files()
        return {n: folder / results.file_name(files[n], pair) for n in self.volumes}

    def write(self, path_of, end=""):
        """Writes each volume to `path_of(prefix + end)`, for the prefixes of `result_files`."""
        prefixes = result_files()
        for name, volume in self.volumes.items():
            nifti.write_volume(volume, path_of(prefixes[name] + end))

    def __getattr__(self, name):
        if name in result_files():
            return self.volumes.get(name)
        raise AttributeError(f"a Prediction has no result or attribute {name!r}")


@dataclass(frozen=True, eq=False)
class Prepared:
    """An interpolated image, ready for any patch and step."""

    volume: Volume  # normalised, on the grid of the network, float32
    grid: Grid  # of the result; along the thick axis it may differ from the network's
    normalisation: Normalisation
    resolution: float  # of the input's slices in mm, for conditional generators
    order: tuple  # axes and flips that the generator is shown, see `canonical_order`
    scan: Volume | None  # normalised, as acquired; None where the result need not agree with it
    thickness: float | None  # of its slices in mm; None: their distance
    measures: dict  # of the scan, see `scan_measures`, and what reading it took
    brain: Brain | None = None  # that alone is segmented, `volume` shows nothing else; None: all
    whole: Volume | None = None  # as `volume`, with what is around the brain; the image's source
    origin: Origin = Origin()

    def on_result(self, channels, spline_order):
        """The channels (x, y, z, n) of an output on the grid of the result, a list of arrays."""
        parts = np.moveaxis(channels, -1, 0)
        if self.volume.grid.is_close(self.grid):
            return list(parts)
        volumes = map(self.volume.with_array, parts)
        return [resample_to(v, self.grid, spline_order=spline_order).array for v in volumes]


def make_prediction(output, deviation, prepared, spec, settings, pair):
    """The `Prediction` of a `Prepared` image.

    Args:
        output: of the network with this `spec`, float32 (x, y, z, channels), the image's axes.
        deviation: its standard deviation over patches and flips, of that shape, or None.
        prepared: what the network was shown.
        spec: a `GeneratorSpec`.
        settings: the `PredictorSettings`.
        pair: patch and step, a dict for the record.
    """
    volumes, measures, grid = {}, dict(prepared.measures), prepared.grid
    around = None if prepared.brain is None else ~prepared.brain.on(grid)
    if around is not None:
        volumes["brain_mask"] = Volume.from_grid((~around).astype(np.uint8), grid)
    for head, channels in output_channels(spec).items():
        parts = prepared.on_result(output[..., channels], head.spline_order)
        if around is not None and head.activation != "image":
            parts = [np.where(around, 0, part) for part in parts]
        if head.activation == "image":
            array = _consistent(parts[0], prepared, settings.maps, volumes, measures)
        elif head.activation == "sigmoid":
            array = np.clip(parts[0], 0, 1)
            reached = array >= settings.threshold
            small, count = islands(reached, _ISLAND)
            head_volume = measures["head_volume"]
            found = mask_measures(array, reached, small, count, grid.spacing, head_volume)
            measures |= {f"{head.name}_{key}": value for key, value in found.items()}
            if settings.islands == "drop":
                reached &= ~small
            volumes[f"{head.name}_mask"] = Volume.from_grid(reached.astype(np.uint8), grid)
        else:
            array = np.argmax(parts, axis=0).astype(np.uint8)
        volumes[head.name] = Volume.from_grid(array, grid)
        if deviation is not None and head.activation != "softmax":
            (spread,) = prepared.on_result(deviation[..., channels], 1)
            _disagreement(head, spread, prepared, settings.maps, volumes, measures)
    used = {"interp_used": settings.interp_used(spec.interp)}
    origin = prepared.origin._replace(settings=prepared.origin.settings | used | pair)
    return Prediction(volumes, measures, origin)


def _moved(name, volume, grid):
    """A result of this name on another grid."""
    if name == "mask":  # of classes
        return average_onto(volume, grid, labels=True)
    moved = average_onto(volume, grid)
    if volume.array.dtype == np.uint8:
        moved = moved.with_array((moved.array >= 0.5).astype(np.uint8))
    return moved


def _consistent(array, prepared, maps, volumes, measures):
    """The image in the input's intensities; adds what was measured, and the map if wanted."""
    normalisation = prepared.normalisation
    if prepared.scan is None:
        return normalisation.invert(array)
    image = Volume.from_grid(array, prepared.grid)
    noise = measures["noise_fraction"]
    found = make_consistent(image, prepared.scan, prepared.thickness, noise=noise)
    measures["noise"] = found.noise * normalisation.scale
    if found.contradiction is not None:
        measures["residual"] = found.residual * normalisation.scale
        measures["residual_fraction"] = found.residual
        measures["profile_width"] = found.width
        measures["correction"] = found.correction
        noise = np.float32(max(found.noise, _LEAST_NOISE))
        doubt = found.contradiction.with_array(np.abs(found.contradiction.array) / noise)
        head = doubt.array[found.scan.array > DARK]
        measures["invented"] = float(np.mean(head > SURE)) if head.size else 0.0
        if maps:
            volumes["invented"] = resample_to(doubt, prepared.grid, spline_order=1)
    return normalisation.invert(found.volume.array)


def _disagreement(head, spread, prepared, maps, volumes, measures):
    """Adds the mean of a deviation, float32 (x, y, z), where it says something, and the map."""
    result = volumes[head.name].array
    if head.activation == "image":
        spread = spread * np.float32(prepared.normalisation.scale)
        inside = prepared.normalisation.apply(result) > DARK
    else:
        inside = result >= POSSIBLE
    name = f"{head.name}_disagreement"
    measures[name] = float(np.mean(spread[inside])) if inside.any() else 0.0
    if maps:
        volumes[name] = Volume.from_grid(spread, prepared.grid)
