"""arrayloss.compat.optax against optax."""

# ruff: noqa: B023, E731  the closures are called at once

import itertools
from typing import Any

import numpy as np
import pytest

from arrayloss.compat import optax as preset

pytest.importorskip("jax", reason="the original's jax is not installed")
optax = pytest.importorskip("optax", reason="the original, optax, is not installed")
import jax.numpy as jnp  # noqa: E402

NAMES = [
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
    "safe_softmax_cross_entropy",
    "sigmoid_binary_cross_entropy",
    "sigmoid_focal_loss",
    "poly_loss_cross_entropy",
    "kl_divergence",
    "generalized_kl_divergence",
    "kl_divergence_with_log_targets",
    "smooth_labels",
]
RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 4))
Q = RNG.random((2, 3, 4))
MASK = RNG.random((2, 3, 4)) < 0.7
MASK[0, 0] = False  # no class of a sample
MASK[:, :, 1] |= MASK.any(2)
INTEGERS = "optax.softmax_cross_entropy_with_integer_labels"
AXES: list[Any] = [-1, 0, (2, 0), None]


def array(x: Any) -> Any:
    return jnp.asarray(x) if isinstance(x, np.ndarray) else x


def normal(q: np.ndarray, axis: Any) -> np.ndarray:
    return q / q.sum(axis, keepdims=True)


def samples(axis: Any) -> np.ndarray:
    return np.asarray(X.sum(axis) > 0)


@pytest.mark.parametrize("name", NAMES)
def test_signature(name: str, same_signature: Any) -> None:
    same_signature(getattr(preset, name), getattr(optax.losses, name))


@pytest.mark.parametrize("axis", AXES, ids=str)
@pytest.mark.parametrize("name", ["softmax_cross_entropy", "poly_loss_cross_entropy"])
def test_soft(lib: Any, originals: Any, name: str, axis: Any) -> None:
    ours, original = getattr(preset, name), getattr(optax.losses, name)
    wheres = [MASK | (np.arange(4) == 1), None, *([] if axis is None else [samples(axis)])]
    epsilons = [{"epsilon": -1.0}, {}] if name == "poly_loss_cross_entropy" else [{}]
    scales = lib.few([1.0, 1e4] if axis == -1 else [1.0])
    for where, scale, epsilon in itertools.product(lib.few(wheres), scales, lib.few(epsilons)):
        if where is not None and where.ndim < 3 and isinstance(axis, tuple):
            continue  # optax's own expand_dims fails for some of these
        if where is not None and where.ndim < 3 and name == "poly_loss_cross_entropy":
            continue  # optax's own raises: it expands `where` for one of its two terms only
        x, q = scale * X, normal(Q, axis)
        expected = originals["jax"](lambda x: original(x, array(q), axis=axis, where=array(where), **epsilon), x)
        if where is not None and where.ndim == 3:
            # Optax's gradient at a class left out is nan or 0; ours is 0.
            expected = (expected[0], np.where(where, expected[1], 0))
        call = lambda x, q, where: ours(x, q, axis=axis, where=where, **epsilon)
        lib.agree(
            call, x, (q, where), expected, of=f"optax.{name}", options=["axis", "where", *epsilon], note=(scale, where)
        )


@pytest.mark.parametrize("axis", [a for a in AXES if a is not None], ids=str)
def test_integer_labels(lib: Any, originals: Any, axis: Any) -> None:
    ours, original = preset.softmax_cross_entropy_with_integer_labels, optax.softmax_cross_entropy_with_integer_labels
    batch = samples(axis).shape
    classes = X.size // int(np.prod(batch))
    t = np.random.default_rng(1).integers(0, classes, batch)
    wheres = [None] if isinstance(axis, tuple) else [None, samples(axis)]
    for where, scale in itertools.product(lib.few(wheres), lib.few([1.0, 1e4] if axis == -1 else [1.0])):
        x = scale * X
        expected = originals["jax"](lambda x: original(x, array(t), axis, array(where)), x)
        lib.agree(lambda x, t, w: ours(x, t, axis, w), x, (t, where), expected, of=INTEGERS, options=["axis", "where"])


