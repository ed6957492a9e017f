"""Result dtype and device, half types computed in float32, JAX with and without x64."""

import functools
from typing import Any

import numpy as np
import pytest
import reference

import arrayloss
from arrayloss import cross_entropy, sigmoid_focal_loss, value_and_grad

RNG = np.random.default_rng(21)
LOGITS = RNG.normal(size=(5, 3)).round(2)
LABELS = np.array([0, 2, 1, 1, 0])
BITS = (LOGITS > 0.2).astype(np.int64)
INPUTS: dict[str, Any] = {
    "nll_loss": (-np.abs(LOGITS), LABELS),
    "cross_entropy": (LOGITS, LABELS),
    "softmax_focal_loss": (LOGITS, LABELS),
    "poly_loss": (LOGITS, LABELS),
    "binary_cross_entropy": (1 / (1 + np.exp(-LOGITS)), BITS),
    "binary_cross_entropy_with_logits": (LOGITS, BITS),
    "sigmoid_focal_loss": (LOGITS, BITS),
    "asymmetric_loss": (LOGITS, BITS),
}
DTYPES = ["float16", "bfloat16", "float32", "float64"]


its_floats = pytest.mark.only(lambda backend, dtype: dtype in backend.floats)


def traced(backend: Any, f: Any, **options: Any) -> Any:
    """f with the options; on JAX, which compiles each operation for each type, its shape and type alone."""
    f = functools.partial(f, **options)
    if backend.library != "jax":
        return f
    import jax

    return functools.partial(jax.eval_shape, f)


@its_floats
@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", INPUTS)
def test_result_dtype_and_device(backend: Any, name: str, dtype: str, reduction: str) -> None:
    loss = getattr(arrayloss, name)
    logits, target = INPUTS[name]
    x = backend.asarray(logits, dtype)
    for y in (backend.asarray(target), backend.asarray(np.asarray(BITS, dtype=float))):
        if y.ndim == 2 and name in ("nll_loss", "cross_entropy", "softmax_focal_loss", "poly_loss"):
            y = backend.asarray(np.full((5, 3), 1 / 3))  # a float target of another dtype than the logits'
        out = traced(backend, loss, reduction=reduction)(x, y)
        assert backend.dtype_name(out) == dtype
        if backend.library != "jax":
            assert backend.device_of(out) == backend.device_of(x)


@its_floats
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp", "sigmoid", "log_sigmoid"])
def test_activation_dtype_and_device(backend: Any, name: str, dtype: str) -> None:
    x = backend.asarray(LOGITS, dtype)
    out = getattr(arrayloss, name)(x)
    assert backend.dtype_name(out) == dtype
    assert backend.device_of(out) == backend.device_of(x)


@its_floats
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", INPUTS)
def test_half_is_rounded_once(backend: Any, name: str, dtype: str) -> None:
    """The unreduced loss is the float32 answer to the same logits, rounded: to the last bit."""
    loss = getattr(arrayloss, name)
    logits, target = INPUTS[name]
    x, y = backend.asarray(logits, dtype), backend.asarray(target)
    single = backend.asarray(backend.to_numpy(x), "float32")
    full = loss(single, y, reduction="none")
    rounded = backend.asarray(backend.to_numpy(full).astype(np.float32), dtype)
    np.testing.assert_array_equal(backend.to_numpy(loss(x, y, reduction="none")), backend.to_numpy(rounded))
    wide = loss(x, y, reduction="none", dtype=backend.dtype("float32"))
    assert backend.dtype_name(wide) == "float32"
    np.testing.assert_array_equal(backend.to_numpy(wide), backend.to_numpy(full))


@its_floats
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_half_gradient_is_rounded_once(backend: Any, dtype: str) -> None:
    x, y = backend.asarray(LOGITS, dtype), backend.asarray(LABELS)
    single = backend.asarray(backend.to_numpy(x), "float32")
    _, full = value_and_grad(cross_entropy)(single, y)
    _, half = value_and_grad(cross_entropy)(x, y)
    assert backend.dtype_name(half) == dtype
    rounded = backend.asarray(backend.to_numpy(full).astype(np.float32), dtype)
    np.testing.assert_array_equal(backend.to_numpy(half), backend.to_numpy(rounded))


@its_floats
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_mean_of_many_halves_is_finite(backend: Any, dtype: str) -> None:
    """20,000 losses of about 9 sum to 180,000, beyond float16; bfloat16 stops counting at 256."""
    logits = np.zeros((20_000, 2))
    logits[:, 1] = 9.0
    x, y = backend.asarray(logits, dtype), backend.asarray(np.zeros(20_000, dtype=np.int64))
    value, gradient = value_and_grad(cross_entropy)(x, y)
    loss = 9 + np.log1p(np.exp(-9.0))
    np.testing.assert_allclose(backend.to_numpy(value), loss, rtol=backend.rtol(dtype))
    p = 1 / (1 + np.exp(-9.0))
    # 5e-5 is subnormal in float16, whose step there is 6e-8.
    np.testing.assert_allclose(backend.to_numpy(gradient)[:, 1], p / 20_000, rtol=backend.rtol(dtype), atol=6e-8)
    wide = cross_entropy(x, y, dtype=backend.dtype("float32"), reduction="sum")
    np.testing.assert_allclose(backend.to_numpy(wide), 20_000 * loss, rtol=1e-5)
    flat = sigmoid_focal_loss(x[:, 1], backend.asarray(np.zeros(20_000)), gamma=0)
    np.testing.assert_allclose(backend.to_numpy(flat), loss, rtol=backend.rtol(dtype))


