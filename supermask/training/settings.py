# SPDX-License-Identifier: MIT
"""All settings of a training of SuperMask, checked; needs neither NumPy nor Keras."""

from dataclasses import dataclass
from functools import partial

from segsrgan.config import setting
from segsrgan.errors import UserError
from segsrgan.training.settings import RunSettings

TRAINED = ("both", "segmentor", "alignnet")
SUPERVISIONS = ("none", "masks", "transforms")
THROUGH = ("nearest", "linear")
# The paper's grid of 256^3 voxels is moved by up to 30.
_PAPER_SHIFT = 30 / 256

_data = partial(setting, group="data")
_network = partial(setting, group="networks")
_training = partial(setting, group="training")


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(RunSettings):
    """What the flags of `supermask-train` say; the names and the meaning are theirs.

    The defaults are the paper's (Gu et al. 2023, section 3.4) on the grid of its public code, 128^3
    voxels of 2 mm; the 256^3 voxels of 1 mm in its text do not fit on the GPUs that it names.

    Raises:
        UserError: if a value is none of those possible, or two contradict each other.
    """

    csv: str | None = _data(None, "CSV or folder of patients with masks")
    synthetic_cases: str | None = _data(None, "CSV or folder of masks to make patients of")
    labels: tuple[int, ...] | None = _data(
        None, "values of the masks that make the object, by comma (default: all but 0)"
    )
    repeats: int = _data(4, "examinations made of each synthetic case", ">= 1")
    slices: float = _data(8.0, "distance of their slices, mm", "> 0")
    test_share: float = _data(
        0.2, "of the synthetic cases, the last ones, where no column says which test", "[0, 1)"
    )
    grid_size: int = _data(128, "edge of the cubic grid that both networks see, voxels", ">= 8")
    spacing: float = _data(2.0, "voxel size of that grid, mm", "> 0")
    through: str = _data(
        "nearest",
        "how slices get onto the grid: the nearest one's values, or between them",
        choices=THROUGH,
    )
    rotation: float = _data(
        45.0, "random motions turn about each axis by up to this, degrees", "[0, 90]"
    )
    pose: float | None = _data(
        None, "random poses of both views of a pair likewise (default: --rotation)", "[0, 180]"
    )
    shift: float | None = _data(
        None, "both shift along each by up to this, voxels (default: 30/256 of the grid)", ">= 0"
    )
    contrast_max: float = _data(0.0, "intensities are raised to a power within 1 +- this", "[0, 1)")
    noise: float = _data(0.0, "standard deviation of noise on the images, of their range", ">= 0")
    orientations: int = _data(
        1,
        "cycles in a row that use what was drawn, each time turned by 90 degrees and mirrored "
        "at random: 1 as in the paper; about 6 saves most of the time that drawing takes",
        ">= 1",
    )

    train: str = _network("both", "which networks", choices=TRAINED)
    kernel: int = _network(32, "channels of the segmentor's first convolution", ">= 1")
    levels: int = _network(3, "resolutions of the segmentor", ">= 1")
    alignnet_kernels: tuple[int, ...] = _network(
        (16, 32, 64), "channels of AlignNet's convolutions, by comma", ">= 1"
    )
    hidden: int = _network(32, "units of AlignNet's dense layer", ">= 1")
    largest_angle: float = _network(45.0, "bound of AlignNet's angles, degrees", "(0, 90]")
    largest_shift: float = _network(0.5, "bound of its shifts, of half the grid's edge", "> 0")
    antisymmetric: bool = _network(
        True, "AlignNet finds no motion between equal images; False: as in the paper"
    )
    weights: str | None = _network(
        None, "weights to start from, a file or a name; their networks keep their sizes", flag="-w"
    )

    snapshot_folder: str | None = _training(None, "folder of the results, see below", flag="-sf")
    stage1_epochs: int = _training(40, "epochs of stage 1, each network by itself", ">= 0")
    stage2_epochs: int = _training(60, "epochs of stage 2, with cross-view consistency", ">= 0")
    steps: int | None = _training(
        None, "cycles in an epoch (default: as many as give each view its turn)", ">= 1"
    )
    batch_size: int = _training(
        2, "images, or pairs, of an update, on all devices together", ">= 1", flag="-b"
    )
    lr1: float = _training(1e-3, "learning rate of stage 1", "> 0")
    lr2: float = _training(1e-4, "learning rate that stage 2 begins with", "> 0")
    decay: float = _training(0.9, "factor of the learning rate in stage 2 ...", "(0, 1]")
    decay_every: int = _training(200, "... every so many updates", ">= 1")
    window: int = _training(
        15, "edge of the window of the local cross-correlation, voxels, odd", ">= 3"
    )
    supervised_alignment: str = _training(
        "none",
        "what AlignNet learns from besides the images: the masks, as in the paper's second "
        "version, or the true transforms, where they are known",
        choices=SUPERVISIONS,
    )
    lambda_sim: float = _training(1.0, "weight of the images' similarity", ">= 0")
    lambda1: float = _training(0.1, "weight of L_ID: equal images stay where they are", ">= 0")
    lambda2: float = _training(0.05, "weight of the masks' similarity", ">= 0")
    lambda_transform: float = _training(
        1.0, "weight of the distance to the true transforms", ">= 0"
    )
    alpha1: float = _training(0.05, "weight of L_cons1 in the segmentor's loss", ">= 0")
    alpha2: float = _training(0.05, "weight of L_cons2 in AlignNet's loss", ">= 0")
    snapshot: int = _training(10, "epochs between snapshots", ">= 1")

    def __post_init__(self):
        super().__post_init__()
        for agree in (_check_grid, _check_epochs, _check_losses):
            agree(self)

    @property
    def epochs(self):
        """The last epoch's number: those of stage 2 follow those of stage 1."""
        return self.stage1_epochs + self.stage2_epochs

    @property
    def largest_motion(self):
        """The bound of the random shifts, voxels of the grid."""
        return _PAPER_SHIFT * self.grid_size if self.shift is None else self.shift

    @property
    def trains_segmentor(self):
        """Whether the segmentor is trained."""
        return self.train != "alignnet"

    @property
    def trains_alignnet(self):
        """Whether AlignNet is trained."""
        return self.train != "segmentor"


