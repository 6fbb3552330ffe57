# SPDX-License-Identifier: MIT
"""All settings of a training of SuperMask, checked; needs neither NumPy nor Keras."""

from dataclasses import dataclass

from segsrgan.config import TRAINING_PRECISIONS, check, setting
from segsrgan.training.configuration import check_workers

TRAINED = ("both", "segmentor", "alignnet")
SUPERVISIONS = ("none", "masks", "transforms")
THROUGH = ("nearest", "linear")
# The paper's grid of 256^3 voxels is moved by up to 30.
_PAPER_SHIFT = 30 / 256


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the flags of `supermask-train` say; the names and the meaning are theirs.

    The defaults are the paper's (Gu et al. 2023, section 3.4) on the grid of its public code, 128^3
    voxels of 2 mm; the 256^3 voxels of 1 mm in its text do not fit on the GPUs that it names.

    Raises:
        ValueError: if a value is none of those possible, or two contradict each other.
    """

    csv: str | None = setting(str, None)
    synthetic_cases: str | None = setting(str, None)
    labels: str | None = setting(str, None)
    repeats: int = setting(int, 4, low=1)
    slices: float = setting(float, 8.0, low=0, above=True)
    test_share: float = setting(float, 0.2, low=0, below=1)
    grid_size: int = setting(int, 128, low=8)
    spacing: float = setting(float, 2.0, low=0, above=True)
    through: str = setting(str, "nearest", choices=THROUGH)
    rotation: float = setting(float, 45.0, low=0, high=90)
    pose: float | None = setting(float, None, low=0, high=180)
    shift: float | None = setting(float, None, low=0)
    contrast_max: float = setting(float, 0.0, low=0, below=1)
    noise: float = setting(float, 0.0, low=0)
    orientations: int = setting(int, 1, low=1)

    train: str = setting(str, "both", choices=TRAINED)
    kernel: int = setting(int, 32, low=1)
    levels: int = setting(int, 3, low=1)
    alignnet_kernels: str = setting(str, "16,32,64")
    hidden: int = setting(int, 32, low=1)
    largest_angle: float = setting(float, 45.0, low=0, above=True, high=90)
    largest_shift: float = setting(float, 0.5, low=0, above=True)
    antisymmetric: bool = setting(bool, True)
    weights: str | None = setting(str, None)

    snapshot_folder: str | None = setting(str, None)
    stage1_epochs: int = setting(int, 40, low=0)
    stage2_epochs: int = setting(int, 60, low=0)
    steps: int | None = setting(int, None, low=1)
    batch_size: int = setting(int, 2, low=1)
    lr1: float = setting(float, 1e-3, low=0, above=True)
    lr2: float = setting(float, 1e-4, low=0, above=True)
    decay: float = setting(float, 0.9, low=0, above=True, high=1)
    decay_every: int = setting(int, 200, low=1)
    window: int = setting(int, 15, low=3)
    supervised_alignment: str = setting(str, "none", choices=SUPERVISIONS)
    lambda_sim: float = setting(float, 1.0, low=0)
    lambda1: float = setting(float, 0.1, low=0)
    lambda2: float = setting(float, 0.05, low=0)
    lambda_transform: float = setting(float, 1.0, low=0)
    alpha1: float = setting(float, 0.05, low=0)
    alpha2: float = setting(float, 0.05, low=0)
    precision: str = setting(str, "float32", choices=TRAINING_PRECISIONS)
    seed: int = setting(int, 0, low=0, high=2**32 - 1)
    resume: bool = setting(bool, False)
    snapshot: int = setting(int, 10, low=1)
    state_minutes: float = setting(float, 20.0, low=0)
    tensorboard: bool = setting(bool, True)
    multi_gpu: bool = setting(bool, True)
    workers: str | None = setting(str, None)
    worker_index: int | None = setting(int, None, low=0)

    def __post_init__(self):
        check(self, "--")
        for agree in (_check_grid, _check_epochs, _check_losses, check_workers):
            agree(self)
        _ = self.filters, self.label_values  # say what is wrong with them

    @property
    def epochs(self):
        """The last epoch's number: those of stage 2 follow those of stage 1."""
        return self.stage1_epochs + self.stage2_epochs

    @property
    def largest_motion(self):
        """The bound of the random shifts, voxels of the grid."""
        return _PAPER_SHIFT * self.grid_size if self.shift is None else self.shift

    @property
    def filters(self):
        """The channels of AlignNet's convolutions, a tuple."""
        return _numbers(self.alignnet_kernels, "--alignnet_kernels", "16,32,64", 1)

    @property
    def label_values(self):
        """The values of masks that make the object, a tuple; None: every one but 0."""
        return None if self.labels is None else _numbers(self.labels, "--labels", "3,42", None)

    @property
    def trains_segmentor(self):
        """Whether the segmentor is trained."""
        return self.train != "alignnet"

    @property
    def trains_alignnet(self):
        """Whether AlignNet is trained."""
        return self.train != "segmentor"


def _numbers(text, flag, example, low):
    try:
        values = tuple(int(word) for word in text.replace(",", " ").split())
    except ValueError:
        values = ()
    if not values or (low is not None and min(values) < low):
        kind = "whole numbers" if low is None else f"whole numbers from {low} up"
        raise ValueError(f"{flag} must be {kind} by comma, received {text!r}; try {example}")
    return values


def _check_grid(s):
    size, multiple = s.grid_size, 2 ** (s.levels - 1)
    if s.trains_segmentor and size % multiple:
        raise ValueError(
            f"--grid_size must be divisible by {multiple}, since the segmentor halves it "
            f"{s.levels - 1} times, received {size}; try {size + -size % multiple}"
        )
    left = size // 2
    for _ in s.filters:
        left = (left - 4) // 2
    if s.trains_alignnet and left < 1:
        raise ValueError(
            f"--grid_size {size} leaves nothing after the {len(s.filters)} convolutions of "
            f"--alignnet_kernels {s.alignnet_kernels}; take {_smallest(len(s.filters))} or more, "
            "or fewer kernels"
        )
    if s.window % 2 == 0:
        raise ValueError(f"--window must be odd, received {s.window}; try {s.window + 1}")
    if s.synthetic_cases and s.slices <= s.spacing:
        raise ValueError(
            f"--slices must be thicker than the grid's --spacing {s.spacing:g}, received "
            f"{s.slices:g}; take a smaller spacing"
        )


def _smallest(convolutions):
    """The edge of the smallest grid that so many convolutions leave a voxel of."""
    left = 1
    for _ in range(convolutions):
        left = 2 * left + 4
    return 2 * left


def _check_epochs(s):
    if s.epochs < 1:
        raise ValueError("--stage1_epochs and --stage2_epochs are both 0: nothing to train")
    if s.stage2_epochs and s.train != "both":
        raise ValueError(
            f"stage 2 trains both networks, received --train {s.train} and --stage2_epochs "
            f"{s.stage2_epochs}; add --stage2_epochs 0"
        )


def _check_losses(s):
    supervision = {"none": 0, "masks": s.lambda2, "transforms": s.lambda_transform}
    if s.trains_alignnet and s.lambda_sim == 0 and not supervision[s.supervised_alignment]:
        raise ValueError(
            "--lambda_sim is 0 and --supervised_alignment has no weight, which leaves AlignNet "
            "nothing to learn"
        )
