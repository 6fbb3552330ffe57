# SPDX-License-Identifier: MIT
"""One image: normalise, interpolate, run the generator over patches, bring the results back."""

import math
import os
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, combinations
from pathlib import Path

import numpy as np

from segsrgan.config import checked
from segsrgan.errors import UserError
from segsrgan.files import check_writable
from segsrgan.inference.consistency import DARK, SURE, make_consistent
from segsrgan.inference.engines import make_engine
from segsrgan.inference.measures import POSSIBLE, mask_measures, scan_measures
from segsrgan.inference.results import result_files
from segsrgan.inference.settings import (
    MIN_PATCH,
    PredictorSettings,
    checked_patch,
    checked_resolution,
    checked_step,
)
from segsrgan.inference.sweep import default_batch_size, predict_tiled
from segsrgan.inference.verdict import judge
from segsrgan.memory import GIB, MemoryBudget, required_memory
from segsrgan.networks.architecture import GeneratorSpec
from segsrgan.networks.outputs import output_channels
from segsrgan.networks.weights import read_generator
from segsrgan.volumes.intensities import Normalisation, alternating_slices, lost_slices
from segsrgan.volumes.labels import islands
from segsrgan.volumes.nifti import write_volume
from segsrgan.volumes.reading import Source, read_with_source
from segsrgan.volumes.resampling import legacy_resample, resample, resample_to
from segsrgan.volumes.thickness import estimated_width, stated_thickness, taken_thickness
from segsrgan.volumes.tiling import plan
from segsrgan.volumes.volume import Grid, Volume

# Voxels along one axis; more, infinity included, are as impossible and only spoil the message.
_LARGEST_SIZE = 10**18
_ISLAND = 0.02  # of the largest part's volume
_LEAST_NOISE = 1e-3  # of the range of intensities; what noise is at least taken for


@dataclass(frozen=True, eq=False)
class Prediction:
    """The results of one image, all on the same grid.

    Each of the `volumes` is an attribute, too; None where the network has no such output:

    - `sr`: high-resolution image, float32, in the input's intensities.
    - `cortex`: probability of the cortex, float32 in [0, 1].
    - `cortex_mask`: uint8, 1 where the probability reaches the threshold.
    - `mask`: uint8 class numbers of the mask head.
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
            The others are those of `segsrgan.inference.measures`.
    """

    volumes: dict
    measures: dict = field(default_factory=dict)

    @property
    def verdict(self):
        """The `segsrgan.inference.verdict.Verdict`: `level` and `reasons`."""
        return judge(self.measures)

    def __getattr__(self, name):
        if name in result_files():
            return self.volumes.get(name)
        raise AttributeError(f"a Prediction has no {name}")


@dataclass(frozen=True, eq=False)
class Prepared:
    """An interpolated image, ready for any patch and step."""

    volume: Volume  # normalised, on the grid of the network, float32
    grid: Grid  # of the result; along the thick axis it may differ from the network's
    normalisation: Normalisation
    resolution: float  # of the input's slices in mm, for conditional generators
    axis: int  # the input's low-resolution axis, shown to the generator as the last one
    scan: Volume | None  # normalised, as acquired; None where the result need not agree with it
    thickness: float | None  # of its slices in mm; None: their distance
    measures: dict  # of the scan, see `scan_measures`, and what reading it took

    def on_result(self, channels, spline_order):
        """The channels (x, y, z, n) of an output on the grid of the result, a list of arrays."""
        parts = np.moveaxis(channels, -1, 0)
        if self.volume.grid.is_close(self.grid):
            return list(parts)
        volumes = map(self.volume.with_array, parts)
        return [resample_to(v, self.grid, spline_order=spline_order).array for v in volumes]


