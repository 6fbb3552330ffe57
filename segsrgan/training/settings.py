# SPDX-License-Identifier: MIT
"""All settings of a training, checked; needs neither NumPy nor Keras.

A new flag is one field here, and the line that uses it. `RunSettings` are SuperMask's, too.
"""

import os
from dataclasses import dataclass
from functools import partial

from segsrgan.config import INTERPOLATION_TYPES, INTERPS, TRAINING_PRECISIONS, check, setting
from segsrgan.errors import UserError

# The keys of `segsrgan.training.losses.RECONSTRUCTIONS`.
RECONSTRUCTIONS = ("charbonnier", "dice", "balanced")
# The keys of `segsrgan.training.optimizers.OPTIMIZERS`.
OPTIMIZERS = ("adam", "muon")
# How a label map is divided into tissues.
TISSUES = ("freesurfer", "fetal", "own")
# What is taken where the settings that need them are given and these are not.
SYNTHETIC = {
    "synthetic_ratio": 0.5,
    "stripped": 0.6,
    "cropped": 0.0,
    "cortex_labels": (3, 42),
    "tissues": "freesurfer",
}
DRAWN = {"synthetic_thickness": (1.5, 7.0)}
IMAGES_DRAWN = {"image_power": (0.45, 2.2), "inverted": 0.3}
BALANCED = {"lambda_image": 1.0, "lambda_entropy": 1.0, "lambda_dice": 1.0}

