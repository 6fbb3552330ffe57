# SPDX-License-Identifier: MIT
"""Child of `training.py`: the released SegSRGAN 2.2.4, in a Python 3.7 of its own.

`cycle` does what the loop of its training does with a batch, its own networks and losses;
`epoch` is its own preparation of an epoch, and the reading back of what was written.
"""

import os
import sys
import time

import numpy as np
import SegSRGAN

sys.path.insert(0, os.path.dirname(SegSRGAN.__file__))  # it imports `utils` from there

from training_timing import (  # noqa: E402
    DISCRIMINATOR_UPDATES,
    arrays,
    emit,
    first_to_end,
    measure,
    parser,
    written,
)


def cycle(args):
    from utils.SegSRGAN import SegSRGAN as Networks

    sizes = {"image_" + axis: args.patch for axis in ("row", "column", "depth")}
    networks = Networks(u_net_gen=False, lamb_gp=100, multi_gpu=False, **sizes)
    critic = networks.discriminator_model()[1]
    generator = networks.generator_model()[1]
    lr, target = arrays(args.batch, args.patch)
    lr, target = lr[:, np.newaxis], np.ascontiguousarray(np.moveaxis(target, -1, 1))
    real = -np.ones([args.batch, 1], dtype=np.float32)
    dummy = np.zeros([args.batch, 1], dtype=np.float32)

    def update_critic():
        fake = generator.predict(lr)[1]
        epsilon = np.random.uniform(0, 1, size=(args.batch, 2, 1, 1, 1))
        between = epsilon * target + (1 - epsilon) * fake
        return critic.train_on_batch([target, fake, between], [real, -real, dummy])

    def update_generator():
        return generator.train_on_batch([lr], [real, target])

    return measure(update_critic, update_generator, lambda losses: list(map(float, losses)), args)


def epoch(args):
    import pandas as pd
    from utils.patches import create_patch_from_df_hr

    table = pd.read_csv(args.csv)
    table = table[table["Base"] == "Train"]
    before, start = written(), time.perf_counter()
    _, inputs, targets, left = create_patch_from_df_hr(
        df=table,
        per_cent_val_max=0.03,
        contrast_list=np.random.uniform(0.5, 1.5, len(table)),
        list_res=[tuple(args.resolution)] * len(table),
        patch_size=args.patch,
        batch_size=args.batch,
        path_save_npy=os.path.join(args.folder, "train_mini_batch"),
        stride=args.stride,
    )
    prepared = time.perf_counter()
    size = written() - before
    for index in range(len(inputs)):
        drawn = np.random.randint(0, len(inputs), DISCRIMINATOR_UPDATES)
        for number in [*drawn, index]:
            np.load(inputs[number])
            np.load(targets[number])
    return {
        "seconds": time.perf_counter() - start,
        "preparing": prepared - start,
        "written_gb": size / 1e9,
        "cycles": len(inputs),
        "patches": len(inputs) * args.batch + left,
    }


if __name__ == "__main__":
    arguments = parser(__doc__).parse_args()
    first_to_end()
    emit({"cycle": cycle, "epoch": epoch}[arguments.what](arguments))
