# SPDX-License-Identifier: MIT
"""All settings of a training, checked; needs neither NumPy nor Keras.

A new flag is one field here, and the line that uses it.
"""

import os
from dataclasses import dataclass
from functools import partial

from segsrgan.config import (
    INTERPOLATION_TYPES,
    INTERPS,
    TRAINING_PRECISIONS,
    check,
    check_bounds,
    setting,
    whole_numbers,
)
from segsrgan.errors import UserError

CROPPINGS = ("bounding_box", "overlapping_with_mask")
IMAGE_PATCHES = ("in_turn", "drawn")
# The keys of `segsrgan.training.losses.RECONSTRUCTIONS`.
RECONSTRUCTIONS = ("charbonnier", "dice", "balanced")
SCHEDULES = ("constant", "cosine")
# How a label map is divided into tissues.
TISSUES = ("freesurfer", "fetal", "own")
# What is taken where the settings that need them are given and these are not.
SYNTHETIC = {
    "synthetic_ratio": 0.5,
    "cortex_labels": "3,42",
    "tissues": "freesurfer",
}
DRAWN = {"synthetic_thickness": (1.5, 7.0)}
IMAGES_DRAWN = {"image_power": (0.45, 2.2), "inverted": 0.3}
BALANCED = {"lambda_image": 1.0, "lambda_entropy": 1.0, "lambda_dice": 1.0}
# Below it two stride-2 levels leave too little to pad by reflection.
_MIN_PATCH = 8
_MIN_DISCRIMINATOR_PATCH = 16