def test_a_float32_sum_of_many_is_accurate(backend: Any) -> None:
    """Blocks or pairs, not one running sum: 20,000 terms would lose three digits."""
    logits = np.random.default_rng(0).normal(size=20_000).astype(np.float32)
    expected = np.logaddexp(0, logits.astype(np.float64)).sum()
    x, y = backend.asarray(logits, "float32"), backend.asarray(np.zeros(20_000, dtype=np.int64))
    got = arrayloss.binary_cross_entropy_with_logits(x, y, reduction="sum")
    np.testing.assert_allclose(backend.to_numpy(got), expected, rtol=2e-6)


@pytest.mark.only(lambda backend: backend.has_float64)
def test_a_wider_target_does_not_widen_the_result(backend: Any) -> None:
    """float64 targets or weights with float32 logits: the result has the logits' type, on every library."""
    x = backend.asarray(LOGITS, "float32")
    soft, weight = backend.asarray(np.full((5, 3), 1 / 3)), backend.asarray(np.ones(5))
    value, gradient = value_and_grad(cross_entropy)(x, soft, sample_weight=weight)
    assert backend.dtype_name(value) == backend.dtype_name(gradient) == "float32"


@pytest.mark.only(lambda backend: "float16" in backend.floats)
def test_large_float16_logits(backend: Any) -> None:
    """A loss beyond float16 is inf only after rounding; with dtype= it is there."""
    x, y = backend.asarray(np.array([[6e4, -6e4]]), "float16"), backend.asarray(np.array([1]))
    got = cross_entropy(x, y, dtype=backend.dtype("float32"))
    np.testing.assert_allclose(backend.to_numpy(got), 119_936.0, rtol=1e-3)
    gradient = value_and_grad(cross_entropy)(x, y, dtype=backend.dtype("float32"))[1]
    np.testing.assert_array_equal(backend.to_numpy(gradient), [[1.0, -1.0]])


# --- JAX ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("x64", [False, True], ids=["x32", "x64"])
def test_jax_x64(x64: bool) -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed")
    jnp = jax.numpy
    with jax.enable_x64(x64):
        for dtype in ("float32", "bfloat16"):
            x = jnp.asarray(LOGITS, dtype=dtype)
            for y in (jnp.asarray(LABELS.astype(np.int8)), jnp.full((5, 3), 1 / 3)):
                for both in (value_and_grad(cross_entropy), jax.value_and_grad(cross_entropy)):
                    assert {out.dtype for out in jax.eval_shape(both, x, y)} == {x.dtype}
        x = jnp.asarray(LOGITS)
        assert x.dtype == ("float64" if x64 else "float32")
        expected = reference.value(reference.categorical, LOGITS, LABELS, reduce=reference.mean)
        got = cross_entropy(x, jnp.asarray(LABELS))
        np.testing.assert_allclose(np.asarray(got), expected, rtol=1e-12 if x64 else 1e-6)


def test_a_weak_type_stays_out() -> None:
    """A Python number among the options must not turn a float32 loss into a weakly typed or a float64 one."""
    jax = pytest.importorskip("jax", reason="jax is not installed")
    jnp = jax.numpy
    with jax.enable_x64(True):
        x, y = jnp.asarray(LOGITS, dtype="float32"), jnp.asarray(BITS)
        out = sigmoid_focal_loss(x, y, alpha=0.25, gamma=1.5, pos_weight=2.0, label_smoothing=0.1)
        assert out.dtype == "float32"
        assert not out.weak_type


# --- array-api-strict ---------------------------------------------------------------------------------------


def test_strict_without_float64() -> None:
    """A device with no float64 at all: nothing inside may make one, defaults included."""
    xp = pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")
    for device in ("no_float64", "no_x64"):
        try:
            device = xp.Device(device)
        except ValueError:
            pytest.skip(f"this array-api-strict has no device {device}")
        x = xp.asarray(LOGITS, dtype=xp.float32, device=device)
        y = xp.asarray(LABELS, dtype=xp.int32, device=device)
        bits = xp.asarray(BITS, dtype=xp.int32, device=device)
        for name, (_, target) in INPUTS.items():
            loss = getattr(arrayloss, name)
            given = xp.asarray(INPUTS[name][0], dtype=xp.float32, device=device)
            out = value_and_grad(loss)(given, bits if target.ndim == 2 else y)
            assert all(a.dtype == xp.float32 and a.device == device for a in out)
        assert arrayloss.logsumexp(x).device == device