class Predictor:
    """Super-resolution and segmentation with one generator, which is loaded once.

    Args:
        weights_path: registry name or file, the registry's default when None.
        model: a built generator to use instead of weights, a `keras.Model`.
        **settings: fields of `segsrgan.inference.settings.PredictorSettings`:

            - `engine`: `"tensorflow"`, `"openvino"` or `"auto"`, see
              `segsrgan.inference.engines.choose`.
            - `precision`: `"float32"`, or `"float16"` or `"bfloat16"` where the engine and the
              processor compute with it.
            - `batch_size`: patches computed at once; when None as many as are fast and fit in
              memory.
            - `threads`: CPU threads, all when None; of tensorflow only the first predictor of a
              process can choose.
            - `geometry`: `"exact"`, or `"legacy"` for the numbers of the released SegSRGAN 2.2.4.
            - `interp`: `"scipy"` (spline of `spline_order`), `"sitk"` (`interpolation_type`) or
              `"profile"`, see `segsrgan.volumes.resample_to`; what the weights were trained with
              when None.
            - `interpolation_type`: an interpolator of SimpleITK, used with `interp="sitk"`.
            - `thickness`: of the image's slices in mm, at most twice their distance; what DICOM or
              a BIDS sidecar says when None, else what the voxels clearly show, else the distance.
              `gap` instead: what lies between them. Either means `interp="profile"`.
            - `spline_order`: 0 to 5, used with `interp="scipy"`.
            - `blend`: mean of overlapping patches, `"uniform"` (the paper's) or `"gaussian"`.
            - `consistency`: `"on"`: the image agrees with the scan's slices, see
              `segsrgan.inference.consistency`; `"off"`, and with the legacy geometry: the network's
              image as it is.
            - `flips`: 1, 2, 4 or 8 mirrored inputs, of which the mean is taken.
            - `islands`: `"drop"` or `"keep"` parts of the mask below 2 % of the largest one.
            - `maps`: whether the `Prediction` has maps of doubt.
            - `threshold`: probability from which a voxel belongs to the cortex mask.
            - `max_memory`: GiB that the process may have in all, as far as can be foreseen; what
              the machine has when None.

    Attributes:
        settings: the `PredictorSettings`.
        spec: the `GeneratorSpec`.
        engine: the engine that computes, with its `name` and `precision`.
        channels: of the network's output.

    Raises:
        UserError: on a wrong setting, or if the engine cannot run here.
        WeightsError: if the weights are unknown or not a generator's.

    Example:
        >>> predictor = Predictor()
        >>> result = predictor.predict("t2.nii.gz", patch=128, new_resolution=(0.5, 0.5, 0.5))
        >>> result.sr.spacing
        (0.5, 0.5, 0.5)
    """

    def __init__(self, weights_path=None, *, model=None, **settings):
        self.settings = PredictorSettings(**checked(settings, PredictorSettings))
        generator = read_generator(weights_path) if model is None else model
        self.engine = make_engine(
            generator, self.settings.engine, self.settings.precision, self.settings.threads
        )
        if model is None:
            self.spec, _ = generator
        else:
            conditional, classes = len(model.inputs) == 2, max(0, model.output_shape[-1] - 2)
            other = GeneratorSpec(conditional=conditional, mask_classes=classes)
            self.spec = getattr(model, "spec", other)
        self.channels = self.spec.channels
        self.memory = MemoryBudget(self.settings.max_memory and int(self.settings.max_memory * GIB))

    def predict(
        self,
        image,
        patch=128,
        step=None,
        new_resolution=(0.5, 0.5, 0.5),
        series=None,
        progress=None,
    ):
        """Processes one image.

        Args:
            image: a `Volume`, or the path of an image file or DICOM folder.
            patch: edge of the patches in voxels, divisible by 4; None for the whole image.
            step: voxels between patches, half the patch when None; unused without a patch.
            new_resolution: voxel size of the result in mm, three numbers or one.
            series: UID of the DICOM series to take from a folder with several.
            progress: called as `progress(patches done, patches in all)`.

        Returns:
            A `Prediction`.

        Raises:
            UserError: on a wrong argument; `MemoryShortage` if it would not fit in memory.
            VolumeError: if the image cannot be read.
            ValueError: if the image is constant or has NaN or infinite voxels.
        """
        patch = checked_patch(patch)
        step = checked_step(step, patch)
        prepared = self.prepare(image, new_resolution, series, patch)
        return self.predict_prepared(prepared, patch, step, progress)

    def prepare(self, image, new_resolution=(0.5, 0.5, 0.5), series=None, patch=128):
        """Reads, normalises and interpolates an image; any number of patch sizes may follow.

        Arguments and errors are those of `predict`; `patch` is the smallest one to come, for a
        first estimate of the memory.
        """
        spacing = checked_resolution(new_resolution)
        volume, source = _volume(image, series)
        legacy = self.settings.geometry == "legacy"
        thick = None if legacy else volume.grid.thick_axis
        network = self._network_spacing(volume, thick, spacing)
        old = zip(volume.array.shape, volume.spacing, map(min, network, spacing), strict=True)
        sizes = [math.ceil(min(n * a / b, _LARGEST_SIZE)) for n, a, b in old]
        self._plan_memory(sizes, spacing, patch, scan=volume.array.size)
        name = "the image" if isinstance(image, Volume) else str(image)
        normalisation = _normalisation(volume, legacy, name)
        scan = volume.with_array(normalisation.apply(volume.array))
        thickness, found = self._thickness(scan, name, source.thickness)
        measures = scan_measures(scan) | {
            "missing_slices": source.missing + _lost(volume),
            "alternating": int(any(alternating_slices(volume.array))),
            "repaired": int(source.is_repaired),
            "clipped": int(normalisation.clips),
            **found,
        }
        result = self._interpolate(scan, network, thickness)
        grid = result.grid if network == spacing else volume.grid.corner_aligned(spacing)
        # The released original read the third axis' spacing and never moved an axis.
        slices = volume.spacing[2] if legacy else max(volume.spacing)
        axis = 2 if thick is None else thick
        scan = scan if self.settings.consistency == "on" else None
        prepared = Prepared(
            result, grid, normalisation, float(slices), axis, scan, thickness, measures
        )
        self.memory.hold(prepared, result.array.nbytes + (scan.array.nbytes if scan else 0))
        return prepared

    def _thickness(self, scan, name, declared):
        """Of the slices in mm, None: their distance; and what was measured, a dict."""
        axis, settings = scan.grid.thick_axis, self.settings
        if settings.geometry == "legacy":
            return None, {}
        stated = stated_thickness(scan, name, declared, settings.thickness, settings.gap)
        if axis is None:
            return None, {}
        is_used = (settings.interp or self.spec.interp) == "profile"
        width, distance = estimated_width(scan) if is_used else None, scan.spacing[axis]
        thickness = taken_thickness(scan, name, stated, width)
        found = {"thickness": float(thickness or distance)}
        if width is not None:
            found["thickness_mismatch"] = width * distance / (stated or distance) - 1
        return thickness, found

    def _network_spacing(self, volume, thick, spacing):
        """Voxel size of the network's grid: the result's, but for the axis of the slices."""
        voxels = self.spec.slice_voxels
        # Slices less than two voxels apart hide too little for their place to matter.
        if not voxels or thick is None or volume.spacing[thick] < 2 * spacing[thick]:
            return spacing
        slices = volume.spacing[thick] / voxels
        return tuple(slices if axis == thick else size for axis, size in enumerate(spacing))

    def _interpolate(self, volume, spacing, thickness):
        """A volume of this voxel size, interpolated as the settings say."""
        order = self.settings.spline_order
        if self.settings.geometry == "legacy":
            return legacy_resample(volume, spacing, spline_order=order)
        settings, interp = self.settings, self.settings.interp or self.spec.interp
        return resample(volume, spacing, interp, settings.interpolation_type, order, thickness)

    def predict_prepared(self, prepared, patch, step, progress=None):
        """The `Prediction` of a prepared image; patch and step have been checked."""
        source = prepared.volume.array
        shape = tuple(map(max, source.shape, prepared.grid.shape))
        batch_size, needed = self._plan_memory(shape, prepared.grid.spacing, patch, source.nbytes)
        array = np.moveaxis(source, prepared.axis, -1)
        with self.memory.promised(needed):
            tiling = self._tiling(array.shape, patch, step)
            output = self._mean_output(array, tiling, batch_size, prepared.resolution, progress)
            # Back to the axes of the image.
            output, deviation = (
                found if found is None else np.moveaxis(found, 2, prepared.axis) for found in output
            )
            prediction = self._prediction(output, deviation, prepared)
        volumes = prediction.volumes.values()
        self.memory.hold(prediction, sum(volume.array.nbytes for volume in volumes))
        return prediction

    def _mean_output(self, array, tiling, batch_size, resolution, progress):
        """The network's output and its deviation, `(x, y, z, channels)` each.

        The mean and the standard deviation over patches and `flips` mirrored inputs; the second is
        None with the legacy geometry.
        """
        flips, mean = self.settings.flips, 0
        axes = range(flips.bit_length() - 1)
        for done, flipped in enumerate(chain(*(combinations(axes, n) for n in range(4)))):
            output = predict_tiled(
                self.engine,
                np.ascontiguousarray(np.flip(array, flipped)),
                tiling,
                self.channels,
                batch_size,
                resolution=resolution if self.spec.conditional else None,
                blend=self.settings.blend,
                squares=self.settings.geometry == "exact",
                progress=progress and partial(_part_of, progress, done, flips),
            )
            mean = output if flips == 1 else mean + np.flip(output, flipped) / np.float32(flips)
        mean, squares = mean[..., : self.channels], mean[..., self.channels :]
        if not squares.size:
            return mean, None
        squares -= np.square(mean)
        return mean, np.sqrt(np.maximum(squares, 0, out=squares), out=squares)

    def _tiling(self, shape, patch, step):
        geometry, voxels = self.settings.geometry, self.spec.slice_voxels
        if patch is None and geometry == "exact" and min(shape) <= MIN_PATCH - 4:
            # The whole image, but thinner than the networks can take.
            patch = step = [max(MIN_PATCH, n + -n % 4) for n in shape]
        elif patch is not None and geometry == "exact" and voxels:
            # Patches that begin with a slice, too.
            step = (step, step, max(voxels, step - step % voxels))
        return plan(shape, patch, step, geometry=geometry)

    def _prediction(self, output, deviation, prepared):
        """The results that the channels of an output, and of its deviation, stand for."""
        volumes, measures, grid = {}, dict(prepared.measures), prepared.grid
        for head, channels in output_channels(self.spec).items():
            parts = prepared.on_result(output[..., channels], head.spline_order)
            if head.activation == "image":
                array = self._consistent(parts[0], prepared, volumes, measures)
            elif head.activation == "sigmoid":
                array = np.clip(parts[0], 0, 1)
                reached = array >= self.settings.threshold
                small, count = islands(reached, _ISLAND)
                head_volume = measures["head_volume"]
                found = mask_measures(array, reached, small, count, grid.spacing, head_volume)
                measures |= {f"{head.name}_{key}": value for key, value in found.items()}
                if self.settings.islands == "drop":
                    reached &= ~small
                volumes[f"{head.name}_mask"] = Volume.from_grid(reached.astype(np.uint8), grid)
            else:
                array = np.argmax(parts, axis=0).astype(np.uint8)
            volumes[head.name] = Volume.from_grid(array, grid)
            if deviation is not None and head.activation != "softmax":
                (spread,) = prepared.on_result(deviation[..., channels], 1)
                self._disagreement(head, spread, prepared, volumes, measures)
        return Prediction(volumes, measures)

    def _consistent(self, array, prepared, volumes, measures):
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
            if self.settings.maps:
                volumes["invented"] = resample_to(doubt, prepared.grid, spline_order=1)
        return normalisation.invert(found.volume.array)

    def _disagreement(self, head, spread, prepared, volumes, measures):
        """Adds the mean of a deviation, float32 (x, y, z), where it says something, and the map."""
        result = volumes[head.name].array
        if head.activation == "image":
            spread = spread * np.float32(prepared.normalisation.scale)
            inside = prepared.normalisation.apply(result) > DARK
        else:
            inside = result >= POSSIBLE
        name = f"{head.name}_disagreement"
        measures[name] = float(np.mean(spread[inside])) if inside.any() else 0.0
        if self.settings.maps:
            volumes[name] = Volume.from_grid(spread, prepared.grid)

    def _plan_memory(self, shape, spacing, patch, present=0, scan=0):
        """The batch size that fits, and the bytes needed besides the `present` ones.

        `scan` is the number of voxels of a scan that is yet to be measured.
        """
        batch_size = self.settings.batch_size
        sizes = batch_size or 1, batch_size or default_batch_size(patch, self.engine)
        kernel = self.spec.kernel
        channels = self.channels * (2 if self.settings.flips == 1 else 4) + 3 * self.settings.maps
        what, coarser = f"a result of {'x'.join(map(str, shape))} voxels", "a coarser resolution"
        remedy = f"{coarser} or a patch of 128"
        if patch is not None:
            what, remedy = f"{what} in patches of {patch}", f"a smaller patch or {coarser}"
        return self.memory.largest_batch(
            sizes,
            lambda size: required_memory(shape, patch, size, kernel, channels, scan) - present,
            what,
            f"ask for {remedy} (received {','.join(f'{value:g}' for value in spacing)} mm)",
        )


