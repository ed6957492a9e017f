"""Adding a loss, tried for real: one penalty and one public function, and everything else is there."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from arrayloss import cross_entropy, extending, objective, value_and_grad


@dataclass(frozen=True)
class Generalised(extending.Penalty):
    q: Any

    def value(self, ops: Any, at: Any) -> Any:
        return -ops.xp.expm1(-self.q * at.neg_log_p) / self.q

    def slope(self, ops: Any, at: Any) -> Any:
        return ops.xp.exp(-self.q * at.neg_log_p)


@extending.loss
def generalised_loss(logits: Any, target: Any, /, *, q: Any = 0.7, **options: Any) -> Any:
    return extending.categorical(extending.softmax, Generalised(q), logits, target, **options)


@extending.loss
def binary_generalised_loss(logits: Any, target: Any, /, *, q: Any = 0.7, **options: Any) -> Any:
    return extending.binary(extending.sigmoid, Generalised(q), logits, target, **options)


def test_a_penalty_is_two_short_methods() -> None:
    code = [line for line in inspect.getsource(Generalised).splitlines() if line.strip()]
    assert len(code) <= 9


LOGITS = np.asarray([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0], [2.0, 2.0, -1.0], [5.0, 0.0, 1.0]])


def expected(x: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values, and the gradient of their sum, in plain float64."""
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    slope = q * p**0.7
    return (q * (1 - p**0.7) / 0.7).sum(1), p * slope.sum(1, keepdims=True) - slope


@pytest.mark.parametrize("soft", [False, True], ids=["labels", "soft"])
def test_generalised_loss(backend: Any, soft: bool) -> None:
    q = np.asarray([[0.2, 0.3, 0.5], [0, 1, 0], [1, 0, 0], [0.9, 0.1, 0]]) if soft else np.eye(3)[[2, 1, 0, 0]]
    value, gradient = expected(LOGITS, q)
    target = q if soft else np.argmax(q, axis=1)
    backend.agree(generalised_loss, LOGITS, target, value.mean(), gradient / 4, rtol=8 * backend.rtol())


def test_binary_generalised_loss(backend: Any) -> None:
    x, y = LOGITS[:, 0], np.asarray([0, 1, 1, 0])
    pairs = np.stack([np.zeros(4), x], axis=1)
    value, gradient = expected(pairs, np.eye(2)[y])
    backend.agree(binary_generalised_loss, x, y, value.mean(), gradient[:, 1] / 4, rtol=8 * backend.rtol())


def test_value_and_grad_has_it_too() -> None:
    value, gradient = value_and_grad(generalised_loss)(LOGITS, np.asarray([2, 1, 0, 0]), reduction="sum")
    values, gradients = expected(LOGITS, np.eye(3)[[2, 1, 0, 0]])
    np.testing.assert_allclose(value, values.sum(), rtol=1e-14)
    np.testing.assert_allclose(gradient, gradients, rtol=1e-13)


def test_a_number_of_the_penalty_may_be_traced() -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed")
    x, y = jax.numpy.asarray(LOGITS), jax.numpy.asarray([2, 1, 0, 0])
    traced = jax.jit(lambda x, y, q: generalised_loss(x, y, q=q))(x, y, 0.7)
    np.testing.assert_allclose(traced, generalised_loss(x, y), rtol=1e-5)


class OneMinusP(extending.Penalty):
    """1 - p, whose derivatives by -log p are p and -p."""

    def value(self, ops: Any, at: Any) -> Any:
        return at.one_minus_p

    def slope(self, ops: Any, at: Any) -> Any:
        return at.p


class Curved(OneMinusP):
    def curvature(self, ops: Any, at: Any) -> Any:
        return -at.p * at.one_minus_p


def test_a_third_formula_makes_a_new_loss_an_objective() -> None:
    def made(penalty: Any) -> Any:
        @extending.loss
        def one_minus_p(logits: Any, target: Any, /, **options: Any) -> Any:
            return extending.categorical(extending.softmax, penalty, logits, target, **options)

        return one_minus_p

    labels = np.asarray([2, 1, 0, 0])
    with pytest.raises(TypeError, match="curvature"):
        objective(made(OneMinusP()))(labels, LOGITS)
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    own = np.eye(3)[labels]
    # d (1 - p_t) / d x_j = p_t (p_j - [j = t]), and once more.
    due = (p * own).sum(1, keepdims=True) * (p * (1 - p) - (p - own) ** 2)
    np.testing.assert_allclose(objective(made(Curved()))(labels, LOGITS)[1], due, rtol=1e-9, atol=1e-16)


def test_a_penalty_that_lacks_a_part_is_refused_where_it_is_defined() -> None:
    with pytest.raises(TypeError, match="slope"):

        class Half(extending.Penalty):
            def value(self, ops: Any, at: Any) -> Any:
                return at.neg_log_p


def test_a_reduction_that_lacks_its_method_is_refused_where_it_is_defined() -> None:
    with pytest.raises(TypeError, match="parts"):

        class Half(extending.Reduction):
            pass


@dataclass(frozen=True)
class Halved(extending.Reduction):
    """Half of the sum."""

    def parts(self, samples: Any, losses: Any) -> extending.Parts:
        return extending.Parts(None, 2.0)


@dataclass(frozen=True)
class Above(extending.Reduction):
    """The mean of the losses above a number."""

    ranks = True
    least: float

    def parts(self, samples: Any, losses: Any) -> extending.Parts:
        share = samples.backend.astype(losses > self.least, losses.dtype)
        return extending.Parts(share, samples.backend.sum(share), 0.0)


@pytest.mark.parametrize("reduction", [Halved(), Above(1.0)], ids=repr)
def test_a_reduction_of_ones_own(backend: Any, reduction: Any) -> None:
    labels = np.asarray([1, 1, 2, 0])
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    losses, gradients = -np.log(p[range(4), labels]), p - np.eye(3)[labels]
    share = np.full(4, 0.5) if isinstance(reduction, Halved) else (losses > 1) / (losses > 1).sum()

    options = {"reduction": reduction, "rtol": 8 * backend.rtol()}
    backend.agree(cross_entropy, LOGITS, labels, share @ losses, share[:, None] * gradients, **options)