_data = partial(setting, group="data")
_synthetic = partial(setting, group="drawn patches: painted on label maps, or of images")
_network = partial(setting, group="network")
_loss = partial(setting, group="losses")
_training = partial(setting, group="training")


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How a training runs on the machine, whatever it trains.

    Raises:
        UserError: if a value is none of those possible, or two contradict each other.
    """

    precision: str = _training(
        "float32", "numbers that the networks compute with", choices=TRAINING_PRECISIONS
    )
    seed: int = _training(0, "of all randomness", "[0, 4294967295]")
    resume: bool = _training(
        False,
        "go on from the newest state in the snapshot folder; where there is none yet, start as the "
        "other flags say",
    )
    state_minutes: float = _training(
        20.0, "minutes between saved states; each epoch's end has one in any case", ">= 0"
    )
    tensorboard: bool = _training(True, "record for TensorBoard, too")
    multi_gpu: bool = _training(True, "use all GPUs of this computer", flag="-multi_gpu")
    workers: str | None = _training(
        None,
        "all processes that train together, the chief first (default: what TF_CONFIG says)",
        metavar="HOST:PORT,...",
    )
    worker_index: int | None = _training(
        None, "number of this process among the workers, from 0", ">= 0"
    )

    def __post_init__(self):
        check(self, flag_of)
        self._check_workers()

    def _check_workers(self):
        if (self.workers is None) != (self.worker_index is None):
            raise UserError(
                "--workers and --worker_index go together: all workers, and the number of this "
                f"one; received {self.workers!r} and {self.worker_index!r}"
            )
        workers = [worker.strip() for worker in self.workers.split(",")] if self.workers else []
        for worker in workers:
            host, _, port = worker.rpartition(":")
            if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
                raise UserError(
                    f"--workers must be host:port,host:port and so on, received {worker!r} in "
                    f"{self.workers!r}; try node1:12345,node2:12345"
                )
        if len(set(workers)) < len(workers):
            raise UserError(f"--workers names a worker twice, received {self.workers!r}")
        if workers and self.worker_index >= len(workers):
            raise UserError(
                f"--worker_index must be from 0 to {len(workers) - 1}, the chief's being 0, "
                f"received {self.worker_index}"
            )


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(RunSettings):
    """What the flags of `SegSRGAN_training.py` say; the names and the meaning are theirs.

    `low_res` and `low_res_upper` are the bounds of `--new_low_res`, mm. Network settings of None
    are those of `weights`, or of a fresh network. Paths may be relative to the current folder.

    Raises:
        UserError: if a value is none of those possible, or two contradict each other.
    """

    csv: str = _data(help="CSV of the training and test images", flag="-csv")
    base_path: str = _data(
        "",
        "where relative paths in a CSV start (default: that CSV's folder)",
        flag="-begining_path",
    )
    low_res: tuple[float, float, float] = setting(interval="> 0")
    low_res_upper: tuple[float, float, float] = setting(interval="> 0")
    label_values: tuple[int, ...] | None = _data(
        None,
        "values of Label_image inside the structure to segment (default: it holds 0 and 1, or "
        "probabilities)",
        ">= 1",
    )
    slice_thickness: float | None = _data(
        None, "slice thickness in mm where it gets coarser (default: the resolution)", "> 0"
    )
    contrast_max: float = _data(
        0.5, "intensities are raised to a power within 1 +- this", "[0, 1)", flag="-contrast_max"
    )
    percent_val_max: float = _data(
        0.03,
        "noise of the low-resolution images, as a fraction of their maximum",
        ">= 0",
        flag="-percent_val_max",
    )
    patch_size: int = _data(64, "edge of the patches in voxels", ">= 8", flag="-ps")
    stride: int = _data(20, "voxels between neighbouring patches", ">= 1")
    interp: str | None = _data(
        None,
        "interpolation of the low-resolution images: cubic splines (scipy), sitk, or splines that "
        "know the slice profile (default: that of --weights, or scipy)",
        flag="-int",
        choices=INTERPS,
    )
    interpolation_type: str = _data(
        "Spline",
        f"with --interp sitk: {', '.join(INTERPOLATION_TYPES)}",
        flag="-it",
        choices=INTERPOLATION_TYPES,
        metavar="TYPE",
    )
    image_cropping_method: str = _data(
        "bounding_box",
        "take the patches of the bounding box, or those of which more than half is in Mask_image",
        flag="-icm",
        choices=("bounding_box", "overlapping_with_mask"),
    )
    fit_mask: bool = _data(False, "learn the classes of Mask_image, too", flag="-fm")
    flip: bool = _data(True, "flip patches at random")
    rotation: float = _data(
        0.0, "rotate each image by up to this many degrees in every epoch", "[0, 180]"
    )
    elastic: float = _data(0.0, "deform each image by up to this many mm in every epoch", ">= 0")
    images_in_memory: int = _data(
        8, "images whose patches are shuffled together; as many are prepared", ">= 1"
    )
    folder_training_data: str | None = _data(
        None,
        "cache of prepared images, which several trainings may share (default: none)",
        flag="-folder_training_data",
    )
    keep_training_data: bool = _data(False, "leave the cache where it is at the end")

    synthetic: str | None = _synthetic(
        None,
        "CSV of label maps, from which images of random contrast are made; columns: Label_map, and "
        "optionally Cortex, Tissues, Scale_min, Scale_max, Fraction, Pose",
    )
    synthetic_ratio: float | None = _synthetic(
        None,
        "fraction of synthetic patches; 1: no others, and --csv needs no row of Train "
        "(default: 0.5)",
        "(0, 1]",
    )
    stripped: float | None = _synthetic(
        None, "fraction of synthetic patches that show the brain alone (default: 0.6)", "[0, 1]"
    )
    cropped: float | None = _synthetic(
        None,
        "fraction of synthetic patches whose field of view ends inside of them, beyond it zeros "
        "(default: 0)",
        "[0, 1]",
    )
    synthetic_thickness: tuple[float, float] | None = _synthetic(
        None, "bounds of drawn patches' slice distance, in their voxels (default: 1.5 7)", ">= 1"
    )
    cortex_labels: tuple[int, ...] | None = _synthetic(
        None, "values of the structure to segment in the maps (default: 3,42)", ">= 1"
    )
    tissues: str | None = _synthetic(
        None,
        "what looks alike: FreeSurfer's numbers by tissue, those of the fetal brain atlases, or "
        "each value by itself, all of them brain (default: freesurfer)",
        choices=TISSUES,
    )

    image_patches: str = _synthetic(
        "in_turn",
        "patches of the images: each in its turn, of slices as --new_low_res says, or drawn "
        "anywhere near the label, in random orientation and contrast, of slices as "
        "--synthetic_thickness says",
        choices=("in_turn", "drawn"),
    )
    image_power: tuple[float, float] | None = _synthetic(
        None, "bounds of the power of drawn image patches' intensities (default: 0.45 2.2)", "> 0"
    )
    inverted: float | None = _synthetic(
        None, "fraction of drawn image patches with inverted intensities (default: 0.3)", "[0, 1]"
    )

    kernel_gen: int | None = _network(
        None, "channels of the generator's first layer (default: 16)", ">= 1"
    )
    kernel_dis: int | None = _network(
        None, "channels of the discriminator's first layer (default: 32)", ">= 1"
    )
    u_net_generator: bool | None = _network(None, "U-Net generator (default: False)", flag="-u_net")
    is_conditional: bool | None = _network(
        None, "tell the networks the slice resolution (default: False)", flag="-is_conditional"
    )
    is_residual: bool | None = _network(
        None, "the generator predicts what to add to its input (default: True)", flag="-is_residual"
    )
    scaled_residual: bool | None = _network(
        None, "the correction is in tenths of the patch's standard deviation (default: False)"
    )
    blocks_gen: int | None = _network(
        None, "residual blocks at the lowest resolution (default: 6, in the U-Net 1)", ">= 1"
    )
    growth_gen: int | None = _network(
        None, "factor of the channels from one resolution to the next (default: 2)", ">= 1"
    )
    head_gen: int | None = _network(
        None, "edge of the last convolution's kernel, odd (default: 7)", ">= 1"
    )
    levels_gen: tuple[int, ...] | None = _network(
        None,
        "a U-Net on folded blocks of 2x2x4 voxels with so many channels at each level, from the "
        "finest, such as 48,80,96,112, in place of the paper's networks (default: theirs)",
        ">= 1",
    )
    zero_head: bool = _network(
        False,
        "a fresh generator's last convolution starts at zero, so that a residual one "
        "begins with its input",
    )
    slice_voxels: int | None = _network(
        None,
        "voxels of the network's input per acquired slice, 0, 2 or 4; the images are interpolated "
        "to that, here and at inference; 0: as they come (default: that of --weights, or 0)",
        ">= 0",
    )
    weights: str | None = _network(
        None, "weights to start from, ours or the original's (default: random)", flag="-w"
    )

    lambrec: float = _loss(1.0, "weight of the reconstruction loss", ">= 0")
    lambadv: float = _loss(0.001, "weight of the adversarial loss; 0: no discriminator", ">= 0")
    lambgp: float = _loss(100.0, "weight of the gradient penalty", ">= 0")
    reconstruction_loss: str = _loss(
        "charbonnier",
        "Charbonnier loss of all outputs; or of the image alone plus soft Dice of the label and "
        "classes; or balanced, the three parts below",
        flag="-rl",
        choices=RECONSTRUCTIONS,
    )
    nu: float = _loss(1e-3, "the Charbonnier loss is quadratic for errors below this", "> 0")
    lambda_image: float | None = _loss(
        None, "balanced: weight of the image's Charbonnier loss (default: 1)", ">= 0"
    )
    lambda_entropy: float | None = _loss(
        None, "balanced: weight of label and classes' binary cross-entropy (default: 1)", ">= 0"
    )
    lambda_dice: float | None = _loss(
        None, "balanced: weight of their soft Dice loss (default: 1)", ">= 0"
    )

    snapshot_folder: str = _training(help="folder of the results, see below", flag="-sf")
    dice_file: str = _training(help="CSV of the Dice after each epoch", flag="-dice")
    mse_file: str = _training(help="CSV of the mean squared error after each epoch", flag="-mse")
    epoch: int = _training(200, "number of the last epoch", ">= 1", flag="-e")
    init_epoch: int = _training(
        1,
        "number of the first; above 1 it starts from --weights, or from the snapshot before it",
        ">= 1",
        flag="-i",
    )
    steps: int | None = _training(
        None, "the generator's updates in an epoch (default: each patch has its turn)", ">= 1"
    )
    batch_size: int = _training(
        32, "patches of an update, on all devices together", ">= 1", flag="-b"
    )
    snapshot: int = _training(1, "epochs between snapshots", ">= 1", flag="-s")
    lrgen: float = _training(1e-4, "learning rate of the generator", "> 0")
    lrdis: float = _training(1e-4, "learning rate of the discriminator", "> 0")
    schedule: str = _training(
        "constant",
        "the rates stay, or fall like a cosine to a hundredth in the last epoch",
        choices=("constant", "cosine"),
    )
    warm_up: int = _training(
        0, "updates of the generator in which the rates rise from a hundredth", ">= 0"
    )
    optimizer: str = _training(
        "adam",
        "of the generator: Adam, or Muon for the kernels and Adam for the rest",
        choices=OPTIMIZERS,
    )
    beta_1: float = _training(0.5, "decay of the optimisers' mean gradient", "[0, 1)")
    clip_gradient: float | None = _training(
        None, "largest norm of all gradients of a network together (default: any)", "> 0"
    )
    ema: float = _training(
        0.0,
        "decay of the moving average of the generator's weights, such as 0.999, which validation "
        "and snapshots then use; 0: none",
        "[0, 1)",
    )
    number_of_discriminator_iteration: int = _training(
        5,
        "updates of the discriminator per update of the generator",
        ">= 1",
        flag="--number_of_disciminator_iteration",
    )

    def __post_init__(self):
        super().__post_init__()
        _fill_in(self)
        for agree in (_check_patch, _check_losses, _check_paths, _check_data, _check_network):
            agree(self)

    @property
    def draws(self):
        """Whether any patch is drawn: painted on a label map, or of an image."""
        return self.synthetic is not None or self.image_patches == "drawn"


def flag_of(name):
    """The flag of a setting, as messages name it."""
    bounds = {"low_res": "--new_low_res", "low_res_upper": "the second --new_low_res"}
    return bounds.get(name, f"--{name}")


def _fill_in(s):
    """Gives settings that depend on others their defaults, or refuses them where these lack."""
    is_drawn, is_balanced = s.image_patches == "drawn", s.reconstruction_loss == "balanced"
    for active, defaults, remedy in (
        (s.synthetic is not None, SYNTHETIC, "name the CSV of label maps with --synthetic"),
        (s.draws, DRAWN, "add --synthetic or --image_patches drawn"),
        (is_drawn, IMAGES_DRAWN, "add --image_patches drawn"),
        (is_balanced, BALANCED, "add --reconstruction_loss balanced"),
    ):
        given = [flag_of(name) for name in defaults if getattr(s, name) is not None]
        if given and not active:
            raise UserError(f"{', '.join(given)}: of no effect here; {remedy}, or leave this out")
        for name, value in defaults.items():
            if active and getattr(s, name) is None:
                object.__setattr__(s, name, value)


def _check_patch(s):
    size, multiple = s.patch_size, 2 ** len(s.levels_gen) if s.levels_gen else 4
    if size % multiple or size < 2 * multiple:
        near = max(2 * multiple, size - size % multiple)
        raise UserError(
            f"--patch_size must be divisible by {multiple} and at least {2 * multiple}, "
            f"received {size}; try {near}"
        )
    if s.lambadv and (size < 16 or size & (size - 1)):
        raise UserError(
            "--patch_size must be a power of two from 16 up, because the discriminator halves it "
            f"until 2 voxels are left, received {size}; take 32, 64 or 128, or --lambadv 0 to "
            "train without a discriminator"
        )


def _check_losses(s):
    if s.lambrec == 0 and s.lambadv == 0:
        raise UserError("--lambrec and --lambadv are both 0, which leaves nothing to learn")
    if s.reconstruction_loss == "balanced" and not any(getattr(s, name) for name in BALANCED):
        raise UserError(
            "--lambda_image, --lambda_entropy and --lambda_dice are all 0, which leaves nothing to "
            "reconstruct; give one of them a weight"
        )


def _check_paths(s):
    files = {f"--{n}": getattr(s, n) for n in ("csv", "synthetic", "dice_file", "mse_file")}
    files["the history"] = os.path.join(s.snapshot_folder, "history.csv")
    seen = {}
    for flag, path in files.items():
        other = seen.setdefault(os.path.realpath(path), flag) if path else flag
        if other != flag:
            raise UserError(f"{other} and {flag} are both {path}; each needs a file of its own")
    if s.keep_training_data and s.folder_training_data is None:
        raise UserError(
            "--keep_training_data says to keep the files in --folder_training_data; name it too"
        )
    cache = s.folder_training_data and os.path.realpath(s.folder_training_data)
    if cache == os.path.realpath(s.snapshot_folder):
        raise UserError(
            "--folder_training_data is for what goes at the end and cannot be --snapshot_folder, "
            f"received {s.folder_training_data} for both; name another folder"
        )


def _check_data(s):
    if any(low > high for low, high in zip(s.low_res, s.low_res_upper, strict=True)):
        raise UserError(
            "the first --new_low_res is the lower bound, received "
            f"{s.low_res} and {s.low_res_upper}; swap them"
        )
    if s.draws and s.fit_mask:
        source = f"--synthetic {s.synthetic}" if s.synthetic else "--image_patches drawn"
        raise UserError(
            "--fit_mask learns classes that drawn patches do not have, received "
            f"{source} as well; leave one of them out"
        )
    if s.init_epoch > s.epoch:
        raise UserError(
            f"--init_epoch {s.init_epoch} lies beyond the last epoch, --epoch {s.epoch}"
        )


def _check_network(s):
    if s.scaled_residual and s.is_residual is False:
        raise UserError(
            "--scaled_residual True needs a residual network, received --is_residual False; "
            "leave one of them out"
        )
    if s.head_gen is not None and s.head_gen % 2 == 0:
        raise UserError(f"--head_gen must be odd, received {s.head_gen}; try 3 or 7")
    if s.levels_gen is not None:
        if not 2 <= len(s.levels_gen) <= 6:
            raise UserError(
                f"--levels_gen must be 2 to 6 numbers, received {len(s.levels_gen)}; try 48,80,96"
            )
        others = ("kernel_gen", "u_net_generator", "growth_gen", "head_gen")
        given = [f"--{name}" for name in others if getattr(s, name) not in (None, False)]
        if given:
            raise UserError(
                f"{', '.join(given)}: of no effect with --levels_gen; leave one of them out"
            )
    if s.zero_head and s.weights is not None:
        raise UserError(
            f"--zero_head is for a fresh generator, received --weights {s.weights}; leave one of "
            "them out"
        )
    if s.slice_voxels not in (None, 0, 2, 4):
        raise UserError(f"--slice_voxels must be 0, 2 or 4, received {s.slice_voxels}; try 4")
    if s.slice_voxels and s.low_res != s.low_res_upper:
        raise UserError(
            "--slice_voxels needs images of one slice distance, received --new_low_res "
            f"{s.low_res} to {s.low_res_upper}; name one, or take --slice_voxels 0"
        )
