"""arrayloss.compat.keras against keras.losses, on Keras's JAX backend."""

# ruff: noqa: B023  the closures are called at once

import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from arrayloss.compat import keras as preset

pytest.importorskip("jax", reason="the backend of the original, jax, is not installed")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    keras = pytest.importorskip("keras", reason="the original, keras, is not installed")
if keras.backend.backend() != "jax":
    pytest.skip("keras was imported with another backend", allow_module_level=True)
import jax.numpy as jnp


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    """Keras casts what it gets to its floatx."""
    floatx = keras.config.floatx()
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx(floatx)


NAMES = [
    "binary_crossentropy",
    "categorical_crossentropy",
    "sparse_categorical_crossentropy",
    "binary_focal_crossentropy",
    "categorical_focal_crossentropy",
    "kl_divergence",
    "categorical_generalized_cross_entropy",
]
RNG = np.random.default_rng(0)
X = 3 * RNG.standard_normal((2, 4, 3))
Y = RNG.random((2, 4, 3))
T = RNG.integers(0, 3, (2, 4))
# Sums that are not 1, and every clip.
P = RNG.random((2, 4, 3))
P[0, :2] = [[0, 1, 0], [1e-9, 1 - 1e-9, 1e-8]]


def one_hot(axis: int) -> np.ndarray:
    return np.moveaxis(np.eye(3)[T], -1, axis)


def given(from_logits: bool, axis: int = -1) -> np.ndarray:
    return np.moveaxis(X if from_logits else P, -1, axis)


@pytest.mark.parametrize("name", NAMES)
def test_signature(name: str, same_signature: Any) -> None:
    same_signature(getattr(preset, name), getattr(keras.losses, name), ignore=("epsilon",))
    assert keras.config.epsilon() == 1e-7


def check(
    lib: Any, originals: Any, name: str, y: np.ndarray, x: np.ndarray, rtol: float = 1e-12, **options: Any
) -> None:
    original, ours = getattr(keras.losses, name), getattr(preset, name)
    expected = originals["jax"](lambda x: original(jnp.asarray(y), x, **options), x)
    lib.agree(
        lambda x, y: ours(y, x, **options),
        x,
        (y,),
        expected,
        of=f"keras.{name}",
        options=options,
        note=options,
        rtol=rtol,
    )


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("target", ["floats", "integers", "soft"])
def test_binary(lib: Any, originals: Any, target: str, from_logits: bool) -> None:
    # Keras on JAX takes means in float32, whatever it is given.
    y = {"floats": np.round(Y), "integers": np.round(Y).astype(np.int64), "soft": Y}[target]
    for smoothing, axis in itertools.product(lib.few([0.2, 0.0]), lib.few([-1, 0])):
        options = {"from_logits": from_logits, "label_smoothing": smoothing, "axis": axis}
        check(lib, originals, "binary_crossentropy", y, given(from_logits), rtol=1e-6, **options)
        for balanced, alpha, gamma in lib.few([(True, 0.6, 3.5), (False, 0.25, 2.0), (True, 0.25, 2.0)]):
            focal = {"apply_class_balancing": balanced, "alpha": alpha, "gamma": gamma, **options}
            check(lib, originals, "binary_focal_crossentropy", y, given(from_logits), rtol=1e-6, **focal)


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("axis", [-1, 1])
def test_categorical(lib: Any, originals: Any, from_logits: bool, axis: int) -> None:
    y = one_hot(axis)
    soft = np.moveaxis(Y / Y.sum(-1, keepdims=True), -1, axis)
    # On another axis Keras smooths by the size of the last: see test_porting.py.
    smoothings = [0.1, 0.0] if axis == -1 else [0.0]
    for q, smoothing in itertools.product(lib.few([y, y.astype(np.int64), soft]), lib.few(smoothings)):
        options: Any = {"from_logits": from_logits, "label_smoothing": smoothing, "axis": axis}
        check(lib, originals, "categorical_crossentropy", q, given(from_logits, axis), **options)
        for alpha, gamma in lib.few([(1.5, 0.5), (0.25, 2.0), ([0.2, 0.5, 1.0], 3.0)]):
            if isinstance(alpha, list) and axis != -1:
                continue
            focal = {"alpha": alpha, "gamma": gamma, **options}
            x = given(from_logits, axis)
            check(lib, originals, "categorical_focal_crossentropy", q, x, rtol=1e-9, **focal)


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("ignore_class", [None, 0, -1])
def test_sparse_categorical(lib: Any, originals: Any, from_logits: bool, ignore_class: int | None) -> None:
    t = T.copy()
    if ignore_class == -1:
        t[0, 1:3] = -1
    # The JAX backend takes labels along the last axis only.
    for y in lib.few([t, t[..., None], t.astype(np.float64), t.astype(np.int8)]):
        options = {"from_logits": from_logits, "ignore_class": ignore_class}
        check(lib, originals, "sparse_categorical_crossentropy", y, given(from_logits), **options)


def test_sparse_categorical_on_axis_1(lib: Any) -> None:
    for from_logits in (True, False):
        value, _ = lib.run(
            lambda x, y: preset.sparse_categorical_crossentropy(y, x, from_logits, axis=1),
            given(from_logits, 1),
            T,
        )
        expected = preset.sparse_categorical_crossentropy(T, given(from_logits), from_logits)
        np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_without_the_clip() -> None:
    p, y = np.asarray([[1e-12, 0.5]]), np.asarray([[1.0, 1.0]])
    np.testing.assert_allclose(preset.binary_crossentropy(y, p, epsilon=0), [-np.log(p).mean()], rtol=1e-14)
    np.testing.assert_allclose(preset.binary_crossentropy(y, p), [-np.log([1e-7, 0.5]).mean()], rtol=1e-14)


def test_the_clip_is_a_number() -> None:
    """A traced one would be looked at, and lose its derivative."""
    p, y = np.asarray([[0.25, 0.75]]), np.asarray([[1.0, 0.0]])
    for name in ("binary_crossentropy", "categorical_crossentropy", "binary_focal_crossentropy"):
        f = getattr(preset, name)
        for epsilon in (np.float32(0.125), np.asarray(0.125)):
            np.testing.assert_allclose(f(y, p, epsilon=epsilon), f(y, p, epsilon=0.125), rtol=1e-14)
        jax = pytest.importorskip("jax")
        with pytest.raises(TypeError, match="epsilon must be a number"):
            jax.jit(lambda epsilon, f=f: f(jax.numpy.asarray(y), jax.numpy.asarray(p), epsilon=epsilon))(0.125)
