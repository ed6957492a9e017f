"""Labels are compared as the integers they are, whatever their dtype holds; integers of NumPy are integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import arrayloss as al
from outside.common import (
    ACTIVATIONS,
    BINARY,
    CATEGORICAL,
    Array,
    arguments,
    close,
    losses_of,
    out_of_range,
    over_losses,
)

P = np.array([0.5, 0.25, 0.75, 0.125])


def moved(backend: Any, labels: Array, dtype: str) -> Any:
    try:
        return backend.asarray(labels, dtype)
    except (AttributeError, TypeError) as reason:
        pytest.skip(f"{backend.name} has no {dtype}: {reason}")


def available(backend: Any, dtype: str) -> None:
    if dtype.endswith("64") and not backend.has_int64:
        pytest.skip("this device has no 64-bit integers")


BEYOND = [256, 257, -255, -256, 2**40, -(2**40), 2**63, 2**64]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32"])
def test_a_binary_label_to_ignore_that_the_dtype_has_not(backend: Any, dtype: str) -> None:
    y = np.array([0, 1, 1, 0])
    target = moved(backend, y, dtype)
    for loss in BINARY if backend.library != "jax" else BINARY[1:2]:
        expected = losses_of(loss, P, y)
        for ignore_index in BEYOND if loss in BINARY[:2] else BEYOND[:2]:
            got = loss(backend.asarray(P), target, ignore_index=ignore_index, reduction="none")
            close(backend.to_numpy(got), expected, 10 * backend.rtol(), str(ignore_index))


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_a_label_to_ignore_that_the_dtype_has_not(backend: Any, dtype: str) -> None:
    if backend.library in ("jax", "dask") and dtype == "int8":
        pytest.skip("time: as uint8")
    for loss in CATEGORICAL if backend.library != "jax" else CATEGORICAL[1:2]:
        x, labels = arguments(loss, shape=(4, 3))
        expected = losses_of(loss, x, labels)
        for ignore_index in (256, 257, 258, -255, -254, 2**40, 2**64):
            got = loss(backend.asarray(x), moved(backend, labels, dtype), ignore_index=ignore_index, reduction="none")
            close(backend.to_numpy(got), expected, 10 * backend.rtol(), str(ignore_index))


def test_the_bits_of_minus_one_are_no_label_to_ignore(backend: Any) -> None:
    """255 as uint8 is 255, not -1."""
    y, x = np.array([0, 255, 1, 0]), np.array([0.5, 0.25, -0.75, 0.125])
    expected = losses_of(al.binary_cross_entropy_with_logits, x, np.array([0, 0, 1, 0]))
    got = al.binary_cross_entropy_with_logits(
        backend.asarray(x), moved(backend, y, "uint8"), ignore_index=255, reduction="none"
    )
    close(backend.to_numpy(got), np.where(y == 255, 0, expected), 10 * backend.rtol())
    labels = y.astype(np.uint8)
    out_of_range(
        backend,
        al.binary_cross_entropy_with_logits,
        x,
        labels,
        y == 255,
        "255",
        expected=expected,
        ignore_index=-1,
    )


@pytest.mark.parametrize(
    ("dtype", "label"),
    [
        ("uint64", 2**64 - 100),
        ("uint64", 2**63),
        ("uint32", 2**32 - 100),
        ("uint16", 2**16 - 100),
        ("uint8", 256 - 100),
        ("int64", 2**32 + 1),
        ("int64", 2**40),
        ("int64", -(2**63)),
    ],
)
def test_a_label_that_wraps_to_one_in_range(backend: Any, dtype: str, label: int) -> None:
    available(backend, dtype)
    for loss in CATEGORICAL if backend.reports_labels is not False else [al.nll_loss]:
        x, good = arguments(loss, shape=(4, 3))
        labels = good.astype(dtype)
        labels[2] = label
        expected = losses_of(loss, x, good)
        moved(backend, labels, dtype)
        out_of_range(backend, loss, x, labels, np.arange(4) == 2, str(label), expected=expected)


@pytest.mark.compiled
def test_a_label_that_wraps_where_nobody_can_look(backend: Any) -> None:
    if backend.reports_labels is not False:
        pytest.skip("the test above")
    x, good = arguments(al.cross_entropy, shape=(4, 3))
    labels = good.astype(np.uint32)
    labels[2] = 2**32 - 100
    moved(backend, labels, "uint32")
    expected = losses_of(al.cross_entropy, x, good)
    out_of_range(backend, al.cross_entropy, x, labels, np.arange(4) == 2, expected=expected)


@pytest.mark.parametrize("dtype", ["uint64", "uint32"])
def test_a_binary_label_that_wraps(backend: Any, dtype: str) -> None:
    available(backend, dtype)
    for loss in BINARY if backend.reports_labels is not False else BINARY[:1]:
        y = np.array([0, 1, 1, 0]).astype(dtype)
        expected = losses_of(loss, P, y.astype(np.int64))
        y[2] = 2 ** int(dtype[4:]) - 1
        moved(backend, y, dtype)
        out_of_range(backend, loss, P, y, np.arange(4) == 2, str(y[2]), expected=expected, ignore_index=-1)


@pytest.mark.parametrize("ignore_index", [0, 1])
def test_a_target_of_bool_and_a_label_to_ignore(backend: Any, ignore_index: int) -> None:
    y = np.array([False, True, True, False])
    for loss in BINARY if backend.library != "jax" else BINARY[:1]:
        expected = np.where(y == bool(ignore_index), 0, losses_of(loss, P, y.astype(int)))
        got = loss(backend.asarray(P), backend.asarray(y), ignore_index=ignore_index, reduction="none")
        close(backend.to_numpy(got), expected, 10 * backend.rtol())


def test_a_target_of_bool_has_no_label_beyond(backend: Any) -> None:
    y = np.array([False, True, True, False])
    expected = losses_of(al.sigmoid_focal_loss, P, y.astype(int))
    for ignore_index in (2, -1, 256):
        got = al.sigmoid_focal_loss(backend.asarray(P), backend.asarray(y), ignore_index=ignore_index, reduction="none")
        close(backend.to_numpy(got), expected, 10 * backend.rtol())


def test_integers_of_numpy(backend: Any) -> None:
    for integer in (np.int64, np.int32, np.uint8) if backend.library != "jax" else (np.int64,):
        integers_of(backend, integer)


def integers_of(backend: Any, integer: Any) -> None:
    x, labels = arguments(al.cross_entropy, shape=(4, 3))
    moved_x, moved_labels = backend.asarray(x), backend.asarray(labels)
    k = al.Hardest(k=integer(2))
    expected = np.sort(losses_of(al.cross_entropy, x, labels))[-2:].mean()
    got = al.cross_entropy(moved_x, moved_labels, axis=integer(1), reduction=k)
    close(backend.to_numpy(got), expected, 10 * backend.rtol())
    kept = np.where(labels == 1, 0, losses_of(al.cross_entropy, x, labels))
    got = al.cross_entropy(moved_x, moved_labels, ignore_index=integer(1), reduction="none")
    close(backend.to_numpy(got), kept, 10 * backend.rtol())
    close(backend.to_numpy(al.softmax(moved_x, axis=integer(1))).sum(-1), np.ones(4), 10 * backend.rtol())
    close(backend.to_numpy(al.logsumexp(moved_x, axis=integer(0))), np.log(np.exp(x).sum(0)), 10 * backend.rtol())


@over_losses
def test_a_bool_is_no_axis(loss: Any) -> None:
    x, t = arguments(loss)
    if loss in BINARY:
        pytest.skip("no axis")
    for axis in (True, np.True_, 1.0, np.float64(1), None):
        with pytest.raises(TypeError, match="axis"):
            loss(x, t, axis=axis)


@pytest.mark.parametrize("function", ACTIVATIONS[:3], ids=lambda f: f.__name__)
def test_none_is_no_axis(function: Any) -> None:
    with pytest.raises(TypeError, match="axis must be an int, not None"):
        function(np.zeros((2, 3)), axis=None)


def test_a_bool_is_no_k() -> None:
    for k in (True, np.True_, 2.0, np.float64(2)):
        with pytest.raises((TypeError, ValueError), match="k must be an int"):
            al.Hardest(k=k)
