# SPDX-License-Identifier: MIT
"""Tiny images, tiny networks in real weight files, and the command run in process."""

import numpy as np
import pytest

from segsrgan.inference.jobs import Job
from segsrgan.inference.results import choose_folders
from segsrgan.volumes.nifti import write_volume
from segsrgan.volumes.volume import Volume


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Return a function: the path of a weights file with random weights of a spec."""
    import keras

    from segsrgan.networks import GeneratorSpec, build_generator, save_generator

    folder, made = tmp_path_factory.mktemp("weights"), {}

    def make(name="tiny", head="lecun_normal", **spec):
        if name not in made:
            keras.utils.set_random_seed(7)
            model = build_generator(GeneratorSpec(**{"kernel": 2, **spec}), head_initializer=head)
            made[name] = folder / name
            save_generator(model, made[name])
        return made[name]

    return make


@pytest.fixture(scope="session")
def tiny(weights):
    """Return the path of a random generator with two channels."""
    return weights("tiny")


@pytest.fixture(scope="session")
def identity(weights):
    """Return the path of a generator whose image is its input and whose probability is 0.5."""
    return weights("identity", head="zeros")


@pytest.fixture(scope="session")
def echo():
    """Return a model whose image and probability are both its input."""
    import keras

    image = keras.Input((None, None, None, 1))
    return keras.Model(image, keras.layers.Concatenate()([image, image]))


@pytest.fixture
def image(tmp_path):
    """Return a function that writes a small anisotropic image and returns its path."""

    def make(name="scan/lr.nii.gz", shape=(16, 20, 6), spacing=(1.0, 1.0, 3.0), seed=0):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.random.default_rng(seed).uniform(10, 200, shape).astype(np.float32)
        write_volume(Volume(array, spacing), path)
        return path

    return make


@pytest.fixture
def job(tmp_path):
    """Return a function: a job of images in folders of these names, which only need to exist."""

    def make(*names):
        images = [tmp_path / name / "lr.nii" for name in names]
        for image in images:
            image.parent.mkdir()
            image.touch()
        results = choose_folders(images, "r")
        return Job(tuple(results), ((8, 4), (16, 8)), settings={"k": 1})

    return make


@pytest.fixture
def table(tmp_path):
    """Return a function that writes paths into a CSV file and returns its path."""

    def make(*cells, name="data.csv"):
        path = tmp_path / name
        path.write_text("".join(f"{cell}\n" for cell in cells))
        return path

    return make


@pytest.fixture
def job_model(tiny):
    """Return a function that runs `job_model.py` in process and returns its exit status."""
    from segsrgan.job_model import main

    def run(csv, *options, weights=tiny, patch="16", resolution="1"):
        argv = ["--path", csv, "-pa", patch, "-n", resolution, "-wp", weights, *options]
        return main([str(word) for word in argv])

    return run
