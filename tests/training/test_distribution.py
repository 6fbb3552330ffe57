# SPDX-License-Identifier: MIT
"""What the description of several workers says."""

import json

import pytest

from segsrgan.training.distribution import Distribution, process_of


def config(kind, index, **cluster):
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (config("worker", 1, worker=["a:1", "b:1", "c:1"]), (3, 1)),
        (config("chief", 0, chief=["a:1"], worker=["b:1"]), (2, 0)),
        (config("worker", 0, chief=["a:1"], worker=["b:1"]), (2, 1)),
    ],
)
def test_a_process_knows_its_place(text, place, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    assert process_of() == place


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "[]",
        config("worker", 2, worker=["a:1", "b:1"]),
        config("ps", 0, worker=["a:1"]),
        config("worker", 0, worker=["a:1"], ps=["b:1"]),
        config("worker", "x", worker=["a:1"]),
    ],
)
def test_what_cannot_be_understood_is_refused(text, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match="TF_CONFIG must be JSON as"):
        process_of()


def test_a_process_alone_is_the_chief_and_agrees_with_itself(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert process_of() == (1, 0) and process_of("a:1,b:1", 1) == (2, 1)
    alone = Distribution()
    assert alone.chief and alone.replicas == alone.local_replicas == 1
    assert alone.gather(7) == [7]
    alone.check_batch(3)


def test_a_batch_must_be_divisible():
    class Strategy:
        num_replicas_in_sync = 4

    with pytest.raises(ValueError, match="--batch_size 6 cannot be divided among 4 .* try 8"):
        Distribution(Strategy(), 2).check_batch(6)