def segmentation(
    input_file_path,
    step=None,
    new_resolution=(0.5, 0.5, 0.5),
    patch=None,
    path_output_cortex=None,
    path_output_hr=None,
    weights_path=None,
    interpolation_type="Spline",
    spline_order=3,
    by_batch=None,
    interp=None,
    *,
    path_output_cortex_mask=None,
    path_output_mask=None,
    series=None,
    progress=None,
    **options,
):
    """Super-resolves and segments one image and writes the results; see the paper's appendix.

    Args:
        input_file_path: image file or DICOM folder.
        step: voxels between patches, half the patch when None.
        new_resolution: voxel size of the result in mm, three numbers or one.
        patch: edge of the patches in voxels, None for the whole image.
        path_output_cortex: file of the cortex probabilities, not written when None.
        path_output_hr: file of the high-resolution image, not written when None.
        weights_path: registry name or file, the default weights when None.
        interpolation_type: setting of `Predictor`, as are `spline_order` and `interp`.
        spline_order: 0 to 5.
        by_batch: False for one patch at a time, True for several; the numbers are the same.
        interp: `"scipy"`, `"sitk"` or `"profile"`.
        path_output_cortex_mask: file of the thresholded cortex.
        path_output_mask: file of the classes, for weights with a mask head.
        series: UID of the DICOM series.
        progress: called as `progress(patches done, patches in all)`.
        **options: further settings of `Predictor`, or its `model`.

    Returns:
        A `Prediction`.

    Raises:
        TypeError: if the arguments come in the order of the released 2.2.4.
        UserError: on a wrong argument; its child `VolumeError` on an image.
    """
    patch = _patch_of_call(patch)
    names = ("cortex", "sr", "cortex_mask", "mask")
    paths = (path_output_cortex, path_output_hr, path_output_cortex_mask, path_output_mask)
    outputs = {n: Path(path) for n, path in zip(names, paths, strict=True) if path is not None}
    _check_outputs(outputs, input_file_path)
    options |= {"interp": interp, "interpolation_type": interpolation_type}
    options |= {"batch_size": 1} if by_batch is False else {}
    predictor = Predictor(weights_path, spline_order=spline_order, **options)
    if "mask" in outputs and predictor.spec.mask_classes == 0:
        raise UserError("path_output_mask needs weights with a mask head; leave it out")
    result = predictor.predict(input_file_path, patch, step, new_resolution, series, progress)
    for name, path in outputs.items():
        write_volume(result.volumes[name], path)
    return result