_data = partial(setting, group="data")
_synthetic = partial(setting, group="drawn patches: painted on label maps, or of images")
_network = partial(setting, group="network")
_loss = partial(setting, group="losses")
_training = partial(setting, group="training")


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """What the flags of `SegSRGAN_training.py` say; the names and the meaning are theirs.

    `low_res` and `low_res_upper` are the bounds of `--new_low_res`, mm. Network settings of None
    are those of `weights`, or of a fresh network. Paths may be relative to the current folder.

    Raises:
        UserError: if a value is none of those possible, or two contradict each other.
    """

    csv: str = _data(
        str, help="CSV of the training and test images", flags=("-csv",), metavar="PATH"
    )
    base_path: str = _data(
        str,
        "",
        "where relative paths in a CSV start (default: that CSV's folder)",
        flags=("-begining_path",),
        metavar="PATH",
    )
    low_res: tuple = setting(float, low=0, above=True, count=3, title="--new_low_res")
    low_res_upper: tuple = setting(
        float, low=0, above=True, count=3, title="the second --new_low_res"
    )
    label_values: str | None = _data(
        str,
        None,
        "values of Label_image inside the structure to segment (default: it holds 0 and 1, or "
        "probabilities)",
        metavar="N,...",
    )
    slice_thickness: float | None = _data(
        float,
        None,
        "slice thickness in mm along the axes that get coarser (default: the resolution itself)",
        low=0,
        above=True,
    )
    contrast_max: float = _data(
        float,
        0.5,
        "intensities are raised to a power within 1 +- this",
        flags=("-contrast_max",),
        low=0,
        below=1,
    )
    percent_val_max: float = _data(
        float,
        0.03,
        "noise of the low-resolution images, as a fraction of their maximum",
        flags=("-percent_val_max",),
        low=0,
    )
    patch_size: int = _data(
        int, 64, "edge of the patches in voxels", flags=("-ps",), low=_MIN_PATCH
    )
    stride: int = _data(int, 20, "voxels between neighbouring patches", low=1)
    interp: str | None = _data(
        str,
        None,
        "interpolation of the low-resolution images: cubic splines (scipy), sitk, or splines that "
        "know the slice profile (default: that of --weights, or scipy)",
        flags=("-int",),
        choices=INTERPS,
    )
    interpolation_type: str = _data(
        str,
        "Spline",
        f"with --interp sitk: {', '.join(INTERPOLATION_TYPES)}",
        flags=("-it",),
        choices=INTERPOLATION_TYPES,
        metavar="TYPE",
    )
    image_cropping_method: str = _data(
        str,
        "bounding_box",
        "take the patches of the bounding box, or those of which more than half is in Mask_image",
        flags=("-icm",),
        choices=CROPPINGS,
    )
    fit_mask: bool = _data(bool, False, "learn the classes of Mask_image, too", flags=("-fm",))
    flip: bool = _data(bool, True, "flip patches at random")
    rotation: float = _data(
        float,
        0.0,
        "rotate each image by up to this many degrees in every epoch",
        low=0,
        high=180,
    )
    elastic: float = _data(
        float, 0.0, "deform each image by up to this many mm in every epoch", low=0
    )
    images_in_memory: int = _data(
        int, 8, "images whose patches are shuffled together; as many are prepared", low=1
    )
    folder_training_data: str | None = _data(
        str,
        None,
        "cache of prepared images, which several trainings may share (default: none)",
        flags=("-folder_training_data",),
        metavar="PATH",
    )
    keep_training_data: bool = _data(bool, False, "leave the cache where it is at the end")

    synthetic: str | None = _synthetic(
        str,
        None,
        "CSV of label maps, from which images of random contrast are made; columns: Label_map, and "
        "optionally Cortex, Tissues, Scale_min, Scale_max, Fraction",
        metavar="PATH",
    )
    synthetic_ratio: float | None = _synthetic(
        float,
        None,
        "fraction of synthetic patches; 1: no others, and --csv needs no row of Train "
        "(default: 0.5)",
        low=0,
        above=True,
        high=1,
    )
    synthetic_thickness: tuple | None = _synthetic(
        float,
        None,
        "bounds of the slice distance of drawn patches, in voxels of the patch (default: 1.5 7)",
        low=1,
        count=2,
    )
    cortex_labels: str | None = _synthetic(
        str,
        None,
        "values of the structure to segment in the maps (default: 3,42)",
        metavar="N,...",
    )
    tissues: str | None = _synthetic(
        str,
        None,
        "what looks alike: FreeSurfer's numbers by tissue, those of the fetal brain atlases, or "
        "each value by itself, all of them brain (default: freesurfer)",
        choices=TISSUES,
    )

    image_patches: str = _synthetic(
        str,
        "in_turn",
        "patches of the images: each in its turn, of slices as --new_low_res says, or drawn "
        "anywhere near the label, in random orientation and contrast, of slices as "
        "--synthetic_thickness says",
        choices=IMAGE_PATCHES,
    )
    image_power: tuple | None = _synthetic(
        float,
        None,
        "bounds of the power that intensities of drawn patches of images are raised to "
        "(default: 0.45 2.2)",
        low=0,
        above=True,
        count=2,
    )
    inverted: float | None = _synthetic(
        float,
        None,
        "fraction of the drawn patches of images whose intensities are turned over (default: 0.3)",
        low=0,
        high=1,
    )

    kernel_gen: int | None = _network(
        int, None, "channels of the generator's first layer (default: 16)", low=1
    )
    kernel_dis: int | None = _network(
        int, None, "channels of the discriminator's first layer (default: 32)", low=1
    )
    u_net_generator: bool | None = _network(
        bool, None, "U-Net generator (default: False)", flags=("-u_net",)
    )
    is_conditional: bool | None = _network(
        bool,
        None,
        "tell the networks the slice resolution (default: False)",
        flags=("-is_conditional",),
    )
    is_residual: bool | None = _network(
        bool,
        None,
        "the generator predicts a correction of its input (default: True)",
        flags=("-is_residual",),
    )
    scaled_residual: bool | None = _network(
        bool,
        None,
        "the correction is in tenths of the patch's standard deviation (default: False)",
    )
    blocks_gen: int | None = _network(
        int, None, "residual blocks at the lowest resolution (default: 6, in the U-Net 1)", low=1
    )
    growth_gen: int | None = _network(
        int,
        None,
        "factor of the channels from one resolution to the next (default: 2)",
        low=1,
    )
    head_gen: int | None = _network(
        int, None, "edge of the last convolution's kernel, odd (default: 7)", low=1
    )
    zero_head: bool = _network(
        bool,
        False,
        "a fresh generator's last convolution starts at zero, so that a residual one "
        "begins with its input",
    )
    slice_voxels: int | None = _network(
        int,
        None,
        "voxels of the network's input per acquired slice, 0, 2 or 4; the images are interpolated "
        "to that, here and at inference; 0: as they come (default: that of --weights, or 0)",
        low=0,
    )
    weights: str | None = _network(
        str,
        None,
        "weights to start from, ours or the original's (default: random)",
        flags=("-w",),
        metavar="PATH",
    )

    lambrec: float = _loss(float, 1.0, "weight of the reconstruction loss", low=0)
    lambadv: float = _loss(
        float, 0.001, "weight of the adversarial loss; 0: no discriminator", low=0
    )
    lambgp: float = _loss(float, 100.0, "weight of the gradient penalty", low=0)
    reconstruction_loss: str = _loss(
        str,
        "charbonnier",
        "Charbonnier loss of all outputs; or of the image alone plus soft Dice of the label and "
        "classes; or balanced, the three parts below",
        flags=("-rl",),
        choices=RECONSTRUCTIONS,
    )
    nu: float = _loss(
        float, 1e-3, "the Charbonnier loss is quadratic for errors below this", low=0, above=True
    )
    lambda_image: float | None = _loss(
        float, None, "balanced: weight of the image's Charbonnier loss (default: 1)", low=0
    )
    lambda_entropy: float | None = _loss(
        float,
        None,
        "balanced: weight of the binary cross-entropy of label and classes (default: 1)",
        low=0,
    )
    lambda_dice: float | None = _loss(
        float, None, "balanced: weight of their soft Dice loss (default: 1)", low=0
    )

    snapshot_folder: str = _training(
        str, help="folder of the results, see below", flags=("-sf",), metavar="PATH"
    )
    dice_file: str = _training(
        str, help="CSV of the Dice after each epoch", flags=("-dice",), metavar="PATH"
    )
    mse_file: str = _training(
        str,
        help="CSV of the mean squared error after each epoch",
        flags=("-mse",),
        metavar="PATH",
    )
    epoch: int = _training(int, 200, "number of the last epoch", flags=("-e",), low=1)
    init_epoch: int = _training(
        int,
        1,
        "number of the first; above 1 it starts from --weights, or from the snapshot before it",
        flags=("-i",),
        low=1,
    )
    steps: int | None = _training(
        int,
        None,
        "updates of the generator in an epoch (default: as many as give each patch its turn)",
        low=1,
    )
    batch_size: int = _training(
        int, 32, "patches of an update, on all devices together", flags=("-b",), low=1
    )
    snapshot: int = _training(int, 1, "epochs between snapshots", flags=("-s",), low=1)
    lrgen: float = _training(float, 1e-4, "learning rate of the generator", low=0, above=True)
    lrdis: float = _training(float, 1e-4, "learning rate of the discriminator", low=0, above=True)
    schedule: str = _training(
        str,
        "constant",
        "the rates stay, or fall like a cosine to a hundredth in the last epoch",
        choices=SCHEDULES,
    )
    warm_up: int = _training(
        int, 0, "updates of the generator in which the rates rise from a hundredth", low=0
    )
    beta_1: float = _training(float, 0.5, "decay of Adam's mean gradient", low=0, below=1)
    clip_gradient: float | None = _training(
        float,
        None,
        "largest norm of all gradients of a network together (default: any)",
        low=0,
        above=True,
    )
    ema: float = _training(
        float,
        0.0,
        "decay of the moving average of the generator's weights, such as 0.999, which validation "
        "and snapshots then use; 0: none",
        low=0,
        below=1,
    )
    number_of_discriminator_iteration: int = _training(
        int,
        5,
        "updates of the discriminator per update of the generator",
        flags=("--number_of_disciminator_iteration",),
        low=1,
    )
    precision: str = _training(
        str, "float32", "numbers that the networks compute with", choices=TRAINING_PRECISIONS
    )
    seed: int = _training(int, 0, "of all randomness", low=0, high=2**32 - 1)
    resume: bool = _training(
        bool,
        False,
        "go on from the newest state in the snapshot folder; where there is none yet, start as the "
        "other flags say",
    )
    state_minutes: float = _training(
        float,
        20.0,
        "minutes between saved states; each epoch's end has one in any case",
        low=0,
    )
    tensorboard: bool = _training(bool, True, "record for TensorBoard, too")
    multi_gpu: bool = _training(bool, True, "use all GPUs of this computer", flags=("-multi_gpu",))
    workers: str | None = _training(
        str,
        None,
        "all processes that train together, the chief first (default: what TF_CONFIG says)",
        metavar="HOST:PORT,...",
    )
    worker_index: int | None = _training(
        int, None, "number of this process among the workers, from 0", low=0
    )

    def __post_init__(self):
        check(self, "--")
        _fill_in(self)
        for agree in (_check_resolution, _check_patch, _check_epochs, _check_losses):
            agree(self)
        for agree in (_check_paths, _check_synthetic, _check_network, check_workers):
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
    dependent = (
        (
            s.synthetic is not None,
            SYNTHETIC,
            "say how images are made from label maps, and there are none; name their CSV with "
            "--synthetic, or leave this out",
        ),
        (
            s.draws,
            DRAWN,
            "says how patches are drawn, and none is; add --synthetic or --image_patches drawn, "
            "or leave this out",
        ),
        (
            s.image_patches == "drawn",
            IMAGES_DRAWN,
            "say how patches of images are drawn; add --image_patches drawn, or leave this out",
        ),
        (
            s.reconstruction_loss == "balanced",
            BALANCED,
            "weigh the parts of the balanced loss; add --reconstruction_loss balanced, or leave "
            "this out",
        ),
    )
    for active, defaults, reason in dependent:
        given = [flag_of(name) for name in defaults if getattr(s, name) is not None]
        if given and not active:
            raise UserError(f"{', '.join(given)}: {reason}")
        for name, value in defaults.items():
            if active and getattr(s, name) is None:
                object.__setattr__(s, name, value)


