# SPDX-License-Identifier: MIT
"""Child of `inference.py`: the network as its layers are written, fed patch by patch by Keras.

    python inference_plain.py IMAGE PATCH STEP FOLDER WEIGHTS

Reading, interpolation, assembling and writing are ours, so that only the network differs.
"""

import sys
from pathlib import Path

from segsrgan.inference.predictor import Predictor
from segsrgan.networks import build_generator, load_generator
from segsrgan.volumes.writing import write_volume


class Plain:
    """An engine that is Keras' own `predict_on_batch`."""

    def __init__(self, path):
        trained = load_generator(path)
        self.model = build_generator(trained.spec, formulation="plain")
        self.model.set_weights(trained.get_weights())

    def predict_batch(self, patches, resolution=None):
        return self.model.predict_on_batch(patches)


def main(image, patch, step, folder, path):
    plain = Plain(path)
    predictor = Predictor(model=plain.model, engine="tensorflow", batch_size=1)
    predictor.engine = plain
    result = predictor.predict(image, int(patch), int(step), 1.0)
    for kind in ("sr", "cortex", "cortex_mask"):
        write_volume(getattr(result, kind), Path(folder) / f"plain_{kind}.nii.gz")


if __name__ == "__main__":
    main(*sys.argv[1:])