def _patch_of_call(patch):
    """The patch; a path in its place betrays the argument order of the released code."""
    text = os.fspath(patch) if isinstance(patch, (str, os.PathLike)) else None
    if text is None:
        return patch
    if text == "None":
        return None
    if text.isdigit():
        return int(text)
    raise TypeError(
        f"patch must be a number or None, received {text!r}. The order is the paper's: "
        "segmentation(input_file_path, step, new_resolution, patch, path_output_cortex, "
        "path_output_hr, weights_path); SegSRGAN 2.2.4 had patch eighth. Pass the arguments by name"
    )


def _check_outputs(outputs, source):
    """Raises `UserError` where writing would fail after all the work, or destroy a file."""
    seen = {}
    for name, path in outputs.items():
        if not path.name.lower().endswith((".nii", ".nii.gz")):
            raise UserError(f"{path}: results are written as NIfTI; end the name with .nii.gz")
        if not path.parent.is_dir():
            raise UserError(f"{path}: its folder does not exist; make it first")
        if path.exists() and os.path.exists(source) and path.samefile(source):
            raise UserError(f"{path}: is the input; write the {name} into another file")
        same = seen.setdefault(os.path.realpath(path), name)
        if same != name:
            raise UserError(f"{path}: is named for both {same} and {name}; take two files")
        check_writable(path.parent)


def _part_of(progress, done, flips, patches, total):
    progress(done * total + patches, flips * total)


def _lost(volume):
    """How many of an image's slices are empty beside full ones."""
    return sum(indices.size for _, indices in lost_slices(volume.array, volume.grid.thick_axis))


def _volume(image, series):
    if isinstance(image, np.ndarray):
        raise UserError(
            f"image must be a path or a Volume, received an array of {image.shape}; give "
            "Volume(array, spacing), spacing in mm"
        )
    return (image, Source()) if isinstance(image, Volume) else read_with_source(image, series)


def _normalisation(volume, legacy, name):
    array = volume.array
    normalisation = Normalisation.of(array, None if legacy else name, volume.grid.thick_axis)
    if not legacy:
        return normalisation
    # The released original divides by the maximum whatever the minimum is.
    largest = float(np.max(array))
    if largest <= 0:
        raise UserError(
            f"the legacy geometry needs a positive maximum, received {largest:g}; "
            "take geometry=exact"
        )
    return Normalisation(0.0, largest, float(np.min(array)))