def test_integer_labels_among_some_classes(lib: Any, originals: Any) -> None:
    ours, original = preset.softmax_cross_entropy_with_integer_labels, optax.softmax_cross_entropy_with_integer_labels
    t = np.ones((2, 3), np.int64)
    expected = originals["jax"](lambda x: original(x, array(t), -1, array(MASK)), X)
    # Sample (0, 0) has no class: it costs 0, and Optax's gradient there is not.
    expected = (expected[0], np.where(MASK.any(-1, keepdims=True), expected[1], 0))
    lib.agree(lambda x, t, w: ours(x, t, -1, w), X, (t, MASK), expected, of=INTEGERS)


def test_safe(lib: Any, originals: Any) -> None:
    x, q = X.copy(), normal(Q, -1)
    q[:, :, 2] = 0
    q = normal(q, -1)
    x[0, :, 2] = -np.inf
    expected = originals["jax"](lambda x: optax.safe_softmax_cross_entropy(x, array(q)), x)
    lib.agree(preset.safe_softmax_cross_entropy, x, (q,), expected, of="optax.safe_softmax_cross_entropy")


def test_one_hot_of_integers(lib: Any) -> None:
    q = np.eye(4, dtype=np.int64)[RNG.integers(0, 4, (2, 3))]
    expected = np.asarray(optax.softmax_cross_entropy(array(X), array(q)))
    value, _ = lib.run(preset.softmax_cross_entropy, X, q)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize("labels", ["floats", "integers", "bool", "soft"])
def test_sigmoid(lib: Any, originals: Any, labels: str) -> None:
    y = {"soft": Q, "bool": MASK, "integers": MASK.astype(np.int64), "floats": MASK.astype(np.float64)}[labels]
    for scale in lib.few([1.0, 1e3]):
        x = scale * X
        expected = originals["jax"](lambda x: optax.sigmoid_binary_cross_entropy(x, array(y)), x)
        lib.agree(preset.sigmoid_binary_cross_entropy, x, (y,), expected, of="optax.sigmoid_binary_cross_entropy")
    for alpha, gamma in lib.few([(0.9, 0.5), (None, 2.0), (0.25, 2.0), (None, 5.0)]):
        options: Any = {"alpha": alpha, "gamma": gamma}
        for x in lib.few([X, 8 * X]):
            expected = originals["jax"](lambda x: optax.sigmoid_focal_loss(x, array(y), **options), x)
            call = lambda x, y: preset.sigmoid_focal_loss(x, y, **options)
            lib.agree(call, x, (y,), expected, of="optax.sigmoid_focal_loss", options=options, rtol=1e-10)


@pytest.mark.parametrize("axis", AXES, ids=str)
def test_smooth_labels(lib: Any, originals: Any, axis: Any) -> None:
    for where in lib.few([MASK | (np.arange(4) == 1), None]):
        expected = originals["jax"](lambda q: optax.smooth_labels(q, 0.1, axis=axis, where=array(where)), Q)
        lib.agree(
            lambda q, w: preset.smooth_labels(q, 0.1, axis=axis, where=w),
            Q,
            (where,),
            expected,
            of="optax.smooth_labels",
            options=["axis", "where"],
        )


@pytest.mark.parametrize("axis", [-1, (-1, -2), (2, 0)], ids=str)
def test_where_is_broadcast(lib: Any, originals: Any, axis: Any) -> None:
    for shape in lib.few([(1, 3, 4), (1, 1, 4), (2, 1, 1), (1, 1, 1)]):
        where = np.ones(shape, bool)
        where.reshape(-1)[0] = shape == (1, 1, 1)
        expected = originals["jax"](lambda x: optax.softmax_cross_entropy(x, array(Q), axis, array(where)), X)
        call = lambda x, q, w: preset.softmax_cross_entropy(x, q, axis, w)
        lib.agree(call, X, (Q, where), expected, of="optax.softmax_cross_entropy", options=["axis", "where"])


def test_no_samples(lib: Any) -> None:
    x = lib.array(np.zeros((0, 3)))
    for axis in (-1, (-1,)):
        assert preset.softmax_cross_entropy(x, x, axis).shape == (0,)


def test_labels_are_not_broadcast(lib: Any) -> None:
    x = lib.array(X)
    for name in ["softmax_cross_entropy", "poly_loss_cross_entropy", "safe_softmax_cross_entropy"]:
        with pytest.raises(ValueError, match=r"\(4,\)"):
            getattr(preset, name)(x, lib.array(Q[0, 0]))
    with pytest.raises(ValueError, match=r"\(2, 3, 4\)"):
        preset.softmax_cross_entropy_with_integer_labels(x, lib.array(MASK.astype(np.int64)))
