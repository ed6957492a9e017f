"""Dask: nothing is computed at the call, and the samples stay in their chunks."""

from typing import Any

import numpy as np
import pytest
import reference

import arrayloss
from arrayloss import Hardest, Mean, Sum, cross_entropy, sigmoid_focal_loss, value_and_grad

da = pytest.importorskip("dask.array", reason="dask is not installed")
dask = pytest.importorskip("dask")

RNG = np.random.default_rng(3)
LOGITS = RNG.normal(size=(10, 3)).round(3)
LABELS = RNG.integers(0, 3, 10)
BITS = (RNG.random((10, 3)) > 0.5).astype(np.int64)
WEIGHT = RNG.uniform(0.5, 2.0, 10)


class Computed(Exception):
    pass


def raising(*args: Any, **kwargs: Any) -> Any:
    raise Computed("a computation was started")


def lazily(f: Any, *args: Any, **options: Any) -> Any:
    with dask.config.set(scheduler=raising):
        return f(*args, **options)


def chunked(x: Any, size: int = 4) -> Any:
    return da.from_array(x, chunks=(size, *x.shape[1:]))


CALLS = [
    ("cross_entropy", LOGITS, LABELS),
    ("cross_entropy", LOGITS, reference.one_hot(LABELS, 3)),
    ("softmax_focal_loss", LOGITS, LABELS),
    ("nll_loss", LOGITS, LABELS),
    ("poly_loss", LOGITS, LABELS),
    ("kl_divergence", -np.abs(LOGITS), np.abs(LOGITS)),
    ("kl_divergence_with_logits", LOGITS, LOGITS[::-1].copy()),
    ("js_divergence_with_logits", LOGITS, LOGITS[::-1].copy()),
    ("binary_cross_entropy", 1 / (1 + np.exp(-LOGITS)), BITS),
    ("binary_cross_entropy_with_logits", LOGITS, BITS),
    ("sigmoid_focal_loss", LOGITS, BITS),
    ("asymmetric_loss", LOGITS, BITS),
]


def test_the_scheduler_raises() -> None:
    """The instrument works."""
    with pytest.raises(Computed):
        lazily(lambda: chunked(LOGITS).sum().compute())


DIVERGENCES = ("kl_divergence", "kl_divergence_with_logits", "js_divergence_with_logits")
CATEGORICAL = ("cross_entropy", "softmax_focal_loss", "nll_loss", "poly_loss", *DIVERGENCES)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum", Mean(over="all", empty="zero"), Hardest(k=3)], ids=str)
@pytest.mark.parametrize(("name", "logits", "target"), CALLS)
def test_nothing_is_computed(name: str, logits: Any, target: Any, reduction: Any) -> None:
    loss = getattr(arrayloss, name)
    if reduction == "none":
        shape = LABELS.shape if name in CATEGORICAL else LOGITS.shape
        options: dict[str, Any] = {"reduction": "none", "cotangent": np.ones(shape)}
    else:
        options = {"reduction": reduction}
    lazy = options | {k: chunked(v) for k, v in options.items() if isinstance(v, np.ndarray)}
    value, gradient = lazily(value_and_grad(loss), chunked(logits), chunked(target), **lazy)
    plain = lazily(loss, chunked(logits), chunked(target), reduction=reduction)
    for out in (value, gradient, plain):
        assert isinstance(out, da.Array)
    right, slope = value_and_grad(loss)(logits, target, **options)
    np.testing.assert_allclose(value.compute(), right, rtol=1e-12)
    np.testing.assert_allclose(plain.compute(), right, rtol=1e-12)
    np.testing.assert_allclose(gradient.compute(), slope, rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp", "sigmoid", "log_sigmoid"])
def test_activations_are_lazy(name: str) -> None:
    f = getattr(arrayloss, name)
    out = lazily(f, chunked(LOGITS))
    assert isinstance(out, da.Array)
    assert out.chunks[0] == (4, 4, 2)
    np.testing.assert_allclose(out.compute(), f(LOGITS), rtol=1e-12)


def test_the_samples_stay_in_their_chunks() -> None:
    loss = lazily(cross_entropy, chunked(LOGITS), chunked(LABELS), reduction="none")
    assert loss.chunks == ((4, 4, 2),)
    _, gradient = lazily(value_and_grad(cross_entropy), chunked(LOGITS), chunked(LABELS))
    assert gradient.chunks[0] == (4, 4, 2)
    element = lazily(sigmoid_focal_loss, chunked(LOGITS), chunked(BITS), reduction="none")
    assert element.chunks[0] == (4, 4, 2)


def test_the_options_are_lazy() -> None:
    options = {"sample_weight": WEIGHT, "class_weight": np.array([1.0, 0.5, 2.0]), "where": WEIGHT > 0.7}
    lazy = {k: chunked(v) for k, v in options.items()}
    value, gradient = lazily(value_and_grad(cross_entropy), chunked(LOGITS), chunked(LABELS), **lazy)
    right, slope = value_and_grad(cross_entropy)(LOGITS, LABELS, **options)
    np.testing.assert_allclose(value.compute(), right, rtol=1e-12)
    np.testing.assert_allclose(gradient.compute(), slope, rtol=1e-12, atol=1e-16)


def test_any_axis_and_any_chunks() -> None:
    """Even where the class axis itself is in pieces, or logits and labels are cut differently."""
    lazy = da.from_array(LOGITS.T.copy(), chunks=(2, 5))
    loss = lazily(cross_entropy, lazy, chunked(LABELS, 3), axis=0, reduction=Sum())
    np.testing.assert_allclose(loss.compute(), cross_entropy(LOGITS, LABELS, reduction="sum"), rtol=1e-12)


def test_a_label_out_of_range_is_nan() -> None:
    """A check would have to compute."""
    labels = LABELS.copy()
    labels[5] = 3
    loss = lazily(cross_entropy, chunked(LOGITS), chunked(labels), reduction="none").compute()
    np.testing.assert_array_equal(np.isnan(loss), np.arange(10) == 5)
    assert np.isnan(lazily(cross_entropy, chunked(LOGITS), chunked(labels)).compute())
