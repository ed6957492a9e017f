"""The numbers printed in the tutorial this package set out from, to its four digits."""

import re
from typing import Any

import numpy as np
import pytest

import arrayloss

LOGITS = np.array([[0.8145, 0.0557], [0.2166, 0.4648], [0.0403, 0.8233], [0.3373, 0.3691], [0.7504, 0.2432]])
LABELS = np.array([1, 0, 1, 1, 0])
S_LOGITS = np.array([[0.2316], [0.4442], [0.0177], [0.3277], [0.0546]])


def rounded(backend: Any, x: Any) -> float:
    return round(float(backend.to_numpy(x)), 4)


def test_cross_entropy(backend: Any) -> None:
    loss = arrayloss.cross_entropy(backend.asarray(LOGITS), backend.asarray(LABELS))
    assert rounded(backend, loss) == 0.6986


def test_two_neurons_are_one(backend: Any) -> None:
    """The tutorial's remark: the binary loss of class 1's probability is the same 0.6986."""
    probs = arrayloss.softmax(backend.asarray(LOGITS))[:, 1]
    assert rounded(backend, arrayloss.binary_cross_entropy(probs, backend.asarray(LABELS))) == 0.6986
    log_probs = arrayloss.log_softmax(backend.asarray(LOGITS))
    assert rounded(backend, arrayloss.nll_loss(log_probs, backend.asarray(LABELS))) == 0.6986


@pytest.mark.parametrize(("labels", "printed"), [([1, 0, 1, 0, 0], 0.7599), ([1, 0, 1, 1, 0], 0.6943)])
def test_bce(backend: Any, labels: list[int], printed: float) -> None:
    y = backend.asarray(np.array(labels)[:, None])
    loss = arrayloss.binary_cross_entropy_with_logits(backend.asarray(S_LOGITS), y)
    assert rounded(backend, loss) == printed


@pytest.mark.parametrize(
    ("labels", "right"),
    [
        ([1, 0, 1, 0, 0], 0.2231),  # as printed
        ([1, 0, 1, 1, 0], 0.1833),  # the tutorial's `focal` printed 0.1745: (5, 1) against (5,) became 5 x 5
        (
            [0, 0, 1, 0, 0],
            0.2509,
        ),  # its `focal` printed 0.2269; its `forward`, with the labels reshaped, 0.2509
    ],
)
def test_focal(backend: Any, labels: list[int], right: float) -> None:
    y = backend.asarray(np.array(labels)[:, None])
    assert rounded(backend, arrayloss.sigmoid_focal_loss(backend.asarray(S_LOGITS), y)) == right


def test_focal_of_one_number(backend: Any) -> None:
    loss = arrayloss.sigmoid_focal_loss(backend.asarray([0.1]), backend.asarray([1]))
    assert rounded(backend, loss) == 0.1454


def test_log_sigmoid(backend: Any) -> None:
    """Its own `cus` printed inf for the second."""
    out = backend.to_numpy(arrayloss.log_sigmoid(backend.asarray([0.58, -500.0, -300.0, 0.0])))
    np.testing.assert_allclose(out, [-0.44462, -500, -300, -0.6931], rtol=1e-4)


@pytest.mark.parametrize("name", ["sigmoid_focal_loss", "binary_cross_entropy_with_logits", "binary_cross_entropy"])
def test_five_by_one_against_five_is_an_error(backend: Any, name: str) -> None:
    logits, y = backend.asarray(S_LOGITS), backend.asarray([1, 0, 1, 1, 0])
    with pytest.raises(ValueError, match=re.escape("(5, 1)")) as caught:
        getattr(arrayloss, name)(logits, y)
    assert "(5,)" in str(caught.value)
