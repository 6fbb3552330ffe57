# SPDX-License-Identifier: MIT
"""One image: normalise, interpolate, run the generator over patches, bring the results back."""

import logging
import math
from functools import cached_property, partial
from itertools import chain, combinations
from typing import NamedTuple

import numpy as np

from segsrgan.config import checked
from segsrgan.errors import UserError
from segsrgan.inference.engines import make_engine
from segsrgan.inference.measures import scan_measures
from segsrgan.inference.prediction import Origin, Prepared, make_prediction
from segsrgan.inference.results import weights_name
from segsrgan.inference.settings import (
    PredictorSettings,
    checked_patch,
    checked_resolution,
    checked_step,
)
from segsrgan.inference.stripping import WEIGHTS as BRAIN_WEIGHTS
from segsrgan.inference.stripping import find_brain
from segsrgan.inference.sweep import default_batch_size, predict_tiled
from segsrgan.memory import GIB, MemoryBudget, required_memory, resident_memory
from segsrgan.networks.architecture import GeneratorSpec
from segsrgan.networks.outputs import output_channels
from segsrgan.networks.registry import default_weights
from segsrgan.networks.weights import read_generator
from segsrgan.tables import resolved
from segsrgan.volumes.comparison import canonical_order
from segsrgan.volumes.intensities import Normalisation, alternating_slices, lost_slices
from segsrgan.volumes.reading import Source, read_with_source
from segsrgan.volumes.resampling import legacy_resample, resample
from segsrgan.volumes.thickness import estimated_width, stated_thickness, taken_thickness
from segsrgan.volumes.tiling import plan
from segsrgan.volumes.volume import Grid, Volume

logger = logging.getLogger(__name__)

# In ml; a smaller object is looked at for a brain only where that is asked for.
_LEAST_HEAD = 100.0
# Voxels along one axis; more, infinity included, are as impossible and only spoil the message.
_LARGEST_SIZE = 10**18


