# SPDX-License-Identifier: MIT
"""Which voxels belong to the class."""

import numpy as np
import pytest

from segsrgan.errors import UserError
from segsrgan.evaluation.labels import are_labels, in_class


def line(*values):
    return np.array(values, np.float32).reshape(-1, 1, 1)


def chosen(array, values=None, threshold=0.5):
    labels = are_labels(array, "a.nii", values)
    return in_class(array, labels, values, threshold, "a.nii").ravel().tolist()


@pytest.mark.parametrize(
    ("values", "expected"),
    [(None, [0, 1, 1, 1]), ((3,), [0, 0, 1, 0]), ((3, 42), [0, 0, 1, 1]), ((0,), [1, 0, 0, 0])],
)
def test_label_values_make_the_class(values, expected):
    assert chosen(line(0, 1, 3, 42), values) == expected


def test_label_values_may_be_rounded_by_their_file():
    assert chosen(line(0.0004, 2.9997, 1.0002), (3,)) == [0, 1, 0]


def test_fractions_are_probabilities_from_the_threshold_on():
    assert chosen(line(0, 0.25, 0.5, 0.9, 1)) == [0, 0, 1, 1, 1]
    assert chosen(line(0, 0.25, 0.5, 0.9, 1), threshold=0.25) == [0, 1, 1, 1, 1]


def test_fractions_beyond_0_and_1_are_no_segmentation():
    with pytest.raises(UserError, match="a.nii: expected labels.*between -0.5 and 7.3"):
        chosen(line(-0.5, 7.3))


def test_probabilities_have_no_label_values():
    with pytest.raises(UserError, match="expected the labels 3, 42, received probabil"):
        chosen(line(0, 0.3), (3, 42))


def test_labels_that_do_not_occur_are_named(caplog):
    assert chosen(line(0, 2, 5), (3, 42)) == [0, 0, 0]
    assert "a.nii: has none of the labels 3, 42, only 0, 2, 5" in caplog.text


def test_an_image_in_the_place_of_a_segmentation_is_told(caplog):
    array = np.arange(12**3, dtype=np.float32).reshape(12, 12, 12)
    in_class(np.repeat(array, 3, axis=0).repeat(3, axis=1).repeat(3, axis=2), True, None, 0.5, "a")
    assert "a: has more than 300 values, as an image has" in caplog.text
    caplog.clear()
    in_class(array % 200, True, None, 0.5, "a")
    assert not caplog.text
