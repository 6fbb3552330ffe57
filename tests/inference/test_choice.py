# SPDX-License-Identifier: MIT
"""Which engine is taken: the fastest that agrees; measured once; an explicit wish is obeyed."""

import json
import logging
from types import SimpleNamespace

import numpy as np
import pytest
from networks.variants import randomise

from segsrgan.errors import UserError
from segsrgan.inference import agreement
from segsrgan.inference.engines import choice, make_engine, remembered
from segsrgan.networks import GeneratorSpec, build_generator


@pytest.fixture(scope="module")
def model():
    return randomise(build_generator(GeneratorSpec(1, blocks=1)))


@pytest.fixture(scope="module")
def reference(model):
    return agreement.plain_output(model, agreement.sample_patch(16))


class Stage:
    """Engines of given speed and error, in place of the real ones."""

    def __init__(self, reference):
        self.reference = reference
        self.engines = {}
        self.clock = 0.0
        self.runs = []

    def set(self, engine, absent=None, **precisions):
        """An engine; `float32=(seconds, output)`, where an output may be an exception."""

        def check():
            if absent:
                raise UserError(absent)

        self.engines[engine] = SimpleNamespace(
            check_available=check,
            precisions=lambda: tuple(precisions),
            version=lambda: f"{engine} 1",
            make=lambda model, precision, threads: SimpleNamespace(
                name=f"{engine} {precision}",
                threads=threads,
                predict_batch=lambda *_: self.run(engine, precision, *precisions[precision]),
            ),
        )

    def run(self, engine, precision, seconds, output):
        self.runs.append(f"{engine} {precision}")
        self.clock += seconds
        if isinstance(output, Exception):
            raise output
        return output


@pytest.fixture
def stage(reference, monkeypatch, tmp_path):
    stage = Stage(reference)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(choice, "engine_module", lambda name: stage.engines[name])
    monkeypatch.setattr(choice, "sample_patch", lambda: agreement.sample_patch(16))
    monkeypatch.setattr(choice, "time", SimpleNamespace(perf_counter=lambda: stage.clock))
    stage.set("tensorflow", float32=(3, reference))
    return stage


def far_image(reference):
    """An output whose image is 40 dB away."""
    output = reference.copy()
    output[..., 0] += 0.01 * np.ptp(reference[..., 0])
    return output


def far_segmentation(reference):
    """An output in which one voxel of the segmentation in a hundred is wrong."""
    output = reference.copy()
    flat = output[..., 1].ravel()
    flat[::100] = 1 - flat[::100]
    output[..., 1] = flat.reshape(output.shape[:-1])
    return output


def not_a_number(reference):
    return np.full_like(reference, np.nan)


def test_the_fastest_is_taken_and_the_log_says_why(stage, model, reference, caplog):
    caplog.set_level(logging.INFO, "segsrgan")
    stage.set("openvino", float32=(2, reference), float16=(1, reference))
    engine = make_engine("auto", model, threads=5)
    assert (engine.name, engine.threads) == ("openvino float16", 5)
    (line,) = caplog.messages
    assert line.startswith("engine: openvino float16 (")
    for words in ("openvino float32 2.00 s", "openvino float16 1.00 s", "tensorflow float32 3.00"):
        assert words in line
    assert "999.0 dB, Dice 1.0000" in line


def test_a_slower_one_is_not_taken(stage, model, reference):
    stage.set("openvino", float32=(4, reference))
    assert make_engine("auto", model).name == "tensorflow float32"


@pytest.mark.parametrize("wrong", [far_image, far_segmentation, not_a_number])
def test_one_that_does_not_agree_is_not_taken(stage, model, reference, wrong):
    stage.set("openvino", float32=(2, reference), float16=(1, wrong(reference)))
    assert make_engine("auto", model).name == "openvino float32"
    stage.set("openvino", float32=(2, wrong(reference)))
    model = randomise(build_generator(GeneratorSpec(1, blocks=1)), seed=3)  # not remembered
    assert make_engine("auto", model).name == "tensorflow float32"


def test_bfloat16_is_only_taken_when_it_is_asked_for(stage, model, reference):
    stage.set("openvino", float32=(2, reference), bfloat16=(1, reference))
    assert make_engine("auto", model).name == "openvino float32"
    assert make_engine("auto", model, precision="bfloat16").name == "openvino bfloat16"


@pytest.mark.parametrize("wrong", [far_image, far_segmentation])
def test_an_explicit_wish_is_obeyed_with_a_warning(stage, model, reference, wrong, caplog):
    caplog.set_level(logging.INFO, "segsrgan")
    stage.set("openvino", float32=(2, wrong(reference)))
    assert make_engine("openvino", model).name == "openvino float32"
    said, warned = caplog.records
    assert str(agreement.compare(reference, wrong(reference))) in said.getMessage()
    assert warned.levelno == logging.WARNING
    assert "not close to the plain network" in warned.getMessage()


