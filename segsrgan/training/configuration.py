# SPDX-License-Identifier: MIT
"""All settings of a training, checked, and their file; needs neither NumPy nor Keras."""

import os
from dataclasses import dataclass

from segsrgan.config import (
    INTERPOLATION_TYPES,
    INTERPS,
    TRAINING_PRECISIONS,
    check,
    check_bounds,
    setting,
    whole_numbers,
)

CROPPINGS = ("bounding_box", "overlapping_with_mask")
RECONSTRUCTIONS = ("charbonnier", "dice")
REPEAT = "segsrgan train --config THIS_FILE --snapshot_folder … --dice_file … --mse_file …"
# How a label map is divided into tissues.
TISSUES = ("freesurfer", "fetal", "own")
# What is taken where --synthetic is given and these are not.
SYNTHETIC = {
    "synthetic_ratio": 0.5,
    "synthetic_thickness": (1.5, 7.0),
    "cortex_labels": "3,42",
    "tissues": "freesurfer",
}
# Below it two stride-2 levels leave too little to pad by reflection.
_MIN_PATCH = 8
_MIN_DISCRIMINATOR_PATCH = 16


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the flags of `SegSRGAN_training.py` say; the names and the meaning are theirs.

    `low_res` and `low_res_upper` are the bounds of `--new_low_res`, mm. Network settings of None
    are those of `weights`, or of a fresh network. Paths may be relative to the current folder.

    Raises:
        ValueError: if a value is none of those possible, or two contradict each other.
    """

    csv: str = setting(str)
    base_path: str = setting(str, "")
    low_res: tuple = setting(float, low=0, above=True, count=3, title="--new_low_res")
    low_res_upper: tuple = setting(
        float, low=0, above=True, count=3, title="the second --new_low_res"
    )
    slice_thickness: float | None = setting(float, None, low=0, above=True)
    contrast_max: float = setting(float, 0.5, low=0, below=1)
    percent_val_max: float = setting(float, 0.03, low=0)
    patch_size: int = setting(int, 64, low=_MIN_PATCH)
    stride: int = setting(int, 20, low=1)
    interp: str | None = setting(str, None, choices=INTERPS)
    interpolation_type: str = setting(str, "Spline", choices=INTERPOLATION_TYPES)
    image_cropping_method: str = setting(str, "bounding_box", choices=CROPPINGS)
    fit_mask: bool = setting(bool, False)
    flip: bool = setting(bool, True)
    rotation: float = setting(float, 0.0, low=0, high=180)
    elastic: float = setting(float, 0.0, low=0)
    images_in_memory: int = setting(int, 8, low=1)
    folder_training_data: str | None = setting(str, None)
    keep_training_data: bool = setting(bool, False)

    synthetic: str | None = setting(str, None)
    synthetic_ratio: float | None = setting(float, None, low=0, above=True, high=1)
    synthetic_thickness: tuple | None = setting(float, None, low=1, count=2)
    cortex_labels: str | None = setting(str, None)
    tissues: str | None = setting(str, None, choices=TISSUES)

    kernel_gen: int | None = setting(int, None, low=1)
    kernel_dis: int | None = setting(int, None, low=1)
    u_net_generator: bool | None = setting(bool, None)
    is_conditional: bool | None = setting(bool, None)
    is_residual: bool | None = setting(bool, None)
    scaled_residual: bool | None = setting(bool, None)
    blocks_gen: int | None = setting(int, None, low=1)
    growth_gen: int | None = setting(int, None, low=1)
    head_gen: int | None = setting(int, None, low=1)
    slice_voxels: int | None = setting(int, None, low=0)
    weights: str | None = setting(str, None)

    snapshot_folder: str = setting(str)
    dice_file: str = setting(str)
    mse_file: str = setting(str)
    epoch: int = setting(int, 200, low=1)
    init_epoch: int = setting(int, 1, low=1)
    batch_size: int = setting(int, 32, low=1)
    snapshot: int = setting(int, 1, low=1)
    lrgen: float = setting(float, 1e-4, low=0, above=True)
    lrdis: float = setting(float, 1e-4, low=0, above=True)
    lambrec: float = setting(float, 1.0, low=0)
    lambadv: float = setting(float, 0.001, low=0)
    lambgp: float = setting(float, 100.0, low=0)
    number_of_discriminator_iteration: int = setting(int, 5, low=1)
    reconstruction_loss: str = setting(str, "charbonnier", choices=RECONSTRUCTIONS)
    precision: str = setting(str, "float32", choices=TRAINING_PRECISIONS)
    seed: int = setting(int, 0, low=0, high=2**32 - 1)
    resume: bool = setting(bool, False)
    state_minutes: float = setting(float, 20.0, low=0)
    tensorboard: bool = setting(bool, True)
    multi_gpu: bool = setting(bool, True)
    workers: str | None = setting(str, None)
    worker_index: int | None = setting(int, None, low=0)

    def __post_init__(self):
        check(self, "--")
        if self.synthetic is not None:
            for name, value in SYNTHETIC.items():
                if getattr(self, name) is None:
                    object.__setattr__(self, name, value)
        for agree in (_check_resolution, _check_patch, _check_epochs, _check_losses):
            agree(self)
        for agree in (_check_paths, _check_synthetic, _check_network, check_workers):
            agree(self)


def flag_of(name):
    """The flag of a setting, as messages name it."""
    bounds = {"low_res": "--new_low_res", "low_res_upper": "the second --new_low_res"}
    return bounds.get(name, f"--{name}")


def _check_resolution(s):
    if any(low > high for low, high in zip(s.low_res, s.low_res_upper, strict=True)):
        raise ValueError(
            "the first --new_low_res is the lower bound, received "
            f"{s.low_res} and {s.low_res_upper}; swap them"
        )


def _check_patch(s):
    size = s.patch_size
    if size % 4:
        raise ValueError(
            f"--patch_size must be divisible by 4, received {size}; "
            f"try {max(_MIN_PATCH, size - size % 4)}"
        )
    if s.lambadv and (size < _MIN_DISCRIMINATOR_PATCH or size & (size - 1)):
        raise ValueError(
            "--patch_size must be a power of two from 16 up, because the discriminator halves it "
            f"until 2 voxels are left, received {size}; take 32, 64 or 128, or --lambadv 0 to "
            "train without a discriminator"
        )


def _check_epochs(s):
    if s.init_epoch > s.epoch:
        raise ValueError(
            f"--init_epoch {s.init_epoch} lies beyond the last epoch, --epoch {s.epoch}"
        )


def _check_losses(s):
    if s.lambrec == 0 and s.lambadv == 0:
        raise ValueError("--lambrec and --lambadv are both 0, which leaves nothing to learn")


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
            raise ValueError(f"{other} and {flag} are both {path}; each needs a file of its own")
    if s.keep_training_data and s.folder_training_data is None:
        raise ValueError(
            "--keep_training_data says to keep the files in --folder_training_data; name it too"
        )
    cache = s.folder_training_data and os.path.realpath(s.folder_training_data)
    if cache == os.path.realpath(s.snapshot_folder):
        raise ValueError(
            "--folder_training_data is emptied at the end and cannot be --snapshot_folder, "
            f"received {s.folder_training_data} for both; name another folder"
        )


def _check_synthetic(s):
    if s.synthetic is None:
        alone = [flag_of(name) for name in SYNTHETIC if getattr(s, name) is not None]
        if alone:
            raise ValueError(
                f"{', '.join(alone)}: say how images are made from label maps, and there are none; "
                "name their CSV with --synthetic, or leave this out"
            )
        return
    if s.fit_mask:
        raise ValueError(
            "--fit_mask learns classes that label maps do not tell, received --synthetic "
            f"{s.synthetic} as well; leave one of them out"
        )
    check_bounds(s.synthetic_thickness, "--synthetic_thickness")
    whole_numbers(s.cortex_labels, "--cortex_labels", low=1)


def _check_network(s):
    if s.scaled_residual and s.is_residual is False:
        raise ValueError(
            "--scaled_residual True needs a residual network, received --is_residual False; "
            "leave one of them out"
        )
    if s.head_gen is not None and s.head_gen % 2 == 0:
        raise ValueError(f"--head_gen must be odd, received {s.head_gen}; try 3 or 7")
    if s.slice_voxels not in (None, 0, 2, 4):
        raise ValueError(f"--slice_voxels must be 0, 2 or 4, received {s.slice_voxels}; try 4")
    if s.slice_voxels and s.low_res != s.low_res_upper:
        raise ValueError(
            "--slice_voxels needs images of one slice distance, received --new_low_res "
            f"{s.low_res} to {s.low_res_upper}; name one, or take --slice_voxels 0"
        )


def check_workers(s):
    """Raises `ValueError` unless `workers` and `worker_index` of settings go together."""
    if (s.workers is None) != (s.worker_index is None):
        raise ValueError(
            "--workers and --worker_index go together: all workers, and the number of this one; "
            f"received {s.workers!r} and {s.worker_index!r}"
        )
    if s.workers is None:
        return
    workers = [worker.strip() for worker in s.workers.split(",")]
    for worker in workers:
        host, _, port = worker.rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(
                f"--workers must be host:port,host:port and so on, received {worker!r} in "
                f"{s.workers!r}; try node1:12345,node2:12345"
            )
    if len(set(workers)) < len(workers):
        raise ValueError(f"--workers names a worker twice, received {s.workers!r}")
    if s.worker_index >= len(workers):
        raise ValueError(
            f"--worker_index must be from 0 to {len(workers) - 1}, the chief's being 0, received "
            f"{s.worker_index}"
        )
