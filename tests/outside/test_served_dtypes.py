"""Dtypes that are not served say so, and say which are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import arrayloss as al
from arrayloss import value_and_grad
from outside.common import ACTIVATIONS, BINARY, CATEGORICAL, arguments, over_losses

SERVED = ("float32", "float64")


def refused(call: Any, *said: str) -> None:
    with pytest.raises(TypeError) as caught:
        call()
    for part in said:
        assert part in str(caught.value), str(caught.value)


@pytest.mark.skipif(np.dtype(np.longdouble) == np.float64, reason="they are one here")
@over_losses
def test_long_doubles(loss: Any) -> None:
    x, t = arguments(loss)
    wide = x.astype(np.longdouble)
    for call in (loss, value_and_grad(loss)):
        refused(
            lambda call=call: call(wide, t.astype(np.longdouble) if t.dtype.kind == "f" else t), "longdouble", *SERVED
        )
        refused(lambda call=call: call(x, t, dtype=np.longdouble), "longdouble", *SERVED)


@pytest.mark.skipif(np.dtype(np.longdouble) == np.float64, reason="they are one here")
@pytest.mark.parametrize("function", ACTIVATIONS, ids=lambda f: f.__name__)
def test_long_doubles_in_functions(function: Any) -> None:
    refused(lambda: function(np.ones((2, 3), dtype=np.longdouble)), *SERVED)


def test_eight_bits_of_torch() -> None:
    torch = pytest.importorskip("torch")
    x, labels = torch.zeros(2, 3), torch.tensor([0, 1])
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        refused(lambda dtype=dtype: al.cross_entropy(x.to(dtype), labels), "float32")
        refused(lambda dtype=dtype: al.cross_entropy(x, labels, dtype=dtype), "float32")
        refused(lambda dtype=dtype: al.cross_entropy(x, torch.ones(2, 3).to(dtype)), "float32")
        refused(lambda dtype=dtype: al.softmax_focal_loss(x, labels, alpha=torch.ones(3).to(dtype)), "float32")


def test_eight_bits_of_jax() -> None:
    jnp = pytest.importorskip("jax.numpy")
    x, labels = jnp.zeros((2, 3)), jnp.asarray([0, 1])
    refused(lambda: al.cross_entropy(x.astype(jnp.float8_e4m3fn), labels), "float32")
    refused(lambda: al.cross_entropy(x, labels, dtype=jnp.float8_e4m3fn), "float32")


def test_complex_weights(backend: Any) -> None:
    for loss in (*CATEGORICAL, al.kl_divergence_with_logits, *BINARY):
        x, t = arguments(loss, shape=(4, 3))
        moved = backend.asarray(x), backend.asarray(t)
        shapes = {"sample_weight": (4, 1) if loss in BINARY else (4,)}
        if loss in CATEGORICAL:
            shapes["class_weight"] = (3,)
        if loss is al.softmax_focal_loss:
            shapes["alpha"] = (3,)
        if loss is al.sigmoid_focal_loss:
            shapes["alpha"] = ()
        if loss in BINARY[1:]:
            shapes["pos_weight"] = (3,)
        for option, shape in shapes.items():
            weight = backend.asarray(np.full(shape, 0.5), "complex64")
            for call in (loss, value_and_grad(loss)):
                with pytest.raises(TypeError, match=option) as caught:
                    call(*moved, **{option: weight})
                assert "complex" in str(caught.value)
    x, t = (backend.asarray(a) for a in arguments(al.cross_entropy, shape=(4, 3)))
    with pytest.raises(TypeError, match="cotangent"):
        value_and_grad(al.cross_entropy)(x, t, reduction="none", cotangent=backend.asarray(np.ones(4), "complex64"))
    with pytest.raises(TypeError, match="over"):
        al.cross_entropy(x, t, reduction=al.Mean(over=backend.asarray(np.asarray(2.0), "complex64")))
    with pytest.raises((TypeError, ValueError), match="over"):
        al.cross_entropy(x, t, reduction=al.Mean(over=2j))