def test_tensorflow_alone_is_not_measured(stage, model, caplog):
    caplog.set_level(logging.INFO, "segsrgan")
    assert make_engine("tensorflow", model).name == "tensorflow float32"
    stage.set("openvino", absent="OpenVINO is not installed; pip install it")
    assert make_engine("auto", model).name == "tensorflow float32"
    assert stage.runs == []
    assert "pip install it" in caplog.messages[-1]


def test_what_was_measured_is_remembered(stage, model, reference):
    stage.set("openvino", float32=(2, reference))
    assert make_engine("auto", model).name == "openvino float32"
    assert set(stage.runs) == {"openvino float32", "tensorflow float32"}
    stage.runs.clear()
    assert make_engine("auto", model).name == "openvino float32"
    assert make_engine("openvino", model).name == "openvino float32"
    assert stage.runs == []


@pytest.mark.parametrize("what", ["weights", "version", "processor", "package"])
def test_it_is_measured_again_when_something_has_changed(
    stage, model, reference, monkeypatch, what
):
    stage.set("openvino", float32=(2, reference))
    make_engine("auto", model)
    stage.runs.clear()
    if what == "weights":
        model = randomise(build_generator(GeneratorSpec(1, blocks=1)), seed=4)
    elif what == "version":
        stage.engines["openvino"].version = lambda: "openvino 2"
    elif what == "processor":
        monkeypatch.setattr(choice, "processor", lambda: "another")
    else:
        monkeypatch.setattr("segsrgan.__version__", "99")
    make_engine("auto", model)
    assert "openvino float32" in stage.runs


def test_a_folder_that_cannot_be_written_to_is_no_error(stage, model, reference, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    stage.set("openvino", float32=(2, reference))
    for _ in range(2):
        stage.runs.clear()
        assert make_engine("auto", model).name == "openvino float32"
        assert "openvino float32" in stage.runs


@pytest.mark.parametrize("content", ["", "[1]", "{not json", '{"a": 1}', "EMPTY ENTRIES"])
def test_a_damaged_memory_is_no_error(stage, model, reference, tmp_path, content):
    stage.set("openvino", float32=(2, reference))
    make_engine("auto", model)
    (path,) = (tmp_path / "cache" / "segsrgan").iterdir()
    if content == "EMPTY ENTRIES":
        content = json.dumps({key: {} for key in json.loads(path.read_text())})
    path.write_text(content)
    stage.runs.clear()
    assert make_engine("auto", model).name == "openvino float32"
    assert "openvino float32" in stage.runs
    stage.runs.clear()
    make_engine("auto", model)
    assert stage.runs == []


def test_an_engine_that_fails_is_passed_over(stage, model, reference, caplog):
    stage.set("openvino", float32=(1, RuntimeError("no such\ninstruction")))
    assert make_engine("auto", model).name == "tensorflow float32"
    assert "engine openvino float32 fails: RuntimeError: no such instruction" in caplog.text
    with pytest.raises(RuntimeError, match="instruction"):
        make_engine("openvino", model)


@pytest.mark.parametrize(
    ("name", "precision", "words"),
    [
        ("openvino", "auto", "engine openvino cannot run here: it is away"),
        ("tensorflow", "float16", "engine tensorflow with float16.*tensorflow computes float32 on"),
        ("auto", "float16", "engine auto with float16.*it is away; tensorflow computes float32 on"),
    ],
)
def test_what_cannot_run_here_is_refused_with_the_reason(stage, model, name, precision, words):
    stage.set("openvino", absent="it is away", float32=(1, None))
    with pytest.raises(UserError, match=words):
        make_engine(name, model, precision=precision)


def test_a_model_of_another_kind_goes_to_tensorflow(stage, echo, reference):
    stage.set("openvino", float32=(1, reference))
    assert make_engine("auto", echo).name == "tensorflow float32"
    assert stage.runs == []


def test_openvino_is_reported_missing(monkeypatch):
    from segsrgan.inference.engines import openvino_engine

    monkeypatch.setattr(openvino_engine, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install openvino \(or 'SegSRGAN\[openvino\]'\)"):
        openvino_engine.check_available()


def test_only_the_latest_entries_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(remembered, "_KEPT", 3)
    for i in range(5):
        remembered.remember(str(i), {"i": i})
    assert [remembered.recall(str(i)) for i in range(5)] == [
        None,
        None,
        *({"i": i} for i in (2, 3, 4)),
    ]


def test_without_a_home_nothing_is_remembered(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(remembered.Path, "home", homeless)
    remembered.remember("key", {"a": 1})
    assert remembered.recall("key") is None


def test_the_memory_lies_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    remembered.remember("key", {"a": 1})
    assert remembered.recall("key") == {"a": 1}
    assert (tmp_path / ".cache" / "segsrgan" / "engines.json").is_file()


def test_a_digest_tells_parts_apart():
    assert remembered.digest("ab", "c") != remembered.digest("a", "bc")
    assert remembered.digest("ab", b"c") == remembered.digest("ab", b"c")