def _check_grid(s):
    size, multiple = s.grid_size, 2 ** (s.levels - 1)
    if s.trains_segmentor and size % multiple:
        raise UserError(
            f"--grid_size must be divisible by {multiple}, since the segmentor halves it "
            f"{s.levels - 1} times, received {size}; try {size + -size % multiple}"
        )
    # Each convolution takes 4 voxels away and halves what is left; one must remain.
    smallest = 10 * 2 ** len(s.alignnet_kernels) - 8
    if s.trains_alignnet and size < smallest:
        kernels = ",".join(map(str, s.alignnet_kernels))
        raise UserError(
            f"--grid_size {size} leaves nothing after the convolutions of --alignnet_kernels "
            f"{kernels}; take {smallest} or more, or fewer kernels"
        )
    if s.window % 2 == 0:
        raise UserError(f"--window must be odd, received {s.window}; try {s.window + 1}")
    if s.synthetic_cases and s.slices <= s.spacing:
        raise UserError(
            f"--slices must be thicker than the grid's --spacing {s.spacing:g}, received "
            f"{s.slices:g}; take a smaller spacing"
        )


def _check_epochs(s):
    if s.epochs < 1:
        raise UserError("--stage1_epochs and --stage2_epochs are both 0: nothing to train")
    if s.stage2_epochs and s.train != "both":
        raise UserError(
            f"stage 2 trains both networks, received --train {s.train} and --stage2_epochs "
            f"{s.stage2_epochs}; add --stage2_epochs 0"
        )


def _check_losses(s):
    supervision = {"none": 0, "masks": s.lambda2, "transforms": s.lambda_transform}
    if s.trains_alignnet and s.lambda_sim == 0 and not supervision[s.supervised_alignment]:
        raise UserError(
            "--lambda_sim is 0 and --supervised_alignment has no weight, which leaves AlignNet "
            "nothing to learn"
        )
