# SPDX-License-Identifier: MIT
"""All settings of a training of SuperMask, checked; needs neither NumPy nor Keras."""

from dataclasses import dataclass
from functools import partial

from segsrgan.config import TRAINING_PRECISIONS, check, setting, whole_numbers
from segsrgan.training.settings import check_workers

TRAINED = ("both", "segmentor", "alignnet")
SUPERVISIONS = ("none", "masks", "transforms")
THROUGH = ("nearest", "linear")
# The paper's grid of 256^3 voxels is moved by up to 30.
_PAPER_SHIFT = 30 / 256

_data = partial(setting, group="data")
_network = partial(setting, group="networks")
_training = partial(setting, group="training")


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """What the flags of `supermask-train` say; the names and the meaning are theirs.

    The defaults are the paper's (Gu et al. 2023, section 3.4) on the grid of its public code, 128^3
    voxels of 2 mm; the 256^3 voxels of 1 mm in its text do not fit on the GPUs that it names.

    Raises:
        ValueError: if a value is none of those possible, or two contradict each other.
    """

    csv: str | None = _data(str, None, "CSV or folder of patients with masks")
    synthetic_cases: str | None = _data(str, None, "CSV or folder of masks to make patients of")
    labels: str | None = _data(
        str,
        None,
        "values of the masks that make the object, by comma (default: all but 0)",
    )
    repeats: int = _data(int, 4, "examinations made of each synthetic case", low=1)
    slices: float = _data(float, 8.0, "distance of their slices, mm", low=0, above=True)
    test_share: float = _data(
        float,
        0.2,
        "of the synthetic cases, the last ones, where no column says which test",
        low=0,
        below=1,
    )
    grid_size: int = _data(int, 128, "edge of the cubic grid that both networks see, voxels", low=8)
    spacing: float = _data(float, 2.0, "voxel size of that grid, mm", low=0, above=True)
    through: str = _data(
        str,
        "nearest",
        "how slices get onto the grid: the nearest one's values, or between them",
        choices=THROUGH,
    )
    rotation: float = _data(
        float,
        45.0,
        "random motions turn about each axis by up to this, degrees",
        low=0,
        high=90,
    )
    pose: float | None = _data(
        float,
        None,
        "random poses of both views of a pair likewise (default: --rotation)",
        low=0,
        high=180,
    )
    shift: float | None = _data(
        float,
        None,
        "both shift along each by up to this, voxels (default: 30/256 of the grid's edge)",
        low=0,
    )
    contrast_max: float = _data(
        float,
        0.0,
        "intensities are raised to a power within 1 +- this",
        low=0,
        below=1,
    )
    noise: float = _data(
        float,
        0.0,
        "standard deviation of noise on the images, of their range",
        low=0,
    )
    orientations: int = _data(
        int,
        1,
        "cycles in a row that use what was drawn, each time turned by 90 degrees and mirrored "
        "at random: 1 as in the paper; about 6 saves most of the time that drawing takes",
        low=1,
    )

    train: str = _network(str, "both", "which networks", choices=TRAINED)
    kernel: int = _network(int, 32, "channels of the segmentor's first convolution", low=1)
    levels: int = _network(int, 3, "resolutions of the segmentor", low=1)
    alignnet_kernels: str = _network(
        str,
        "16,32,64",
        "channels of AlignNet's convolutions, by comma",
    )
    hidden: int = _network(int, 32, "units of AlignNet's dense layer", low=1)
    largest_angle: float = _network(
        float,
        45.0,
        "bound of AlignNet's angles, degrees",
        low=0,
        above=True,
        high=90,
    )
    largest_shift: float = _network(
        float,
        0.5,
        "bound of its shifts, of half the grid's edge",
        low=0,
        above=True,
    )
    antisymmetric: bool = _network(
        bool,
        True,
        "AlignNet finds no motion between equal images; False: as in the paper",
    )
    weights: str | None = _network(
        str,
        None,
        "weights to start from, a file or a name; their networks keep their sizes",
        flags=("-w",),
    )

    snapshot_folder: str | None = _training(
        str,
        None,
        "folder of the results, see below",
        flags=("-sf",),
    )
    stage1_epochs: int = _training(int, 40, "epochs of stage 1, each network by itself", low=0)
    stage2_epochs: int = _training(int, 60, "epochs of stage 2, with cross-view consistency", low=0)
    steps: int | None = _training(
        int,
        None,
        "cycles in an epoch (default: as many as give each view its turn)",
        low=1,
    )
    batch_size: int = _training(
        int,
        2,
        "images, or pairs, of an update, on all devices together",
        flags=("-b",),
        low=1,
    )
    lr1: float = _training(float, 1e-3, "learning rate of stage 1", low=0, above=True)
    lr2: float = _training(float, 1e-4, "learning rate that stage 2 begins with", low=0, above=True)
    decay: float = _training(
        float,
        0.9,
        "factor of the learning rate in stage 2 ...",
        low=0,
        above=True,
        high=1,
    )
    decay_every: int = _training(int, 200, "... every so many updates", low=1)
    window: int = _training(
        int,
        15,
        "edge of the window of the local cross-correlation, voxels, odd",
        low=3,
    )
    supervised_alignment: str = _training(
        str,
        "none",
        "what AlignNet learns from besides the images: the masks, as in the paper's second "
        "version, or the true transforms, where they are known",
        choices=SUPERVISIONS,
    )
    lambda_sim: float = _training(float, 1.0, "weight of the images' similarity", low=0)
    lambda1: float = _training(
        float,
        0.1,
        "weight of L_ID: equal images stay where they are",
        low=0,
    )
    lambda2: float = _training(float, 0.05, "weight of the masks' similarity", low=0)
    lambda_transform: float = _training(
        float,
        1.0,
        "weight of the distance to the true transforms",
        low=0,
    )
    alpha1: float = _training(float, 0.05, "weight of L_cons1 in the segmentor's loss", low=0)
    alpha2: float = _training(float, 0.05, "weight of L_cons2 in AlignNet's loss", low=0)
    precision: str = _training(
        str,
        "float32",
        "numbers that the networks compute with",
        choices=TRAINING_PRECISIONS,
    )
    seed: int = _training(int, 0, "of all randomness", low=0, high=2**32 - 1)
    resume: bool = _training(
        bool,
        False,
        "go on from the newest state in the snapshot folder; where there is none yet, start "
        "as the other flags say",
    )
    snapshot: int = _training(int, 10, "epochs between snapshots", low=1)
    state_minutes: float = _training(
        float,
        20.0,
        "minutes between saved states; each epoch's end has one in any case",
        low=0,
    )
    tensorboard: bool = _training(bool, True, "record for TensorBoard, too")
    multi_gpu: bool = _training(bool, True, "use all GPUs of this computer")
    workers: str | None = _training(
        str,
        None,
        "all processes that train together, the chief first (default: what TF_CONFIG says)",
    )
    worker_index: int | None = _training(
        int,
        None,
        "number of this process among the workers, from 0",
        low=0,
    )

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
        return whole_numbers(self.alignnet_kernels, "--alignnet_kernels", low=1)

    @property
    def label_values(self):
        """The values of masks that make the object, a tuple; None: every one but 0."""
        return None if self.labels is None else whole_numbers(self.labels, "--labels")

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
