# SPDX-License-Identifier: MIT
"""The training loop: steps, validation, history and snapshots.

The networks' weights after each epoch are `SegSRGAN_epoch_<n>`, a weights file that every
command accepts; `history.csv` gets one row per epoch.
"""

import csv
import logging
import math
import queue
import threading
import time
from pathlib import Path

import numpy as np

from segsrgan.networks import save_generator
from segsrgan.volumes.metrics import dice

logger = logging.getLogger(__name__)


class TrainingError(RuntimeError):
    """The training cannot go on; the message says why and what to try."""


def prefetch(items, depth=4):
    """Yields the items of an iterable, made by a thread while earlier ones are used.

    An exception of the iterable is raised here.
    """
    line = queue.Queue(maxsize=depth)
    stop, end = threading.Event(), object()

    def put(entry):
        while not stop.is_set():
            try:
                return line.put(entry, timeout=0.2)
            except queue.Full:
                continue

    def work():
        try:
            for item in items:
                put((item, None))
                if stop.is_set():
                    return
            put((end, None))
        except BaseException as error:
            put((end, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            item, error = line.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        stop.set()


def validate(predict, batches):
    """Scores of a generator on fixed batches.

    Args:
        predict: function (b, p, p, p, 1) -> (b, p, p, p, 2+).
        batches: iterable of `(lr, target)`.

    Returns:
        dict: `mse` and `psnr` (over all voxels, peak = each patch's maximum) of the prediction,
        `psnr_input` of the interpolated input, `dice` pooled over all voxels, `patch_dice` the
        mean of the patches' (as the paper's section 4.3).
    """
    rows, overlap, total = [], 0, 0
    for lr, target in batches:
        output = np.asarray(predict(lr))
        for x, y, t in zip(lr[..., 0], output, target, strict=True):
            mse, baseline = np.mean((y[..., 0] - t[..., 0]) ** 2), np.mean((x - t[..., 0]) ** 2)
            peak = float(t[..., 0].max()) ** 2
            label, mask = t[..., 1] > 0.5, y[..., 1] > 0.5
            rows.append((mse, _decibel(peak, mse), _decibel(peak, baseline), dice(mask, label)))
            overlap += int(np.count_nonzero(label & mask))
            total += int(np.count_nonzero(label)) + int(np.count_nonzero(mask))
    mse, psnr, psnr_input, patch_dice = np.mean(rows, axis=0)
    return {
        "mse": float(mse),
        "psnr": float(psnr),
        "psnr_input": float(psnr_input),
        "dice": 2 * overlap / total if total else 1.0,
        "patch_dice": float(patch_dice),
    }


def snapshot_path(folder, epoch):
    """Where the weights after an epoch are."""
    return Path(folder) / f"SegSRGAN_epoch_{epoch}"


def _decibel(peak, mse):
    return 10 * math.log10(max(peak, 1e-12) / max(float(mse), 1e-12))


def fit(
    generator,
    step,
    predict,
    batches,
    folder,
    epochs,
    validation,
    first_epoch=1,
    snapshot=1,
    metadata=None,
    on_step=None,
    on_epoch=None,
):
    """Trains a generator and keeps its history and snapshots.

    Args:
        generator: the `keras.Model`.
        step: function `(lr, target) -> loss`, which updates the generator.
        predict: function from a batch to the generator's output.
        batches: function from an epoch's number to an iterable of its `(lr, target)`; the whole
            randomness of the data, so that a run continued at an epoch meets the same batches.
        folder: of the snapshots and `history.csv`.
        epochs: the last epoch's number.
        validation: function to an iterable of batches, see `validate`.
        first_epoch: number of the first epoch, above 1 to go on.
        snapshot: epochs between snapshots; the last epoch always gets one.
        metadata: written into the snapshots.
        on_step: called with (epoch, step in the epoch, loss).
        on_epoch: called with the epoch's row of the history.

    Returns:
        The last row of the history, a dict.

    Raises:
        TrainingError: if the loss is no number; the weights before are in the last snapshot.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    row = {}
    for epoch in range(first_epoch, epochs + 1):
        start, waited, losses = time.perf_counter(), 0.0, []
        before = start
        for index, (lr, target) in enumerate(prefetch(batches(epoch))):
            waited += time.perf_counter() - before
            losses.append(float(step(lr, target)))
            if not math.isfinite(losses[-1]):
                raise TrainingError(
                    f"the loss of epoch {epoch}, step {index + 1} is {losses[-1]}; the last good "
                    f"weights are in {folder}; try a smaller learning rate or float32"
                )
            if on_step:
                on_step(epoch, index, losses[-1])
            before = time.perf_counter()
        seconds = time.perf_counter() - start
        row = {"epoch": epoch, "loss": float(np.mean(losses)), **validate(predict, validation())}
        row |= {"seconds": round(seconds, 2), "waiting": round(waited / seconds, 4)}
        if epoch % snapshot == 0 or epoch == epochs:
            notes = {**(metadata or {}), "epoch": epoch}
            save_generator(generator, snapshot_path(folder, epoch), **notes)
        _append(folder / "history.csv", row)
        if on_epoch:
            on_epoch(row)
        logger.info(
            "epoch %d: loss %.4f, Dice %.3f, PSNR %.2f dB (input %.2f), %.0f s",
            *(row[key] for key in ("epoch", "loss", "dice", "psnr", "psnr_input", "seconds")),
        )
    return row


def _append(path, row):
    fresh = not path.exists() or path.stat().st_size == 0
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(row))
        if fresh:
            writer.writeheader()
        writer.writerow(row)
