# SPDX-License-Identifier: MIT
"""Which engine computes: the fastest one whose answer is the plain network's."""

import logging
import time
from dataclasses import asdict, dataclass
from functools import cached_property

import segsrgan
from segsrgan.errors import UserError, one_line
from segsrgan.inference.agreement import Agreement, compare, plain_output, sample_patch
from segsrgan.inference.engines import ENGINES, engine_module
from segsrgan.inference.engines.remembered import digest, processor, recall, remember
from segsrgan.networks import simplified

logger = logging.getLogger(__name__)

# bfloat16 only when it is asked for.
_AUTO_PRECISIONS = ("float32", "float16")
# What Keras itself runs on; it needs no check.
_TRUSTED = ("tensorflow", "float32")
# The shortest of so many runs that take so many seconds, since other jobs may disturb some.
_RUNS, _SECONDS = 3, 1.0


@dataclass(frozen=True)
class _Candidate:
    engine: str
    precision: str

    def __str__(self):
        return f"{self.engine} {self.precision}"

    @property
    def trusted(self):
        return (self.engine, self.precision) == _TRUSTED


@dataclass(frozen=True)
class _Measured:
    agreement: Agreement
    seconds: float

    def __str__(self):
        return f"{self.seconds:.2f} s, {self.agreement}"


def choose(name, model, threads=None, precision="auto"):
    """Builds the engine that is asked for, or the best one.

    Each candidate computes one patch and is compared with the plain network in float32. What came
    out is remembered per weights, versions and processor. An engine that was asked for by name
    is taken even if it does not agree; then a warning says so.

    Arguments, result and errors as of `segsrgan.inference.engines.make_engine`.
    """
    candidates, absent = _candidates(name, precision)
    if not hasattr(model, "spec"):  # not of `build_generator`: nothing is known about it
        return _take_unknown(candidates, model, threads)
    trial = _Trial(model, threads)
    if len(candidates) == 1 and candidates[0].trusted:
        _say(candidates[0], absent or ["asked for"])
        return trial.engine(candidates[0])
    results = {}
    for candidate in candidates:
        try:
            results[candidate] = trial.measure(candidate)
        except Exception as error:  # whatever a runtime raises on a machine it does not like
            if candidate == candidates[-1] and not results:
                raise
            logger.warning("engine %s fails: %s", candidate, one_line(error))
            logger.debug("engine %s", candidate, exc_info=error)
    chosen = _best(results)
    reasons = [f"{candidate} {measured}" for candidate, measured in results.items()]
    _say(chosen, [*reasons, *absent])
    if not results[chosen].agreement.holds():
        logger.warning("%s is not close to the plain network in float32, but was asked for", chosen)
    return trial.engine(chosen)


def _candidates(name, precision):
    """What can run here, and why the others cannot."""
    candidates, absent = [], []
    wanted = _AUTO_PRECISIONS if precision == "auto" else (precision,)
    for engine in ENGINES if name == "auto" else (name,):
        module = engine_module(engine)
        try:
            module.check_available()
        except UserError as error:
            absent.append(str(error))
            continue
        offered = module.precisions()
        candidates += [_Candidate(engine, one) for one in wanted if one in offered]
        if precision not in ("auto", *offered):
            absent.append(f"{engine} computes {', '.join(offered)} on this machine")
    if not candidates:
        request = f"engine {name}" + (f" with {precision}" if precision != "auto" else "")
        raise UserError(f"{request} cannot run here: {'; '.join(absent)}")
    return candidates, absent


def _take_unknown(candidates, model, threads):
    candidate = next((one for one in candidates if one.trusted), candidates[0])
    return engine_module(candidate.engine).make(model, candidate.precision, threads)


def _best(results):
    """The fastest that agrees, else what comes nearest; TensorFlow's float32 always agrees."""
    good = [one for one in results if one.trusted or results[one].agreement.holds()]
    if good:
        return min(good, key=lambda one: results[one].seconds)
    return max(results, key=lambda one: results[one].agreement.psnr)


def _say(candidate, reasons):
    logger.info("engine: %s (%s)", candidate, "; ".join(reasons))


class _Trial:
    """Candidates on one model; what was built is kept for the one that is taken."""

    def __init__(self, model, threads):
        self._model = model
        self._threads = threads
        self._engines = {}

    def engine(self, candidate):
        if candidate not in self._engines:
            module = engine_module(candidate.engine)
            self._engines[candidate] = module.make(
                self._simplified, candidate.precision, self._threads
            )
        return self._engines[candidate]

    def measure(self, candidate):
        """What is remembered of a candidate, or measured now."""
        key = self._key(candidate)
        entry = recall(key)
        try:
            return _Measured(Agreement(**entry["agreement"]), float(entry["seconds"]))
        except (TypeError, KeyError, ValueError):  # nothing is remembered, or it is damaged
            pass
        engine, seconds = self.engine(candidate), []
        agreement = compare(self._reference, engine.predict_batch(self._patch, None))
        while len(seconds) < _RUNS or sum(seconds) < _SECONDS:
            start = time.perf_counter()
            engine.predict_batch(self._patch, None)
            seconds.append(time.perf_counter() - start)
        measured = _Measured(agreement, min(seconds))
        remember(key, {"what": str(candidate), **asdict(measured)})
        return measured

    def _key(self, candidate):
        version = engine_module(candidate.engine).version()
        parts = str(candidate), version, segsrgan.__version__, processor(), str(self._threads)
        return digest(*parts, self._weights_digest)

    @cached_property
    def _simplified(self):
        return simplified(self._model)

    @cached_property
    def _patch(self):
        return sample_patch()

    @cached_property
    def _reference(self):
        return plain_output(self._model, self._patch)

    @cached_property
    def _weights_digest(self):
        arrays = [array.tobytes() for array in self._model.get_weights()]
        return digest(repr(self._model.spec), *arrays)
