# SPDX-License-Identifier: MIT
"""A whole training, from its settings to its snapshots."""

import logging
from dataclasses import replace

import keras

from segsrgan.errors import UserError
from segsrgan.training.session import Session
from supermask.networks import Networks
from supermask.training.dataset import Dataset
from supermask.training.examinations import gather
from supermask.training.learners import build_learners

logger = logging.getLogger(__name__)


def run(settings, progress=None, stop=None):
    """Trains networks on the files that settings name, into their snapshot folder.

    `progress` and `stop` are those of `fit`, and so are the errors. Returns the last row of the
    history, a dict; None if stopped before the end of an epoch.
    """
    return _Training(settings, lambda: gather(settings)).run(progress, stop)[0]


def fit(cases, settings, folder, test=(), progress=None, stop=None):
    """Trains networks on examinations in memory.

    Args:
        cases: sequence of `Examination` or of simulated `Case`s: each has `views` with masks, and
            `transforms`, the true ones from the reference to each view, or None.
        settings: a `TrainingSettings`; its data and folder do not count.
        folder: of snapshots, history and states; with `settings.resume` the training goes on.
        test: sequence of examinations to be scored after each epoch; `SuperMask_best` needs them.
        progress: called with (label, done, total, text) after each cycle.
        stop: function that says whether to stop after the current cycle, with the state saved.

    Returns:
        `Networks`: the segmentor and AlignNet as the training left them, and the last row of the
        history in their `metadata["history"]`. `supermask.predict` takes them as `weights`,
        `supermask.prediction.predict_views` as `networks`, `supermask.networks.save_networks`
        writes them. A training stopped before its end gives them as they were then.

    Raises:
        WeightsError: if `weights` are unusable.
        StateError: if the training to resume cannot be gone on with.
        TrainingError: if the training cannot go on.
        UserError, OSError: if the settings contradict each other or a folder cannot be written.

    Examples:
        >>> cases = [simulate(image, mask, rng, Simulation(spacing=3.0)) for ...]
        >>> settings = TrainingSettings(grid_size=48, spacing=3.0, kernel=8, window=7)
        >>> networks = fit(cases[:-2], settings, "run", test=cases[-2:])
        >>> result = supermask.predict(["axial.nii.gz", "sagittal.nii.gz"], weights=networks)
    """
    settings = replace(settings, snapshot_folder=str(folder), csv=None, synthetic_cases=None)
    training = _Training(settings, lambda: (list(cases), list(test)))
    row, learners = training.run(progress, stop)
    if learners is None:
        raise UserError(
            f"{folder}: all epochs are done already, and this worker has built no networks; "
            "load its SuperMask_epoch_<n>, or call fit without workers"
        )
    return Networks(learners.segmentor, learners.alignnet, {"history": row})


class _Training(Session):
    """See `run`; `load` is a function that returns training and test examinations."""

    name = "SuperMask"
    repeat = "supermask-train --config THIS_FILE --snapshot_folder …"
    paths = ("csv", "synthetic_cases", "snapshot_folder")
    free = frozenset({"stage2_epochs"})
    shown = (("S", "segmentor_loss"), ("A", "alignnet_loss"))
    smaller = "--batch_size or --grid_size"
    start_hint = "start from them with --weights"

    def __init__(self, settings, load):
        super().__init__(settings)
        self._load = load

    @property
    def epochs(self):
        """See `Session`."""
        return range(1, self.settings.epochs + 1)

    def run(self, progress=None, stop=None):
        """See `Session`."""
        if keras.backend.backend() != "tensorflow":
            raise UserError(
                f"training needs KERAS_BACKEND=tensorflow, received {keras.backend.backend()}"
            )
        return super().run(progress, stop)

    def load(self):
        """See `Session`."""
        from tensorflow import config

        if self.settings.precision == "mixed_float16" and not config.list_physical_devices("GPU"):
            raise UserError(
                "--precision mixed_float16 needs a GPU; take mixed_bfloat16, or float32"
            )
        self._train, self._test = self._load()

    def loop(self, distribution, state, stack):
        """See `Session`."""
        from supermask.training.loop import Loop, Step

        settings, data = self.settings, self._data(distribution)
        with distribution.scope():
            learners = build_learners(settings, data[0].cycles(1), state)
        loop = Loop(learners, Step(learners, distribution), *data)
        loop.settings = settings
        return loop

    def _data(self, distribution):
        """The `Dataset` of the training, and that of the tests, if there is one."""
        s, train, test = self.settings, self._train, self._test
        data = Dataset(train, s, (distribution.index, distribution.workers))
        if s.trains_alignnet and not data.pairs:
            raise UserError(
                "AlignNet needs patients with two views at least, received none; add --train "
                "segmentor --stage2_epochs 0 to do without it"
            )
        # One device validates.
        part = replace(s, batch_size=s.batch_size // distribution.replicas)
        scored = Dataset(test, part) if test else None
        logger.info(
            "%d training and %d test patients with %d and %d views; %d cycles in an epoch",
            len(train),
            len(test),
            len(data.singles),
            len(scored.singles) if scored else 0,
            data.cycles(1),
        )
        _warn(s, train)
        return data, scored


def _warn(settings, train):
    """Points out settings that are allowed, but hardly meant."""
    if settings.trains_alignnet and settings.rotation > settings.largest_angle:
        logger.warning(
            "--rotation %g is beyond the angles that AlignNet can answer, --largest_angle %g",
            settings.rotation,
            settings.largest_angle,
        )
    unknown = sum(item.transforms is None for item in train)
    if settings.trains_alignnet and settings.supervised_alignment == "transforms" and unknown:
        logger.warning(
            "the true transforms of %d of %d training patients are not known; AlignNet learns "
            "nothing from their transforms",
            unknown,
            len(train),
        )
    if not settings.stage1_epochs and not settings.weights:
        logger.warning("stage 2 begins with untrained networks; name --weights or --stage1_epochs")
