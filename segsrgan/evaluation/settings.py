# SPDX-License-Identifier: MIT
"""How cases are measured."""

from dataclasses import dataclass

from segsrgan.errors import UserError
from segsrgan.evaluation.metrics import ALIASES, METRICS


@dataclass(frozen=True)
class Settings:
    """How cases are measured.

    Attributes:
        metrics: names of `METRICS` or `ALIASES`, which become those of `METRICS`, in the order of
            the columns; None: all that the files allow.
        labels: values of the reference label that make the class; None: every value but 0.
        predicted_labels: likewise of the predicted label.
        threshold: probability from which a voxel belongs to the class, in (0, 1].
        resample: whether a prediction or mask of another grid is resampled onto the reference's,
            and not refused.

    Raises:
        UserError: if a metric is unknown or given twice, or the threshold out of range.
    """

    metrics: tuple[str, ...] | None = None
    labels: tuple[int, ...] | None = None
    predicted_labels: tuple[int, ...] | None = None
    threshold: float = 0.5
    resample: bool = False

    def __post_init__(self):
        for name in ("metrics", "labels", "predicted_labels"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, (tuple, list)):
                raise UserError(f"{name} must be a tuple, received {value!r}; try ({value!r},)")
        if not 0 < self.threshold <= 1:
            raise UserError(
                f"threshold must be above 0 and at most 1, received {self.threshold:g}; try 0.5"
            )
        names = tuple(ALIASES.get(name, name) for name in self.metrics or ())
        object.__setattr__(self, "metrics", names or None)
        for name in names:
            if name not in METRICS:
                raise UserError(
                    f"metrics must be some of {', '.join([*METRICS, *ALIASES])}, received {name!r}"
                )
        if len(set(names)) < len(names):
            raise UserError(f"metrics must differ, received {', '.join(names)}")

    def columns(self, cases):
        """What is measured of at least one of the cases, in the order of the table.

        Args:
            cases: a list of `Case`.

        Returns:
            A list of `Metric`; those of images are followed by the baseline's, if there is one.

        Raises:
            UserError: if a metric was asked for that no case has the files for.
        """
        kinds = {kind for case in cases for kind in case.kinds}
        baseline = any(case.baseline for case in cases)
        chosen = [METRICS[name] for name in self.metrics or METRICS]
        for metric in chosen:
            if self.metrics and metric.kind not in kinds:
                raise UserError(
                    f"{metric.name} compares {metric.kind}s, but no case has both {metric.kind} "
                    f"and reference_{metric.kind}; leave it out of the metrics"
                )
        columns = []
        for metric in chosen:
            if metric.kind in kinds:
                columns += [metric, *metric.beside()] if baseline else [metric]
        return columns
