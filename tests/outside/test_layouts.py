"""Where the numbers lie in memory is nobody's business: each argument in an order of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import arrayloss as al
from arrayloss import value_and_grad
from outside.common import CATEGORICAL, LOSSES, Array, arguments, over_losses


def backwards(a: Array) -> Array:
    return np.ascontiguousarray(a[::-1])[::-1]


def spread(a: Array) -> Array:
    return np.repeat(a, 2, axis=-1)[..., ::2]


LAYOUTS = {"C": np.ascontiguousarray, "Fortran": np.asfortranarray, "backwards": backwards, "spread": spread}
over_layouts = pytest.mark.parametrize("layout", LAYOUTS)
over_others = pytest.mark.parametrize("other", LAYOUTS)


@over_layouts
@over_others
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_classes_that_take_part(layout: str, other: str, axis: int) -> None:
    """Found by the fuzzer: with the logits and the mask both in Fortran order, the mask was read transposed."""
    rng = np.random.default_rng(0)
    x, where = rng.normal(size=(3, 4, 5)), rng.random((3, 4, 5)) < 0.6
    where |= np.arange(where.shape[axis]).reshape(np.where(np.arange(3) == axis, -1, 1)) == 0
    given, mask = LAYOUTS[layout](x), LAYOUTS[other](where)
    powers = np.where(where, np.exp(x), 0)
    total = powers.sum(axis, keepdims=True)
    np.testing.assert_allclose(al.softmax(given, axis=axis, where=mask), powers / total, rtol=1e-12)
    with np.errstate(divide="ignore"):
        due = np.log(powers / total)
    np.testing.assert_allclose(al.log_softmax(given, axis=axis, where=mask), due, rtol=1e-12, atol=1e-12)
    got = al.logsumexp(given, axis=axis, where=mask)
    np.testing.assert_allclose(got, np.log(total.squeeze(axis)), rtol=1e-12, atol=1e-12)


def test_classes_that_take_part_in_torch() -> None:
    torch = pytest.importorskip("torch")
    x, where = torch.randn(3, 4, dtype=torch.float64), torch.tensor([[True, True, False, True]] * 2 + [[True] * 4])
    due = x.masked_fill(~where, -float("inf")).softmax(-1)
    for given in (x, x.T.contiguous().T):
        for mask in (where, where.T.contiguous().T):
            torch.testing.assert_close(al.softmax(given, where=mask), due)
            leaf = given.detach().requires_grad_()
            al.softmax(leaf, where=mask)[:, 0].sum().backward()
            expected = due[:, :1] * (torch.nn.functional.one_hot(torch.zeros(3, dtype=torch.int64), 4) - due)
            torch.testing.assert_close(leaf.grad, expected)


@over_losses
@over_layouts
def test_losses(loss: Any, layout: str) -> None:
    shape = (4, 3)
    x, t = arguments(loss, soft=True, shape=shape)
    rng = np.random.default_rng(1)
    lead = (4,) if loss in LOSSES[:5] else shape
    options: dict[str, Any] = {"sample_weight": rng.random(lead), "where": rng.random(lead) < 0.8}
    if loss in CATEGORICAL:
        options["class_weight"] = rng.random(3)
    ones = np.ones(lead)
    due = value_and_grad(loss)(x, t, **options, reduction="none", cotangent=ones)
    lay = LAYOUTS[layout]
    for moved in ("logits", "target", *options, "all"):
        arrays = {name: lay(a) if moved in (name, "all") else a for name, a in options.items()}
        got = value_and_grad(loss)(
            lay(x) if moved in ("logits", "all") else x,
            lay(t) if moved in ("target", "all") else t,
            **arrays,
            reduction="none",
            cotangent=lay(ones) if moved == "all" else ones,
        )
        for one, other in zip(got, due, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12, err_msg=moved)
