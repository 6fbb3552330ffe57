# SPDX-License-Identifier: MIT
"""One image: normalise, interpolate, run the generator over patches, bring the results back."""

import math
from dataclasses import dataclass

import numpy as np

from segsrgan.errors import UserError
from segsrgan.inference import checks
from segsrgan.inference.engines import make_engine, prepare_engine
from segsrgan.inference.streaming import default_batch_size, predict_tiled
from segsrgan.memory import GIB, MemoryBudget, required_memory
from segsrgan.networks import GeneratorSpec, load_generator
from segsrgan.volumes.intensity import Normalisation
from segsrgan.volumes.reading import read_volume
from segsrgan.volumes.resampling import legacy_resample, resample, resample_to
from segsrgan.volumes.tiling import plan
from segsrgan.volumes.volume import Grid, Volume

# Voxels along one axis; more, infinity included, are as impossible and only spoil the message.
_LARGEST_SIZE = 10**18


@dataclass(frozen=True, eq=False)
class Prediction:
    """The results of one image, all on the same grid.

    Attributes:
        sr: high-resolution image, float32, in the input's intensities.
        cortex: probability of the cortex, float32 in [0, 1].
        cortex_mask: uint8, 1 where the probability reaches the threshold.
        mask: uint8 class numbers of the mask head, None for a generator without one.
    """

    sr: Volume
    cortex: Volume
    cortex_mask: Volume
    mask: Volume | None = None

    @property
    def nbytes(self):
        """Bytes of all arrays."""
        volumes = (self.sr, self.cortex, self.cortex_mask, self.mask)
        return sum(volume.array.nbytes for volume in volumes if volume is not None)


@dataclass(frozen=True, eq=False)
class Prepared:
    """An interpolated image, ready for any patch and step.

    Attributes:
        volume: normalised and interpolated to the grid of the network, float32.
        grid: of the result; along the thick axis it may differ from the network's.
        normalisation: how to return to the input's intensities.
        resolution: the input's slice resolution in mm, for conditional generators.
        axis: the input's low-resolution axis, shown to the generator as the last one.
    """

    volume: Volume
    grid: Grid
    normalisation: Normalisation
    resolution: float
    axis: int


