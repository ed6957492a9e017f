"""What is no probability: out of [0, 1] where one is due, negative, infinite or NaN as a share. Weights are free."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import arrayloss as al
from outside.common import (
    BINARY,
    CATEGORICAL,
    INF,
    NAN,
    close,
    left_to_jit,
    losses_of,
    only_where_nobody_can_look,
    out_of_range,
    over_categorical,
)

GOOD = np.array([0.5, 0.25, 0.75, 0.125])


def test_logits_for_probabilities(backend: Any) -> None:
    cases = [(1.2, 1), (-0.1, 0)]
    if backend.reports_labels is not False:  # elsewhere the test below has them all in one program
        cases += [(1.2, 0), (5.0, 1), (-0.1, 1), (-3.0, 0), (INF, 0), (INF, 1), (-INF, 0), (-INF, 1)]
    for bad, label in cases:
        p, y = GOOD.copy(), np.array([1, 0, label, 1])
        expected = losses_of(al.binary_cross_entropy, GOOD, y)
        p[2] = bad
        said = ("binary_cross_entropy_with_logits", "2", "[0, 1]")
        out_of_range(backend, al.binary_cross_entropy, p, y, np.arange(4) == 2, *said, expected=expected)


@pytest.mark.compiled
@only_where_nobody_can_look
def test_logits_for_probabilities_where_nobody_can_look(backend: Any) -> None:
    p, y = np.concatenate([GOOD, [1.2, -0.1, INF]]), np.array([1, 0, 1, 1, 1, 0, 0])
    expected = np.concatenate([losses_of(al.binary_cross_entropy, GOOD, y[:4]), [0, 0, 0]])
    out_of_range(backend, al.binary_cross_entropy, p, y, np.arange(7) > 3, expected=expected)


@left_to_jit
def test_a_probability_that_does_not_count_may_be_anything(backend: Any) -> None:
    p, y, kept = np.array([0.5, 1.2, -3.0]), np.array([1, 1, 0]), np.array([True, False, False])
    value, gradient = np.log(2), np.array([-2.0, 0, 0])
    backend.agree(al.binary_cross_entropy, p, y, value, gradient, where=kept)
    backend.agree(al.binary_cross_entropy, p, y, value, gradient, sample_weight=kept.astype(float))
    backend.agree(al.binary_cross_entropy, p, np.array([1, 7, 7]), value, gradient, ignore_index=7)


SHARES = np.array([[0.25, 0.25, 0.5], [1.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]])
LOGITS = np.array([[0.5, -1.0, 2.0], [1.0, 0.0, -0.5], [0.25, 0.75, 3.0], [0.0, 1.0, 2.0]])


@over_categorical
@pytest.mark.only(lambda backend, loss: backend.library != "dask" or loss is al.poly_loss)  # another is below
def test_a_negative_share(backend: Any, loss: Any) -> None:
    x = -np.abs(LOGITS) if loss is al.nll_loss else LOGITS
    expected = losses_of(loss, x, SHARES)
    for bad in (-0.25, -1.0, NAN, -INF, INF) if backend.reports_labels is not False else (-0.25,):
        t = SHARES.copy()
        t[2, 0] = bad
        out_of_range(backend, loss, x, t, np.arange(4) == 2, "2", expected=expected)


@pytest.mark.compiled
@only_where_nobody_can_look
def test_a_negative_share_where_nobody_can_look(backend: Any) -> None:
    t = SHARES.copy()
    t[1, 1], t[2, 0] = -0.5, NAN
    bad = np.array([False, True, True, False])
    out_of_range(backend, al.cross_entropy, LOGITS, t, bad, expected=losses_of(al.cross_entropy, LOGITS, SHARES))


def test_minus_ones_for_shares() -> None:
    with pytest.raises(ValueError, match="-1"):
        al.cross_entropy(LOGITS, -np.ones_like(LOGITS))


@pytest.mark.parametrize("loss", BINARY, ids=lambda loss: loss.__name__)
def test_a_binary_target_of_nan(backend: Any, loss: Any) -> None:
    x, y = GOOD, np.array([1.0, 0.25, NAN, 0.0])
    expected = losses_of(loss, x, np.array([1.0, 0.25, 0.0, 0.0]))
    out_of_range(backend, loss, x, y, np.isnan(y), "nan", expected=expected)


def test_a_share_that_does_not_count_may_be_anything(backend: Any) -> None:
    t, kept = SHARES.copy(), np.array([True, False, False, True])
    expected = np.where(kept, losses_of(al.cross_entropy, LOGITS, SHARES), 0)
    for bad in (-0.5, INF):
        t[1, 1], t[2, 0] = bad, NAN
        x, y, where = (backend.asarray(a) for a in (LOGITS, t, kept))
        one = backend.asarray(np.ones(4))
        value, gradient = al.value_and_grad(al.cross_entropy)(x, y, where=where, reduction="none", cotangent=one)
        close(backend.to_numpy(value), expected, 10 * backend.rtol())
        assert backend.to_numpy(gradient)[~kept].tolist() == [[0, 0, 0]] * 2


@pytest.mark.parametrize("loss", [*CATEGORICAL, *BINARY], ids=lambda loss: loss.__name__)
def test_weights_may_be_negative(backend: Any, loss: Any) -> None:
    """Policy gradients: an advantage below 0."""
    if loss in BINARY:
        x, y, weight = GOOD, np.array([1, 0, 1, 0]), np.array([1.0, -2.0, 0.5, -1.0])
    else:
        x, y, weight = -np.abs(LOGITS), np.array([0, 2, 1, 1]), np.array([1.0, -2.0, 0.5, -1.0])
    expected = losses_of(loss, x, y) * weight
    got = loss(backend.asarray(x), backend.asarray(y), sample_weight=backend.asarray(weight), reduction="none")
    close(backend.to_numpy(got), expected, 10 * backend.rtol())
    if loss in CATEGORICAL:
        each = np.array([1.0, -1.0, 2.0])
        got = loss(backend.asarray(x), backend.asarray(y), class_weight=backend.asarray(each), reduction="none")
        close(backend.to_numpy(got), losses_of(loss, x, y) * each[y], 10 * backend.rtol())
