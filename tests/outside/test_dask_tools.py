"""Dask: sizes that are not known yet, and sizes of 0."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import arrayloss as al
from arrayloss import value_and_grad
from outside.common import ACTIVATIONS, LOSSES, arguments, close, over_losses

da = pytest.importorskip("dask.array")


def test_rows_chosen_by_a_mask_say_what_to_call() -> None:
    x, labels = arguments(al.cross_entropy)
    lazy, lazy_labels = da.from_array(x, chunks=(3, 3)), da.from_array(labels, chunks=3)
    unknown = lazy[lazy[:, 0] > -100]
    calls = [
        lambda: al.cross_entropy(unknown, lazy_labels),
        lambda: value_and_grad(al.cross_entropy)(unknown, lazy_labels),
        lambda: al.cross_entropy(lazy, lazy_labels[lazy_labels >= 0]),
        lambda: al.binary_cross_entropy_with_logits(unknown, lazy > 0),
        lambda: al.kl_divergence_with_logits(unknown, unknown),
        lambda: al.softmax(unknown),
        lambda: al.sigmoid(unknown),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"compute_chunk_sizes\(\)"):
            call()


def test_sizes_once_computed() -> None:
    x, labels = arguments(al.cross_entropy)
    lazy = da.from_array(x, chunks=(3, 3))
    known = lazy[lazy[:, 0] > -100].compute_chunk_sizes()
    expected = al.cross_entropy(x, labels)
    close(al.cross_entropy(known, da.from_array(labels, chunks=known.chunks[0])).compute(), expected, 1e-12)


def test_one_sample_with_weights_of_the_classes() -> None:
    x, weight = np.asarray([0.5, -1.0, 2.0]), np.asarray([1.0, 0.5, 2.0])
    for label, reduction in itertools.product((0, 2), ("none", "mean")):
        due = al.cross_entropy(x, np.asarray(label), class_weight=weight, reduction=reduction)
        lazy = (da.from_array(a) for a in (x, np.asarray(label)))
        got = al.cross_entropy(*lazy, class_weight=da.from_array(weight), reduction=reduction)
        close(got.compute(), due, 1e-12)


SHAPES = [((0, 3), -1), ((2, 0, 3), -1), ((0, 2, 3), -1), ((3, 0), 0), ((0, 3, 2), 1)]


@over_losses
def test_a_size_of_0(loss: Any) -> None:
    categorical = loss in LOSSES[:5]
    for (shape, axis), reduction, chunks in itertools.product(SHAPES, ("none", "sum", "mean"), ("auto", 1)):
        lead = tuple(np.delete(shape, axis))
        target = shape if loss is al.kl_divergence_with_logits or not categorical else lead
        kind = np.float64 if loss is al.kl_divergence_with_logits else np.int64
        x, t = (da.from_array(a, chunks=chunks) for a in (np.zeros(shape), np.zeros(target, dtype=kind)))
        options = {"reduction": reduction} | ({"axis": axis} if categorical else {})
        value = loss(x, t, **options).compute()
        if reduction == "none":
            assert value.shape == (lead if categorical else shape)
            options["cotangent"] = da.from_array(np.zeros(value.shape))
        else:
            close(value, 0.0 if reduction == "sum" else np.nan)
        assert value_and_grad(loss)(x, t, **options)[1].compute().shape == shape


@pytest.mark.parametrize("function", ACTIVATIONS, ids=lambda f: f.__name__)
def test_a_function_of_a_size_of_0(function: Any) -> None:
    for shape in ((0, 3), (2, 0, 3)):
        due = shape[:-1] if function is al.logsumexp else shape
        assert function(da.from_array(np.zeros(shape))).compute().shape == due
