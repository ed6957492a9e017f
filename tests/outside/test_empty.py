"""Nothing to reduce, and nothing to compute: zeros where a sum is asked for, NaN where a mean is, shapes throughout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import arrayloss as al
from arrayloss import Hardest, Mean, Sum, value_and_grad
from outside.common import ACTIVATIONS, BINARY, CATEGORICAL, INF, NAN, left_to_jit

REDUCTIONS = [
    (Hardest(k=3), NAN),
    (Hardest(fraction=0.5), NAN),
    (Mean(over="valid"), NAN),
    (Mean(over="all"), NAN),
    (Mean(over="all", empty="zero"), 0.0),
    (Mean(empty="zero"), 0.0),
    (Mean(over=4), 0.0),
    (Sum(), 0.0),
    ("sum", 0.0),
    ("mean", NAN),
]
EMPTY = [
    *((loss, (0, 3), (0,)) for loss in CATEGORICAL),
    (al.cross_entropy, (2, 0, 3), (2, 0)),
    (al.kl_divergence_with_logits, (0, 3), (0, 3)),
    *((loss, (0,), (0,)) for loss in BINARY),
    (al.sigmoid_focal_loss, (3, 0), (3, 0)),
]


@pytest.mark.parametrize("family", ["categorical", "binary"])
def test_an_empty_batch(backend: Any, family: str) -> None:
    for loss, logits, target in EMPTY:
        if (loss in BINARY) != (family == "binary"):
            continue
        kind = np.float64 if loss is al.kl_divergence_with_logits else np.int64
        x, t = backend.asarray(np.zeros(logits)), backend.asarray(np.zeros(target, dtype=kind))
        # Of those that share the reduction's code, one loss has all, and on slow libraries one shape.
        every = loss in (al.cross_entropy, al.sigmoid_focal_loss) and (backend.is_quick or logits[0] == 0)
        for reduction, due in REDUCTIONS if every else REDUCTIONS[:2]:
            value, gradient = value_and_grad(loss)(x, t, reduction=reduction)
            assert tuple(gradient.shape) == logits
            for got in (value, loss(x, t, reduction=reduction)):
                np.testing.assert_equal(float(backend.to_numpy(got)), due, err_msg=f"{loss.__name__}, {reduction}")


@left_to_jit
def test_the_hardest_of_samples_that_do_not_count(backend: Any) -> None:
    x, t = backend.asarray(np.array([[1.0, 2.0], [NAN, INF]])), backend.asarray(np.array([-100, -100]))
    for reduction in (Hardest(k=3), Hardest(fraction=0.5)):
        value, gradient = value_and_grad(al.cross_entropy)(x, t, reduction=reduction)
        assert np.isnan(backend.to_numpy(value))
        np.testing.assert_array_equal(backend.to_numpy(gradient), 0)


@pytest.mark.autodiff
def test_an_empty_batch_differentiates(backend: Any) -> None:
    x, t = backend.asarray(np.zeros((0, 3))), backend.asarray(np.zeros(0, dtype=np.int64))
    for reduction in (Hardest(k=3), Hardest(fraction=0.5), "sum", "mean"):
        _, gradient = backend.pullback(lambda x, t, r=reduction: al.cross_entropy(x, t, reduction=r), x, t)
        assert tuple(gradient.shape) == (0, 3)


@pytest.mark.parametrize("function", ACTIVATIONS, ids=lambda f: f.__name__)
def test_functions_of_nothing(backend: Any, function: Any) -> None:
    for shape in ((0, 3), (2, 0, 3)):
        due = shape[:-1] if function is al.logsumexp else shape
        assert tuple(backend.to_numpy(function(backend.asarray(np.zeros(shape)))).shape) == due
