"""`balanced_class_weight`: scikit-learn's numbers, in every library and in compiled code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arrayloss import balanced_class_weight, cross_entropy

# array-api-strict 2.6.1's searchsorted makes an int64 even where its device has none.
with_int64 = pytest.mark.only(lambda backend: backend.has_int64)
LABELS = np.array([[0, 0, 3, 1], [3, 3, 3, 0]])


@with_int64
def test_the_numbers_of_scikit_learn(backend: Any) -> None:
    compute_class_weight = pytest.importorskip("sklearn.utils.class_weight").compute_class_weight
    due = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=LABELS.ravel()) * 3 / 4
    for dtype in ("int32", "uint8"):
        got = balanced_class_weight(backend.asarray(LABELS.astype(dtype)), 4)
        np.testing.assert_allclose(backend.to_numpy(got)[[0, 1, 3]], due, rtol=1e-6)
        assert backend.to_numpy(got)[2] == 2  # as of a class that occurs once
        narrow = balanced_class_weight(backend.asarray(LABELS.astype(dtype)), 4, dtype=backend.dtype("float32"))
        assert narrow.dtype == backend.dtype("float32")


@with_int64
def test_what_is_no_class_does_not_count(backend: Any) -> None:
    got = balanced_class_weight(backend.asarray(np.array([-100, 0, 1, 1, 1, 7])), 2)
    np.testing.assert_allclose(backend.to_numpy(got), [2, 2 / 3], rtol=1e-6)
    none = balanced_class_weight(backend.asarray(np.array([-100, -1])), 2)
    np.testing.assert_array_equal(backend.to_numpy(none), [0, 0])


def test_under_jit() -> None:
    jax = pytest.importorskip("jax")
    x = jax.numpy.asarray(np.random.default_rng(0).normal(size=(8, 4)))
    labels = jax.numpy.asarray(LABELS.ravel())
    got = jax.jit(lambda x, t: cross_entropy(x, t, class_weight=balanced_class_weight(t, 4)))(x, labels)
    due = cross_entropy(x, labels, class_weight=balanced_class_weight(labels, 4))
    np.testing.assert_allclose(np.asarray(got), np.asarray(due), rtol=1e-5)
