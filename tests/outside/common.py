"""The losses with arguments that fit them, and the exact answers."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import reference

import arrayloss as al

Array = npt.NDArray[Any]
INF, NAN = float("inf"), float("nan")

CATEGORICAL = [al.nll_loss, al.cross_entropy, al.softmax_focal_loss, al.poly_loss]
SOFTMAX = CATEGORICAL[1:]
BINARY = [
    al.binary_cross_entropy,
    al.binary_cross_entropy_with_logits,
    al.sigmoid_focal_loss,
    al.asymmetric_loss,
]
LOSSES = [*CATEGORICAL, al.kl_divergence_with_logits, *BINARY]
ACTIVATIONS = [al.softmax, al.log_softmax, al.logsumexp, al.sigmoid, al.log_sigmoid]

over_losses = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
over_categorical = pytest.mark.parametrize("loss", CATEGORICAL, ids=lambda loss: loss.__name__)
over_binary = pytest.mark.parametrize("loss", BINARY, ids=lambda loss: loss.__name__)


# Not eager JAX, which compiles every operation for every shape: the same program is compiled whole elsewhere.
left_to_jit = pytest.mark.only(lambda backend: backend.name not in ("jax:cpu", "jax:cuda"))
only_where_nobody_can_look = pytest.mark.only(lambda backend: backend.reports_labels is False)


def arguments(loss: Any, soft: bool = False, shape: tuple[int, int] = (8, 3), seed: int = 0) -> tuple[Array, Array]:
    """Harmless logits and a target: labels, or with `soft` numbers that can be differentiated by."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape)
    if loss is al.nll_loss:
        x = x - np.log(np.exp(x).sum(-1, keepdims=True))
    if loss is al.binary_cross_entropy:
        x = 1 / (1 + np.exp(-x))
    if loss is al.kl_divergence_with_logits:
        return x, rng.normal(size=shape)
    if loss in BINARY:
        return x, rng.random(shape) if soft else rng.integers(2, size=shape)
    return x, rng.dirichlet(np.ones(shape[1]), size=shape[0]) if soft else rng.integers(shape[1], size=shape[0])


def of(loss: Any, **options: Any) -> tuple[Any, dict[str, Any]]:
    """The reference that stands for a loss, and its options there, at the loss's own defaults."""
    if loss is al.kl_divergence_with_logits:
        return reference.divergence, options
    if loss in (al.softmax_focal_loss, al.sigmoid_focal_loss):
        options = {"gamma": 2.0, **options}
    if loss is al.poly_loss:
        options = {"epsilon": 2.0, **options}
    if loss is al.asymmetric_loss:
        gammas = options.pop("gamma_positive", 1.0), options.pop("gamma_negative", 4.0)
        options = {"gammas": gammas, "margin": 0.05, **options}
    if loss in BINARY:
        return reference.binary, {**options, **({"probs": True} if loss is al.binary_cross_entropy else {})}
    return reference.categorical, {**options, **({"log_probs": True} if loss is al.nll_loss else {})}


def losses_of(loss: Any, x: Array, t: Array, **options: Any) -> Array:
    """The exact loss of each sample."""
    formula, named = of(loss, **options)
    return reference.value(formula, x, t, **named)


def mean_of(loss: Any, x: Array, t: Array, **options: Any) -> tuple[Array, Array]:
    """The exact mean and its gradient."""
    formula, named = of(loss, **options)
    value = reference.value(formula, x, t, reduce=reference.mean, **named)
    return value, reference.gradient(formula, x, t, reduce=reference.mean, **named)


def close(got: Any, expected: Any, rtol: float = 1e-5, what: str = "") -> None:
    """Equal to so many digits of the largest number, NaN and infinity in the same places."""
    due = np.asarray(expected, dtype=float)
    finite = np.abs(due[np.isfinite(due)])
    atol = rtol * float(finite.max()) if finite.size else 0.0
    np.testing.assert_allclose(np.asarray(got, dtype=float), due, rtol=rtol, atol=atol, err_msg=what)


def out_of_range(
    backend: Any, loss: Any, x: Array, t: Array, bad: Array, *said: str, expected: Array, **options: Any
) -> None:
    """A ValueError that says so where the numbers can be looked at; else NaN for these samples, and for no other."""
    moved = backend.asarray(x), backend.asarray(t)
    given = backend.options(options)
    if backend.reports_labels is not False:
        messages = []
        for call in (loss, al.value_and_grad(loss)):
            try:
                call(*moved, **given)
            except ValueError as error:
                messages.append(str(error))
        assert backend.reports_labels is None or len(messages) == 2, "no ValueError"
        for part, message in itertools.product(said, messages):
            assert part in message, message
        if messages:
            return
    for way, (value, gradient) in backend.evaluate(loss, x, t, reduction="none", **options).items():
        close(value, np.where(bad, NAN, expected), 10 * backend.rtol(), f"{way}: {value}")
        if gradient is not None:
            nan = np.isnan(gradient)
            nan = nan if nan.shape == bad.shape else nan.any(-1)
            np.testing.assert_array_equal(nan, bad, err_msg=f"gradient, {way}: {gradient}")