def _check_resolution(s):
    if any(low > high for low, high in zip(s.low_res, s.low_res_upper, strict=True)):
        raise UserError(
            "the first --new_low_res is the lower bound, received "
            f"{s.low_res} and {s.low_res_upper}; swap them"
        )


def _check_patch(s):
    size = s.patch_size
    if size % 4:
        raise UserError(
            f"--patch_size must be divisible by 4, received {size}; "
            f"try {max(_MIN_PATCH, size - size % 4)}"
        )
    if s.lambadv and (size < _MIN_DISCRIMINATOR_PATCH or size & (size - 1)):
        raise UserError(
            "--patch_size must be a power of two from 16 up, because the discriminator halves it "
            f"until 2 voxels are left, received {size}; take 32, 64 or 128, or --lambadv 0 to "
            "train without a discriminator"
        )


def _check_epochs(s):
    if s.init_epoch > s.epoch:
        raise UserError(
            f"--init_epoch {s.init_epoch} lies beyond the last epoch, --epoch {s.epoch}"
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
    files = {
        "--csv": s.csv,
        **({"--synthetic": s.synthetic} if s.synthetic is not None else {}),
        "--dice_file": s.dice_file,
        "--mse_file": s.mse_file,
        "the history": os.path.join(s.snapshot_folder, "history.csv"),
    }
    seen = {}
    for flag, path in files.items():
        other = seen.setdefault(os.path.realpath(path), flag)
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


def _check_synthetic(s):
    for name in ("synthetic_thickness", "image_power"):
        if getattr(s, name) is not None:
            check_bounds(getattr(s, name), f"--{name}")
    if s.draws and s.fit_mask:
        source = f"--synthetic {s.synthetic}" if s.synthetic else "--image_patches drawn"
        raise UserError(
            "--fit_mask learns classes that drawn patches do not have, received "
            f"{source} as well; leave one of them out"
        )
    for name in ("cortex_labels", "label_values"):
        if getattr(s, name) is not None:
            whole_numbers(getattr(s, name), f"--{name}", low=1)


def _check_network(s):
    if s.scaled_residual and s.is_residual is False:
        raise UserError(
            "--scaled_residual True needs a residual network, received --is_residual False; "
            "leave one of them out"
        )
    if s.head_gen is not None and s.head_gen % 2 == 0:
        raise UserError(f"--head_gen must be odd, received {s.head_gen}; try 3 or 7")
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


def check_workers(s):
    """Raises `UserError` unless `workers` and `worker_index` of settings go together."""
    if (s.workers is None) != (s.worker_index is None):
        raise UserError(
            "--workers and --worker_index go together: all workers, and the number of this one; "
            f"received {s.workers!r} and {s.worker_index!r}"
        )
    if s.workers is None:
        return
    workers = [worker.strip() for worker in s.workers.split(",")]
    for worker in workers:
        host, _, port = worker.rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise UserError(
                f"--workers must be host:port,host:port and so on, received {worker!r} in "
                f"{s.workers!r}; try node1:12345,node2:12345"
            )
    if len(set(workers)) < len(workers):
        raise UserError(f"--workers names a worker twice, received {s.workers!r}")
    if s.worker_index >= len(workers):
        raise UserError(
            f"--worker_index must be from 0 to {len(workers) - 1}, the chief's being 0, received "
            f"{s.worker_index}"
        )