class Predictor:
    """Super-resolution and segmentation with one generator, which is loaded once.

    Args:
        weights_path: registry name or file, the registry's default when None.
        engine: a name of `segsrgan.inference.engines.NAMES`; `"auto"` takes the fastest one that
            is installed and gives the plain network's answer.
        precision: one of `segsrgan.inference.engines.PRECISIONS`; `"auto"` takes float16 where
            it is faster and gives the same answer.
        batch_size: patches computed at once; when None as many as are fast and fit in memory.
        threads: CPU threads, all when None; only the first predictor of a process can choose.
        geometry: `"exact"`, or `"legacy"` for the numbers of the released SegSRGAN 2.2.4.
        interp: `"scipy"` (spline of `spline_order`), `"sitk"` (`interpolation_type`) or
            `"profile"`, see `segsrgan.volumes.resample_to`; what the weights were trained with
            when None.
        interpolation_type: an interpolator of SimpleITK, used with `interp="sitk"`.
        spline_order: 0 to 5, used with `interp="scipy"`.
        blend: mean of overlapping patches, `"uniform"` (the paper's) or `"gaussian"`.
        threshold: probability from which a voxel belongs to the cortex mask.
        model: a built generator to use instead of weights.
        max_memory: GiB that the process may have in all, as far as can be foreseen; what the
            machine has when None.

    Raises:
        UserError: on a wrong argument.
        WeightsError: if the weights are unknown or not a generator's.

    Example:
        >>> predictor = Predictor()
        >>> result = predictor.predict("t2.nii.gz", patch=128, new_resolution=(0.5, 0.5, 0.5))
        >>> result.sr.spacing
        (0.5, 0.5, 0.5)
    """

    def __init__(
        self,
        weights_path=None,
        engine="auto",
        precision="auto",
        batch_size=None,
        threads=None,
        geometry="exact",
        interp=None,
        interpolation_type="Spline",
        spline_order=3,
        blend="uniform",
        threshold=0.5,
        model=None,
        max_memory=None,
    ):
        checks.check_predictor(
            engine,
            precision,
            batch_size,
            threads,
            geometry,
            interp,
            interpolation_type,
            spline_order,
            blend,
            threshold,
            max_memory,
        )
        prepare_engine(engine, threads)
        self.model = load_generator(weights_path) if model is None else model
        self.engine = make_engine(engine, self.model, threads, precision)
        self.batch_size = batch_size
        self.geometry = geometry
        spec = getattr(self.model, "spec", None) or GeneratorSpec()
        self.kernel, self.slice_voxels = spec.kernel, spec.slice_voxels
        if interp is None:
            interp = "scipy" if geometry == "legacy" else spec.interp
        self.interpolation = {
            "interp": interp,
            "interpolation_type": interpolation_type,
            "spline_order": spline_order,
        }
        self.blend = blend
        self.threshold = threshold
        self.channels = self.model.output_shape[-1]
        self.conditional = len(self.model.inputs) == 2
        self.memory = MemoryBudget(max_memory and int(max_memory * GIB))

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
        patch = checks.checked_patch(patch)
        step = checks.checked_step(step, patch)
        prepared = self.prepare(image, new_resolution, series, patch)
        return self.predict_prepared(prepared, patch, step, progress)

    def prepare(self, image, new_resolution=(0.5, 0.5, 0.5), series=None, patch=128):
        """Reads, normalises and interpolates an image, once for any number of patch sizes.

        Args:
            image: see `predict`.
            new_resolution: see `predict`.
            series: see `predict`.
            patch: the smallest patch to come, for a first estimate of the memory.

        Returns:
            A `Prepared`.

        Raises:
            As `predict`.
        """
        spacing = checks.checked_resolution(new_resolution)
        if isinstance(image, np.ndarray):
            raise UserError(
                f"image must be a path or a Volume, received an array of {image.shape}; give "
                "Volume(array, spacing), spacing in mm"
            )
        volume = image if isinstance(image, Volume) else read_volume(image, series=series)
        legacy = self.geometry == "legacy"
        thick = None if legacy else volume.grid.thick_axis
        network = self._network_spacing(volume, thick, spacing)
        old = zip(volume.array.shape, volume.spacing, map(min, network, spacing), strict=True)
        sizes = [math.ceil(min(n * a / b, _LARGEST_SIZE)) for n, a, b in old]
        self._plan_memory(sizes, spacing, patch)
        normalisation = _normalisation(volume.array, legacy)
        normalised = volume.with_array(_float32(normalisation.apply(volume.array)))
        if legacy:
            order = self.interpolation["spline_order"]
            result = legacy_resample(normalised, spacing, spline_order=order)
        else:
            result = resample(normalised, network, **self.interpolation)
        grid = result.grid if network == spacing else volume.grid.corner_aligned(spacing)
        # The released original read the third axis' spacing and never moved an axis.
        slices = volume.spacing[2] if legacy else max(volume.spacing)
        result = result.with_array(_float32(result.array))
        axis = 2 if thick is None else thick
        prepared = Prepared(result, grid, normalisation, float(slices), axis)
        self.memory.hold(prepared, result.array.nbytes)
        return prepared

    def _network_spacing(self, volume, thick, spacing):
        """Voxel size of the network's grid: the result's, but for the axis of the slices."""
        # Slices less than two voxels apart hide too little for their place to matter.
        if not self.slice_voxels or thick is None or volume.spacing[thick] < 2 * spacing[thick]:
            return spacing
        slices = volume.spacing[thick] / self.slice_voxels
        return tuple(slices if axis == thick else size for axis, size in enumerate(spacing))

    def predict_prepared(self, prepared, patch=128, step=None, progress=None):
        """Processes a prepared image; arguments, result and errors as of `predict`."""
        patch = checks.checked_patch(patch)
        step = checks.checked_step(step, patch)
        source = prepared.volume.array
        shape = tuple(map(max, source.shape, prepared.grid.shape))
        batch_size, needed = self._plan_memory(shape, prepared.grid.spacing, patch, source.nbytes)
        array = np.moveaxis(source, prepared.axis, -1)
        with self.memory.promised(needed):
            output = predict_tiled(
                self.engine,
                array,
                self._tiling(array.shape, patch, step),
                self.channels,
                batch_size,
                resolution=prepared.resolution if self.conditional else None,
                blend=self.blend,
                progress=progress,
            )
            prediction = self._prediction(np.moveaxis(output, 2, prepared.axis), prepared)
        self.memory.hold(prediction, prediction.nbytes)
        return prediction

    def _tiling(self, shape, patch, step):
        exact = self.geometry == "exact"
        if patch is None and exact and min(shape) <= checks.MIN_PATCH - 4:
            # The whole image, but thinner than the networks can take.
            patch = step = [max(checks.MIN_PATCH, n + -n % 4) for n in shape]
        elif patch is not None and exact and self.slice_voxels:
            # Patches that begin with a slice, too.
            step = (step, step, max(self.slice_voxels, step - step % self.slice_voxels))
        return plan(shape, patch, step, geometry=self.geometry)

    def _prediction(self, output, prepared):
        network, grid = prepared.volume.grid, prepared.grid

        def on_grid(array, **options):
            volume = Volume.from_grid(array, network)
            return volume if network.is_close(grid) else resample_to(volume, grid, **options)

        mask = None
        if self.channels > 2:
            classes = [
                on_grid(output[..., k], spline_order=1).array for k in range(2, self.channels)
            ]
            mask = Volume.from_grid(np.argmax(classes, axis=0).astype(np.uint8), grid)
        sr = _float32(prepared.normalisation.invert(on_grid(output[..., 0]).array))
        cortex = on_grid(np.clip(output[..., 1], 0, 1), spline_order=1)
        cortex_mask = (cortex.array >= self.threshold).astype(np.uint8)
        new = cortex.with_array
        return Prediction(new(sr), cortex, new(cortex_mask), mask)

    def _plan_memory(self, shape, spacing, patch, present=0):
        """The batch size that fits, and the bytes needed besides the `present` ones."""
        largest = self.batch_size or default_batch_size(patch, self.engine)

        def needed_for(batch_size):
            return required_memory(shape, patch, batch_size, self.kernel, self.channels) - present

        what = f"a result of {'x'.join(map(str, shape))} voxels"
        coarser = "a coarser resolution"
        smaller = f"a smaller patch or {coarser}" if patch else f"{coarser} or a patch of 128"
        return self.memory.largest_batch(
            (self.batch_size or 1, largest),
            needed_for,
            f"{what} in patches of {patch}" if patch else what,
            f"ask for {smaller} (received {','.join(f'{value:g}' for value in spacing)} mm)",
        )


def _normalisation(array, legacy):
    normalisation = Normalisation.of(array)
    if not legacy:
        return normalisation
    # The released original divides by the maximum whatever the minimum is.
    largest = float(np.max(array))
    if largest <= 0:
        raise UserError(
            f"the legacy geometry needs a positive maximum, received {largest:g}; "
            "take geometry=exact"
        )
    return Normalisation(shift=0.0, scale=largest, floor=normalisation.floor)


def _float32(array):
    return np.asarray(array, dtype=np.float32)
