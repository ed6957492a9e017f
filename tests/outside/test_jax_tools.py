"""JAX: forward mode by every input, constants that a jitted function closes over, exported programs."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import arrayloss as al
from arrayloss import value_and_grad
from outside.common import INF, LOSSES, NAN, SOFTMAX, arguments, close, losses_of, over_losses

jax = pytest.importorskip("jax")
jnp = pytest.importorskip("jax.numpy")


def moved(*arrays: Any) -> list[Any]:
    return [jnp.asarray(a, dtype=np.float32 if a.dtype.kind == "f" else None) for a in map(np.asarray, arrays)]


# --- forward mode -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", SOFTMAX, ids=lambda loss: loss.__name__)
def test_zero_tangents_at_special_values(loss: Any) -> None:
    """0 * inf is 0: a tangent of zeros gives one of 0 wherever the loss is finite."""
    rows = np.array(list(itertools.product([0.0, 2.0, INF, -INF, NAN], repeat=3)))
    for target in ([0.0, 1.0, 0.0], [0.5, 0.5, 0.0]):
        x, t = moved(rows, np.tile(target, (len(rows), 1)))
        run = jax.jit(
            lambda x, t: jax.jvp(
                lambda x, t: loss(x, t, reduction="none"), (x, t), (jnp.zeros_like(x), jnp.zeros_like(t))
            )
        )
        primal, tangent = run(x, t)
        finite = np.isfinite(np.asarray(primal))
        assert finite.sum() > 10
        np.testing.assert_array_equal(np.asarray(tangent)[finite], 0)


def test_zero_tangents_of_samples_that_do_not_count() -> None:
    """The weight of a sample that `where` leaves out has a tangent too, and the loss of that sample may be nan."""
    x = jnp.asarray([[0.0, 1.0, 2.0], [NAN, 0.0, 1.0], [-INF, 0.0, INF]])
    labels, weight = jnp.asarray([0, 1, 0]), jnp.asarray([1.0, 2.0, 0.0])

    def f(w: Any) -> Any:
        return al.cross_entropy(x, labels, sample_weight=w, where=jnp.asarray([True, False, True]), reduction="none")

    value, tangent = jax.jvp(f, (weight,), (jnp.zeros(3),))
    assert np.isfinite(value).all()
    np.testing.assert_array_equal(tangent, 0)


@pytest.mark.parametrize("loss", [al.softmax_focal_loss, al.sigmoid_focal_loss], ids=lambda loss: loss.__name__)
def test_derivatives_by_targets_of_0_and_1_with_a_traced_option(loss: Any) -> None:
    """The slope by a target of 0 is the penalty, and not 0, where the formula itself is differentiated too."""
    x, t = moved(*arguments(loss, shape=(4, 3)))
    target = (jax.nn.one_hot(t, 3) if t.ndim == 1 else t).astype(x.dtype)
    run = jax.jit(jax.grad(lambda target, gamma: loss(x, target, gamma=gamma, reduction="sum")))
    due = jax.grad(lambda target: loss(x, target, gamma=1.5, reduction="sum"))(target)
    assert np.abs(due[target == 0]).min() > 0
    close(run(target, 1.5), due, 1e-5)


def test_the_slope_of_a_gradient_by_a_weight_of_zero() -> None:
    x, labels = moved(*arguments(al.cross_entropy, shape=(4, 3)))
    for target in (labels, jax.nn.one_hot(labels, 3)):

        def gradient(w: Any, target: Any = target) -> Any:
            return jax.grad(lambda x: al.cross_entropy(x, target, sample_weight=w, reduction="sum"))(x)

        due = gradient(jnp.ones(4))
        slopes = jax.jit(jax.jacrev(gradient))(jnp.zeros(4))
        close(jnp.sum(slopes, -1), due, 1e-5)


def test_the_issues_own() -> None:
    x, t = moved([-INF, 0.0, 0.0], [0.0, 1.0, 0.0])
    run = jax.jit(lambda x, t: jax.jvp(al.cross_entropy, (x, t), (jnp.zeros(3), jnp.zeros(3))))
    primal, tangent = run(x, t)
    close(primal, np.log(2), 1e-6)
    assert tangent == 0


def test_zero_tangents_of_binary_losses_at_special_values() -> None:
    x, t = moved([INF, -INF, INF, -INF, 0.0, 1.0, NAN], [1.0, 0.0, 0.0, 1.0, 0.5, 0.25, 1.0])
    p = jnp.asarray([1.0, 0.0, 0.0, 1.0, 0.5, 0.25, NAN])

    @jax.jit
    def run(x: Any, p: Any, t: Any) -> Any:
        zeros = (jnp.zeros_like(x), jnp.zeros_like(t))
        return [
            jax.jvp(lambda x, t, loss=loss: loss(x, t, reduction="none"), (p if given else x, t), zeros)
            for loss, given in (
                (al.binary_cross_entropy_with_logits, False),
                (al.sigmoid_focal_loss, False),
                (al.asymmetric_loss, False),
                (al.binary_cross_entropy, True),
            )
        ]

    for primal, tangent in run(x, p, t):
        finite = np.isfinite(np.asarray(primal))
        assert finite.sum() >= 4
        np.testing.assert_array_equal(np.asarray(tangent)[finite], 0)


def test_zero_tangents_of_a_divergence_at_special_values() -> None:
    rows = list(itertools.product([0.0, 2.0, -INF], repeat=2))
    pairs = np.array(list(itertools.product(rows, repeat=2)))
    x, t = moved(pairs[:, 0], pairs[:, 1])
    zeros = jnp.zeros_like(x)
    run = jax.jit(
        lambda x, t: jax.jvp(lambda x, t: al.kl_divergence_with_logits(x, t, reduction="none"), (x, t), (zeros, zeros))
    )
    primal, tangent = run(x, t)
    finite = np.isfinite(np.asarray(primal))
    assert finite.sum() > 10
    np.testing.assert_array_equal(np.asarray(tangent)[finite], 0)


@pytest.mark.parametrize(
    "loss",
    [al.softmax_focal_loss, al.kl_divergence_with_logits, al.binary_cross_entropy, al.asymmetric_loss],
    ids=lambda loss: loss.__name__,
)
def test_forward_mode_is_reverse_mode(loss: Any) -> None:
    x, t = moved(*arguments(loss, soft=True, shape=(4, 3)))
    weight = jnp.asarray([1.0, 2.0, 0.5, 1.5])
    weight = weight if loss in LOSSES[:5] else weight[:, None]
    tangents = [jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape) for a in (x, t, weight)]

    @jax.jit
    def both(x: Any, t: Any, w: Any) -> Any:
        def f(x: Any, t: Any, w: Any) -> Any:
            return loss(x, t, sample_weight=w)

        forward = jax.jvp(f, (x, t, w), tuple(tangents))[1]
        gradients = jax.grad(f, argnums=(0, 1, 2))(x, t, w)
        return forward, sum(jnp.sum(g * v) for g, v in zip(gradients, tangents, strict=True))

    forward, reverse = both(x, t, weight)
    close(forward, reverse, 1e-4)


# --- constants ----------------------------------------------------------------------------------------------


def constants(xp: Any) -> dict[str, tuple[Any, Any]]:
    """Each argument as a constant: the function of the logits, and the logits."""

    def made(values: Any) -> Any:
        return xp.asarray(values, dtype=np.float32 if np.asarray(values).dtype.kind == "f" else None)

    x, labels = map(made, arguments(al.cross_entropy, shape=(4, 3)))
    soft = made(arguments(al.cross_entropy, soft=True, shape=(4, 3))[1])
    bits = made(arguments(al.sigmoid_focal_loss, shape=(4, 3))[1])
    per_class, per_sample = made([0.2, 0.3, 0.5]), made([1.0, 2.0, 0.5, 1.5])
    kept, teacher, share = xp.asarray([True, False, True, True]), xp.cos(x), made(0.25)
    column, column_labels = x[:, :1], labels[:, None] * 0
    return {
        "labels": (lambda x: al.cross_entropy(x, labels), x),
        "labels (N, 1)": (lambda x: al.cross_entropy(x[:, :, None], labels[:, None], axis=1), x),
        "labels (N, 1) of one class": (lambda x: al.softmax_focal_loss(x[:, None, :], column_labels, axis=1), column),
        "shares": (lambda x: al.cross_entropy(x, soft), x),
        "class_weight": (lambda x: al.cross_entropy(x, labels, class_weight=per_class), x),
        "sample_weight": (lambda x: al.cross_entropy(x, labels, sample_weight=per_sample), x),
        "where": (lambda x: al.cross_entropy(x, labels, where=kept), x),
        "alpha": (lambda x: al.softmax_focal_loss(x, labels, alpha=per_class), x),
        "over": (lambda x: al.cross_entropy(x, labels, reduction=al.Mean(over=share)), x),
        "target_logits": (lambda x: al.kl_divergence_with_logits(x, teacher), x),
        "bits": (lambda x: al.binary_cross_entropy_with_logits(x, bits), x),
        "bits (N, 1)": (lambda x: al.binary_cross_entropy_with_logits(x, bits[:, :1]), column),
        "bools (N, 1)": (lambda x: al.asymmetric_loss(x, bits[:, :1] > 0), column),
        "binary alpha": (lambda x: al.sigmoid_focal_loss(x, bits, alpha=share), x),
        "pos_weight": (lambda x: al.binary_cross_entropy_with_logits(x, bits, pos_weight=per_class), x),
        "cotangent": (
            lambda x: value_and_grad(al.nll_loss)(-x * x, labels, reduction="none", cotangent=per_sample)[1].sum(),
            x,
        ),
        "where of a function": (lambda x: (al.softmax(x, where=kept[:3]) ** 2).sum(), x),
    }


@pytest.mark.parametrize("name", constants(np))
def test_a_constant_of_a_jitted_function(name: str) -> None:
    plain, numbers = constants(np)[name]
    expected = plain(numbers)
    assert np.isfinite(expected)
    f, x = constants(jnp)[name]
    close(jax.jit(f)(x), expected, 1e-5)


def test_logits_too_may_be_a_constant() -> None:
    x, labels = moved(*arguments(al.cross_entropy, shape=(4, 3)))
    expected = al.cross_entropy(np.asarray(x), np.asarray(labels))
    close(jax.jit(lambda labels: al.cross_entropy(x, labels))(labels), expected, 1e-5)
    close(jax.jit(lambda: al.cross_entropy(x, labels))(), expected, 1e-5)


def test_a_constant_under_vmap_and_scan() -> None:
    x, labels = moved(*arguments(al.softmax_focal_loss, shape=(4, 3)))
    per_class = jnp.asarray([0.2, 0.3, 0.5])
    arrays = (np.asarray(a) for a in (x, labels, per_class))
    logits, target, alpha = arrays
    expected = al.softmax_focal_loss(logits, target, alpha=alpha, reduction="none")
    each = jax.vmap(lambda x, t: al.softmax_focal_loss(x, t, alpha=per_class))
    close(jax.jit(each)(x, labels), expected, 1e-5)

    def step(carry: Any, pair: Any) -> Any:
        return carry, al.softmax_focal_loss(*pair, alpha=per_class)

    close(jax.lax.scan(step, 0, (x, labels))[1], expected, 1e-5)


# --- exported programs --------------------------------------------------------------------------------------


@over_losses
def test_export_with_a_symbolic_batch(loss: Any) -> None:
    export = pytest.importorskip("jax.export")
    x, t = arguments(loss, shape=(4, 3))
    (rows,) = export.symbolic_shape("rows")
    shapes = [jax.ShapeDtypeStruct((rows, *a.shape[1:]), a.dtype) for a in moved(x, t)]
    program = export.export(jax.jit(value_and_grad(loss)))(*shapes)
    for number in (4, 7):
        x, t = arguments(loss, shape=(number, 3))
        value, gradient = program.call(*moved(x, t))
        expected = losses_of(loss, x.astype(np.float32), t.astype(np.float32) if t.dtype.kind == "f" else t).mean()
        close(value, expected, 1e-5)
        assert gradient.shape == x.shape


def test_export_with_a_symbolic_batch_and_options() -> None:
    export = pytest.importorskip("jax.export")
    x, labels = moved(*arguments(al.cross_entropy, shape=(6, 3)))
    (rows,) = export.symbolic_shape("rows")

    def f(x: Any, labels: Any, w: Any) -> Any:
        hardest = al.cross_entropy(x, labels, sample_weight=w, label_smoothing=0.1, reduction=al.Hardest(fraction=0.5))
        over = al.cross_entropy(x, labels, reduction=al.Mean(over="all"))
        # All samples count, so that their number is known to the program alone.
        every = [
            value_and_grad(al.kl_divergence_with_logits)(x, -x, reduction=reduction)
            for reduction in (al.Hardest(fraction=0.5), al.Hardest(k=2), al.Hardest(k=100))
        ]
        return hardest, over, al.softmax(x), al.logsumexp(x), *(a for both in every for a in both)

    shapes = [jax.ShapeDtypeStruct((rows, *a.shape[1:]), a.dtype) for a in (x, labels, x[:, 0])]
    program = export.export(jax.jit(f))(*shapes)
    w = jnp.linspace(1, 2, 6)
    arrays = (np.asarray(a) for a in (x, labels, w))
    for got, due in zip(program.call(x, labels, w), f(*arrays), strict=True):
        close(got, due, 1e-5)
