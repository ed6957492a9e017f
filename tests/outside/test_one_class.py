"""Every special value in every place: one class, index labels, one-hot and shares say the same."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import arrayloss as al
from outside.common import INF, NAN, SOFTMAX, Array, close, left_to_jit

pytestmark = pytest.mark.compiled

# Where each would be a program of its own.
not_compiled_torch = pytest.mark.only(lambda backend: not backend.name.endswith(":compile"))

VALUES = [0.5, 2.0, NAN, INF, -INF]


def chances(row: Array) -> Array:
    """The contract's softmax of a row; NaN where there is none."""
    if np.isnan(row).any() or np.isposinf(row).sum() > 1 or np.isneginf(row).all():
        return np.full(row.shape, NAN)
    if np.isposinf(row).any():
        return np.isposinf(row).astype(float)
    powers = np.exp(row - row.max())
    return np.asarray(powers / powers.sum())


def costs(loss: Any, p: Array) -> Array:
    with np.errstate(divide="ignore"):
        minus_log = np.abs(-np.log(p))
    if loss is al.softmax_focal_loss:
        return np.asarray(np.where(p == 1, 0, (1 - p) ** 2 * minus_log))
    return np.asarray(minus_log + (2 * (1 - p) if loss is al.poly_loss else 0))


def table(classes: int) -> tuple[Array, Array]:
    """Every row of special values with every label."""
    rows = np.array(list(itertools.product(VALUES, repeat=classes)))
    labels = np.tile(np.arange(classes), len(rows))
    return np.repeat(rows, classes, axis=0), labels


def is_quick(backend: Any, loss: Any, classes: int) -> bool:
    """Each is a program of its own where it is compiled, and many graphs on Dask."""
    if backend.compiled:
        programs = [(al.softmax_focal_loss, 1)] + ([(al.cross_entropy, 3)] if backend.library == "jax" else [])
        return (loss, classes) in programs
    return backend.library != "dask" or (classes != 3 and loss is not al.poly_loss)


@left_to_jit
@pytest.mark.only.with_args(is_quick)
@pytest.mark.parametrize("classes", [1, 2, 3])
@pytest.mark.parametrize("loss", SOFTMAX, ids=lambda loss: loss.__name__)
def test_labels_and_one_hot_agree(backend: Any, loss: Any, classes: int) -> None:
    rows, labels = table(classes)
    p = np.array([chances(row) for row in rows])
    at = np.arange(len(rows)), labels
    expected = costs(loss, p)[at]
    undefined = np.isnan(p).any(-1)
    one_hot = np.eye(classes)[labels]
    for kind, target in (("labels", labels), ("one-hot", one_hot)):
        for way, (value, gradient) in backend.evaluate(loss, rows, target, reduction="none").items():
            close(value, expected, 10 * backend.rtol(), f"{kind}, {way}")
            if gradient is not None:
                np.testing.assert_array_equal(np.isnan(gradient).any(-1), undefined, err_msg=f"{kind}, {way}")
                sure = p[at] == 1
                assert (gradient[sure] == 0).all(), f"{kind}, {way}"


@left_to_jit
@pytest.mark.only(
    lambda backend, loss: not backend.compiled or (loss is al.softmax_focal_loss and backend.library == "jax")
)
@pytest.mark.parametrize("loss", SOFTMAX, ids=lambda loss: loss.__name__)
def test_shares_of_special_rows(backend: Any, loss: Any) -> None:
    """Half and half of two of three classes: inf where either is masked, NaN where the row has no answer."""
    rows = np.array(list(itertools.product(VALUES, repeat=3)))
    target = np.tile([0.5, 0.0, 0.5], (len(rows), 1))
    p = np.array([chances(row) for row in rows])
    expected = costs(loss, p)[:, ::2].mean(-1)
    for way, (value, gradient) in backend.evaluate(loss, rows, target, reduction="none").items():
        close(value, expected, 10 * backend.rtol(), way)
        if gradient is not None:
            np.testing.assert_array_equal(np.isnan(gradient).any(-1), np.isnan(p).any(-1), err_msg=way)


@left_to_jit
@not_compiled_torch
def test_nll_loss_of_one_class(backend: Any) -> None:
    x, expected = np.array([[0.0], [-0.5], [-INF], [NAN]]), np.array([0, 0.5, INF, NAN])
    for target in (np.zeros(4, dtype=np.int64), np.ones((4, 1))):
        for way, (value, _) in backend.evaluate(al.nll_loss, x, target, reduction="none").items():
            close(value, expected, backend.rtol(), way)


@left_to_jit
@not_compiled_torch
def test_kl_divergence_of_one_class(backend: Any) -> None:
    pairs = np.array(list(itertools.product(VALUES, repeat=2)))
    right = np.isfinite(pairs) | np.isposinf(pairs)
    expected = np.where(right.all(-1), 0.0, NAN)
    for way, (value, gradient) in backend.evaluate(
        al.kl_divergence_with_logits, pairs[:, :1].copy(), pairs[:, 1:].copy(), reduction="none"
    ).items():
        close(value, expected, backend.rtol(), way)
        if gradient is not None:
            close(gradient[:, 0], expected, backend.rtol(), way)


@left_to_jit
@pytest.mark.only(lambda backend, classes: not backend.compiled or classes == 1)
@pytest.mark.parametrize("classes", [1, 2, 3])
def test_functions_of_special_rows(backend: Any, classes: int) -> None:
    rows = np.array(list(itertools.product(VALUES, repeat=classes)))
    p = np.array([chances(row) for row in rows])
    x = backend.asarray(rows)
    close(backend.to_numpy(backend.jit(al.softmax)(x)), p, backend.rtol())
    with np.errstate(divide="ignore"):
        close(backend.to_numpy(backend.jit(al.log_softmax)(x)), np.log(p), backend.rtol())
    nan = np.isnan(rows).any(-1)
    got = backend.to_numpy(backend.jit(al.logsumexp)(x))
    assert np.isnan(got[nan]).all()
    assert not np.isnan(got[np.isfinite(rows).all(-1)]).any()
    assert (got[np.isneginf(rows).all(-1)] == -INF).all()