class Estimate(NamedTuple):
    """What the results of an image would be, and what they would take."""

    grid: Grid  # of the results
    patches: int  # that the network is shown, over all flips
    voxels: int  # of all these patches
    memory: int  # bytes of the process, at most


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
            - `strip`: `"no"`, `"yes"` or `"auto"`: the brain is found first, see
              `segsrgan.inference.stripping`, and segmented alone; `"auto"`: where there is a head
              around it. The image is made of the whole head.
            - `maps`: whether the `Prediction` has maps of doubt.
            - `threshold`: probability from which a voxel belongs to the cortex mask.
            - `max_memory`: GiB that the process may have in all, as far as can be foreseen; what
              the machine has when None.

    Attributes:
        settings: the `PredictorSettings`.
        spec: the `GeneratorSpec`.
        engine: the engine that computes, with its `name` and `precision`.
        channels: of the network's output.
        weights: their name, None of a model.

    Raises:
        UserError: on a wrong setting, or if the engine cannot run here.
        WeightsError: if the weights are unknown or not a generator's.

    Examples:
        >>> predictor = Predictor()
        >>> result = predictor.predict("t2.nii.gz", patch=128, new_resolution=(0.5, 0.5, 0.5))
        >>> result.sr.spacing
        (0.5, 0.5, 0.5)
    """

    def __init__(self, weights_path=None, *, model=None, **settings):
        self.settings = PredictorSettings(**checked(settings, PredictorSettings))
        generator = read_generator(weights_path) if model is None else model
        self.weights = (
            None if model is not None else weights_name(weights_path or default_weights())
        )
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
            patch: edge of the patches in voxels, divisible by the weights' `spec.multiple`, 4 or
                more; None for the whole image.
            step: voxels between patches, half the patch when None; unused without a patch.
            new_resolution: voxel size of the result in mm, three numbers or one; "auto": the
                smallest edge of the scan's voxels.
            series: UID of the DICOM series to take from a folder with several.
            progress: called as `progress(patches done, patches in all)`.

        Returns:
            A `Prediction`.

        Raises:
            UserError: on a wrong argument; `MemoryShortage` if it would not fit in memory.
            VolumeError: if the image cannot be read.
            ValueError: if the image is constant or has NaN or infinite voxels.
        """
        patch = checked_patch(patch, self.spec.multiple)
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
        spacing, network, _ = self._plan(volume, spacing, patch)
        name = self._name(image)
        normalisation = _normalisation(volume, legacy, name)
        scan = volume.with_array(normalisation.apply(volume.array))
        thickness, found = self._thickness(scan, name, source.thickness)
        shown, measures = scan, scan_measures(scan)
        brain = self._brain(scan, name, measures["head_volume"])
        if brain is not None:
            shown = scan.with_array(np.where(brain.on(scan.grid), scan.array, np.float32(0)))
            found |= {"brain_volume": brain.volume, "brain_unsure": brain.unsure}
            measures = scan_measures(shown)
        measures |= {
            "missing_slices": source.missing + _lost(volume),
            "alternating": int(any(alternating_slices(volume.array))),
            "repaired": int(source.is_repaired),
            "clipped": int(normalisation.clips),
            **found,
        }
        result = self._interpolate(shown, network, thickness)
        whole = None if brain is None else self._interpolate(scan, network, thickness)
        grid = result.grid if network == spacing else volume.grid.corner_aligned(spacing)
        # The released original read the third axis' spacing and never moved an axis.
        slices = volume.spacing[2] if legacy else max(volume.spacing)
        order = ([0, 1, 2], []) if legacy else canonical_order(volume.grid)
        scan = scan if self.settings.consistency == "on" else None
        scanned = normalisation, float(slices), order, scan, thickness, measures
        path = None if isinstance(image, Volume) else resolved(image)
        settings = {"weights": self.weights, "resolution": list(spacing), "series": series}
        settings |= self.settings.record()
        origin = Origin(volume.grid, path, source.images, settings)
        prepared = Prepared(result, grid, *scanned, brain, whole, origin)
        held = [volume.array.nbytes for volume in (result, scan, whole) if volume is not None]
        self.memory.hold(prepared, sum(held))
        return prepared

    def _name(self, image):
        """Of an image, for messages."""
        return "the image" if isinstance(image, Volume) else str(image)

    def estimate(self, image, patch=128, step=None, new_resolution=(0.5, 0.5, 0.5), series=None):
        """What `predict` would make and take, an `Estimate`; the image is read, nothing computed.

        Arguments and errors are those of `predict`.
        """
        patch = checked_patch(patch, self.spec.multiple)
        step, spacing = checked_step(step, patch), checked_resolution(new_resolution)
        volume, _ = _volume(image, series)
        spacing, network, needed = self._plan(volume, spacing, patch)
        if self.settings.geometry == "legacy":
            sizes = zip(volume.array.shape, volume.spacing, spacing, strict=True)
            grid = Grid(tuple(round(n * old / new) for n, old, new in sizes), spacing)
            shape = grid.shape
        else:
            grid, shown = map(volume.grid.corner_aligned, (spacing, network))
            shape = tuple(shown.shape[axis] for axis in canonical_order(volume.grid)[0])
        tiling = self._tiling(shape, patch, step)
        patches = len(tiling.starts) * self.settings.flips
        voxels = patches * math.prod(tiling.patch)
        return Estimate(grid, patches, voxels, needed + resident_memory())

    def _plan(self, volume, spacing, patch):
        """Voxel sizes of the result and of the network's grid, and the bytes needed."""
        if spacing == "auto":
            spacing = (min(volume.spacing),) * 3
        thick = None if self.settings.geometry == "legacy" else volume.grid.thick_axis
        network = self._network_spacing(volume, thick, spacing)
        old = zip(volume.array.shape, volume.spacing, map(min, network, spacing), strict=True)
        sizes = [math.ceil(min(n * a / b, _LARGEST_SIZE)) for n, a, b in old]
        stripped = self.settings.strip == "yes"
        _, needed = self._plan_memory(sizes, spacing, patch, 0, volume.array.size, stripped)
        return spacing, network, needed

    def _brain(self, scan, name, head_volume):
        """The `Brain` that is to be segmented alone, or None."""
        strip = self.settings.strip
        if strip == "no" or strip == "auto" and head_volume < _LEAST_HEAD:
            return None
        brain = find_brain(scan, self._stripper)
        if not brain.volume:
            if strip == "yes":
                raise UserError(f"{name}: no brain was found in it; strip=no takes it as it is")
            return None
        if strip == "auto" and not brain.is_inside_head:
            return None
        logger.info("%s: a head; its brain of %.0f ml is segmented", name, brain.volume)
        return brain

    @cached_property
    def _stripper(self):
        """The `Predictor` that finds the brain."""
        return brain_finder(engine=self.settings.engine, threads=self.settings.threads)

    def _thickness(self, scan, name, declared):
        """Of the slices in mm, None: their distance; and what was measured, a dict."""
        axis, settings = scan.grid.thick_axis, self.settings
        if settings.geometry == "legacy" or name is None:
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
        """The `Prediction` of a prepared image; the step has been checked."""
        patch = checked_patch(patch, self.spec.multiple)
        source, stripped = prepared.volume.array, prepared.whole is not None
        shape = tuple(map(max, source.shape, prepared.grid.shape))
        batch_size, needed = self._plan_memory(
            shape, prepared.grid.spacing, patch, source.nbytes, stripped=stripped
        )
        with self.memory.promised(needed):
            output, deviation = self._output(prepared, patch, step, batch_size, progress)
            pair = {"patch": patch, "step": step}
            prediction = make_prediction(
                output, deviation, prepared, self.spec, self.settings, pair
            )
        volumes = prediction.volumes.values()
        self.memory.hold(prediction, sum(volume.array.nbytes for volume in volumes))
        return prediction

    def _output(self, prepared, patch, step, batch_size, progress):
        """The network's output and its deviation, `(x, y, z, channels)` each, on the scan's axes.

        Of a head the segmentation is that of the brain alone, the image that of all: a brain's
        alone would be dark at its border.
        """
        (axes, flips), found = prepared.order, []
        shown = [volume for volume in (prepared.volume, prepared.whole) if volume is not None]
        for done, volume in enumerate(shown):
            array = np.flip(volume.array.transpose(axes), flips)
            tiling = self._tiling(array.shape, patch, step)
            part = progress and partial(_part_of, progress, done, len(shown))
            found.append(self._mean_output(array, tiling, batch_size, prepared.resolution, part))
        for whole in found[1:]:
            heads = output_channels(self.spec).items()
            for channels in [part for head, part in heads if head.activation == "image"]:
                for mine, other in zip(found[0], whole, strict=True):
                    mine[..., channels] = other[..., channels]
        return [
            part if part is None else np.flip(part, flips).transpose(*np.argsort(axes), 3)
            for part in found[0]
        ]

    def _mean_output(self, array, tiling, batch_size, resolution, progress):
        """The output and its deviation on the axes that the network is shown.

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
        multiple = self.spec.multiple
        if patch is None and geometry == "exact" and min(shape) <= multiple:
            # The whole image, but thinner than the networks can take.
            patch = step = [max(2 * multiple, n + -n % multiple) for n in shape]
        elif patch is not None and geometry == "exact" and voxels:
            # Patches that begin with a slice, too.
            step = (step, step, max(voxels, step - step % voxels))
        return plan(shape, patch, step, geometry, multiple)

    def _plan_memory(self, shape, spacing, patch, present=0, scan=0, stripped=False):
        """The batch size that fits, and the bytes needed besides the `present` ones.

        `scan` is the number of voxels of a scan that is yet to be measured; a `stripped` one goes
        through the network twice.
        """
        batch_size = self.settings.batch_size
        sizes = batch_size or 1, batch_size or default_batch_size(patch, self.engine)
        kernel = self.spec.full_channels
        channels = self.channels * (2 if self.settings.flips == 1 else 4) + 3 * self.settings.maps
        # What lies around the brain, and the first output.
        channels += stripped * (1 + 2 * self.channels)
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


class _BrainFinder(Predictor):
    """Looks at coarse voxels, of which there is nothing to be told: whoever asks sees the scan."""

    def _name(self, image):
        return None


def brain_finder(weights_path=BRAIN_WEIGHTS, **settings):
    """A `Predictor` for `segsrgan.inference.stripping.find_brain`; arguments as for that."""
    return _BrainFinder(weights_path, strip="no", consistency="off", islands="keep", **settings)


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
