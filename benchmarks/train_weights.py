# SPDX-License-Identifier: MIT
"""Trains the weights that ship: real fetal templates and images painted on label maps.

    python benchmarks/train_weights.py --data FOLDER --folder RUN [--kernel 16] [--epochs 200]

FOLDER holds `fetal_templates/` (`*_T2w.nii.gz` and `*_labels.nii.gz`, cortex = 5) and
`adult_labels/` (FreeSurfer numbers, cortex = 3 and 42). Templates and maps named in HELD_OUT
never enter the training. `make weights` does it in two stages: the image first, which a network
learns only while the cortex weighs little, then, from there, both. The snapshots and
`history.csv` go to RUN; called again with a RUN that was stopped, it goes on from there.
"""

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np

import segsrgan  # noqa: F401 - sets the environment of TensorFlow before Keras loads it

HELD_OUT = ("GA25_operated", "GA28", "GA32", "seg_18", "seg_19", "seg_20")
FETAL_CORTEX, ADULT_CORTEX = (5,), (3, 42)
SHARES = (0.4, 0.15, 0.45)  # real templates, painted fetal maps, painted adult maps
INTERP, SLICE_VOXELS = "profile", 4
# Far above that of the cortex: what is missing in the image is small, and its gradients with it.
IMAGE_WEIGHT = 400.0
NU = 0.03  # of the Charbonnier loss: quadratic for errors of the size that remain


def parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--kernel", type=int, default=16)
    parser.add_argument("--resnet", action="store_true", help="the paper's generator, no U-Net")
    parser.add_argument("--blocks", type=int, default=3, help="residual blocks at the bottom")
    parser.add_argument("--growth", type=int, default=3, help="channels from level to level")
    parser.add_argument("--head", type=int, default=3, help="edge of the last kernel")
    parser.add_argument("--start", help="weights to start from, instead of random ones")
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--steps", type=int, default=200, help="updates in an epoch")
    parser.add_argument("--lrgen", type=float, default=2e-3)
    parser.add_argument("--lambda_image", type=float, default=IMAGE_WEIGHT)
    parser.add_argument("--lambda_entropy", type=float, default=0.3)
    parser.add_argument("--lambda_dice", type=float, default=0.3)
    parser.add_argument(
        "--shares",
        nargs=3,
        type=float,
        default=SHARES,
        help="of real templates, painted fetal maps, painted adult maps",
    )
    parser.add_argument("--precision", default="mixed_bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def load(folder):
    """The training data and the held-out data, each (images, fetal maps, adult maps)."""
    from segsrgan.training.synthetic.painting import NUMBERINGS, prepare_labels
    from segsrgan.volumes import Normalisation, read_volume

    sets = ([], [], []), ([], [], [])
    for path in sorted((folder / "fetal_templates").glob("*_T2w.nii.gz")):
        images, maps, _ = sets[any(name in path.name for name in HELD_OUT)]
        array = read_volume(path).array
        labels = read_volume(str(path).replace("_T2w", "_labels")).array
        label_map = prepare_labels(labels, FETAL_CORTEX, NUMBERINGS["fetal"])
        cortex = np.isin(labels, FETAL_CORTEX)
        images.append((Normalisation.of(array).apply(array), cortex, label_map.points))
        maps.append(label_map)
    for path in sorted((folder / "adult_labels").glob("*.nii.gz")):
        maps = sets[any(name in path.name for name in HELD_OUT)][2]
        maps.append(prepare_labels(read_volume(path).array, ADULT_CORTEX))
    return sets


def sources(data, patch, shares):
    """The sources of patches and the fraction of each."""
    from segsrgan.training.synthetic.sources import Acquisition, ImageSource, SyntheticSource

    images, fetal, adult = data
    how = {"acquisition": Acquisition((1.7, 7.0), interp=INTERP, slice_voxels=SLICE_VOXELS)}
    found = [(ImageSource(tuple(images), patch, **how), shares[0])]
    for maps, share, scale in ((fetal, shares[1], (0.7, 1.2)), (adult, shares[2], (0.5, 1.3))):
        found += [(SyntheticSource(m, patch, scale, **how), share / len(maps)) for m in maps]
    return tuple(zip(*found, strict=True))


def loss_of(image, entropy, overlap):
    """The loss of both channels, with the weight of each part."""
    from segsrgan.training.losses import binary_cross_entropy, charbonnier, soft_dice_loss

    def loss(target, prediction):
        # The Charbonnier loss alone leaves the rare class at probability 0 for long.
        cortex, probability = target[..., 1:2], prediction[..., 1:2]
        return (
            image * charbonnier(target[..., :1], prediction[..., :1], NU)
            + entropy * binary_cross_entropy(cortex, probability)
            + overlap * soft_dice_loss(cortex, probability)
        )

    return loss


def fit(generator, training, held_out, loss, args, **notes):
    """Trains a generator on sources; goes on from the state in `args.folder` if there is one.

    Args:
        generator: a model of `build_generator`.
        training: sources of patches, and the fraction of each.
        held_out: sources of the patches for validation, and the fraction of each.
        loss: function (target, output).
        args: `folder`, `batch_size`, `epochs`, `steps`, `lrgen`, `seed`, `patch`.
        **notes: written into the snapshots.
    """
    import keras

    from segsrgan.training.gan import Gan, Objective
    from segsrgan.training.loop import Loop
    from segsrgan.training.records import Records
    from segsrgan.training.state import Progress, has_state, newest_state
    from segsrgan.training.step_tensorflow import Step
    from segsrgan.training.synthetic.mixing import MixedDataset

    total = args.epochs * args.steps
    warm_up = min(300, total // 10)
    rate = keras.optimizers.schedules.CosineDecay(
        args.lrgen / 100,
        total - warm_up,
        alpha=0.01,
        warmup_target=args.lrgen,
        warmup_steps=warm_up,
    )
    objective = Objective(lambadv=0.0, reconstruction=loss)
    gan = Gan(generator, None, objective, rate, beta_1=0.9, global_clipnorm=1.0)
    size, steps = args.batch_size, args.steps
    validation = list(MixedDataset(*held_out, args.patch, 2, args.seed, cycles=9).epoch(0, 0))
    start = time.time()

    def report(epoch, done, _, losses):
        if losses and done % 20 == 0:
            value = losses["generator_loss"]
            print(
                f"{time.time() - start:8.0f} s  epoch {epoch} step {done} {value:.4f}", flush=True
            )

    args.folder.mkdir(parents=True, exist_ok=True)
    progress = Progress()
    if has_state(args.folder):
        state = newest_state(args.folder)
        state.restore(gan)
        progress = state.progress
    loop = Loop(
        gan,
        Step(gan),
        MixedDataset(*training, args.patch, size, args.seed, cycles=steps),
        SimpleNamespace(all_patches=lambda: validation, patches=2 * len(validation)),
        args.folder,
        args.epochs,
        progress,
        metadata=notes,
        records=Records(args.folder, args.folder / "dice.csv", args.folder / "mse.csv"),
        on_cycle=report,
    )
    return loop.run()


def main(argv=None):
    args = parser().parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    from segsrgan.networks import GeneratorSpec, build_generator, load_generator

    keras.utils.set_random_seed(args.seed)
    keras.config.set_dtype_policy(args.precision)
    training, held_out = (sources(data, args.patch, args.shares) for data in load(args.data))
    if args.start:
        generator = load_generator(args.start, (args.patch,) * 3)
        told = {"interp": INTERP, "slice_voxels": SLICE_VOXELS}
        generator.spec = replace(generator.spec, **told)
    else:
        spec = GeneratorSpec(
            args.kernel,
            unet=not args.resnet,
            scaled=True,
            blocks=args.blocks,
            growth=args.growth,
            head=args.head,
            interp=INTERP,
            slice_voxels=SLICE_VOXELS,
        )
        generator = build_generator(spec, (args.patch,) * 3, head_initializer="zeros")
    loss = loss_of(args.lambda_image, args.lambda_entropy, args.lambda_dice)
    recipe = {k: str(v) for k, v in vars(args).items() if k not in ("data", "folder", "start")}
    recipe["start"] = Path(args.start).name if args.start else None
    print(fit(generator, training, held_out, loss, args, recipe=recipe))


if __name__ == "__main__":
    main()
