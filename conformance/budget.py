"""The accuracy that the contract asks for, as data, and what conditioning adds to it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from arrayloss.testing import FORMATS, HALF, Case, Due, Exact, Floats, spacing

from .cases import DIVERGENCES, ELEMENTWISE, PAIRED, TRANSFORMS
from .oracle import chance, exact, part_below

HALF_ULP = 1.0
"""Half types are computed in float32 and rounded once, so conditioning doesn't show."""

BUDGET: dict[str, tuple[float, float]] = {
    "softmax": (8, 8),
    "log_softmax": (8, 8),
    "logsumexp": (8, 8),
    "sigmoid": (4, 4),
    "log_sigmoid": (4, 4),
    "nll_loss": (8, 8),
    "cross_entropy": (8, 8),
    "binary_cross_entropy": (4, 4),
    "binary_cross_entropy_with_logits": (4, 4),
    "sigmoid_focal_loss": (8, 12),
    "softmax_focal_loss": (12, 12),
    "asymmetric_loss": (8, 12),
    "poly_loss": (8, 8),
    "generalized_cross_entropy": (8, 12),
    "symmetric_cross_entropy": (8, 8),
    "kl_divergence": (8, 12),
    "kl_divergence_with_logits": (8, 12),
    "js_divergence": (8, 12),
    "js_divergence_with_logits": (8, 12),
}
"""ULP allowed to the value and to the gradient, in float32 and float64; gamma up to 2 for the focal losses."""

BEYOND_2: dict[str, tuple[float, float]] = {
    "sigmoid_focal_loss": (8, 12),
    "softmax_focal_loss": (8, 8),
    "asymmetric_loss": (8, 12),
}
"""The same for gamma above 2, and 4 gamma on top."""

POLY_BELOW_0 = 12.0
"""The same for poly_loss with epsilon below 0: -log p - (1 - p) goes with (1 - p)^2, as focal with gamma 1."""

LOG_2 = 0.6931471805599453


def due(case: Case, answer: Mapping[str, Exact]) -> dict[str, Due]:
    """What each quantity of a case is held to, from the exact numbers."""
    terms = _terms(case)
    return {
        name: Due(
            numbers,
            dtype_of(case, name),
            base(case, name),
            _allowance(case, name, numbers, terms),
            terms,
            _factor(case) * _seed(case, name),
            flushable(case, name),
        )
        for name, numbers in answer.items()
    }


def _allowance(case: Case, quantity: str, numbers: Exact, terms: int) -> Floats:
    """k; for a divergence, the same from its derivatives, and what its exponentials lose that are no normal numbers.

    Each exponential is there multiplied by a log ratio, so that its rounding to a multiple of the smallest subnormal
    number, or to 0, shows in results that are small normal numbers (`measure` sees to those that are none).
    """
    dtype = dtype_of(case, quantity)
    if case.function not in DIVERGENCES:
        return allowance(case, quantity)
    form, least = FORMATS[dtype], FORMATS["float32" if dtype in HALF else dtype]
    size = np.where(np.isfinite(numbers.scale), np.maximum(numbers.scale, np.abs(numbers.high)), 0)
    unit = spacing(size, dtype)
    moved = np.zeros(size.shape) if numbers.moved is None else numbers.moved
    lost = np.where(_subnormal(case, quantity), least.tiny, np.ldexp(0.5, least.subnormal_exponent))
    underflow = terms * lost / unit
    underflow = np.where((size >= least.tiny) & (underflow > HALF_ULP / 2), underflow, 0)
    if dtype in HALF:  # computed in float32: what that loses shows where a difference of logits is next to nothing
        moved = FORMATS["float32"].epsilon / 2 * moved / unit
        return np.where(moved > 0.01, np.ceil(8 * moved) / 8, 0) + np.ceil(underflow)
    # As elsewhere, the ULP of what moves is that of the number, which is at least half of it.
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = np.where(size >= form.tiny, moved / size, form.epsilon / 2 * moved / unit)
    return np.ceil(moved + underflow)


def _subnormal(case: Case, quantity: str) -> NDArray[np.bool_]:
    """Whether a number of a divergence has been made of an exponential that is no normal number, which may be 0."""
    least, end = FORMATS["float32" if case.dtype in HALF else case.dtype], _end_of_normal(case.dtype)
    below = np.zeros(case.arrays["logits"].shape, dtype=np.bool_)
    for name in ("logits", "target"):
        values = case.arrays[name]
        if case.function not in PAIRED and name == "target":  # probabilities themselves
            below |= (values < least.tiny) & (values > 0)
            continue
        with np.errstate(invalid="ignore"):
            if case.function in PAIRED:
                values = (values - np.max(values, axis=case.axis, keepdims=True)) / _temperature(case)
        # Divided by the sum of its row, which is at most the number of classes, one above that end may be none either.
        below |= (values < math.log(values.shape[case.axis]) - end) & (values > -np.inf)
    if quantity in ("d logits", "d target"):
        return np.asarray(np.any(below, axis=case.axis, keepdims=True))
    alone = quantity != "value" or case.reduction == "none"
    return np.asarray(np.any(below, axis=case.axis if alone else None))


def _terms(case: Case) -> int:
    """How many exponentials are added up in one number, each as often as it counts."""
    terms = 1 if case.function in ELEMENTWISE else case.arrays["logits"].shape[case.axis]
    return terms * math.ceil(_factor(case))


def _factor(case: Case) -> float:
    """What an exponential is multiplied by, at the most: what a compiler flushed may have been a normal number's."""
    if case.dtype == "float16":  # made of float32, far from where these end
        return 1.0
    if case.function in DIVERGENCES:
        return -FORMATS[case.dtype].subnormal_exponent  # a log ratio
    if case.function == "asymmetric_loss":
        return 1 / (float(case.options.get("margin", 0.05)) or 1)
    if case.function == "symmetric_cross_entropy":
        given = {"alpha": 0.1, "beta": 1.0, "log_zero": math.log(1e-4), **case.options}
        return max(1.0, float(given["alpha"] - given["beta"] * given["log_zero"]))
    return max(1.0, 1 + float(case.options.get("epsilon", 2.0))) if case.function == "poly_loss" else 1.0


def _seed(case: Case, quantity: str) -> float:
    """What a derivative is multiplied by, at the most: that of the value alone may have been flushed."""
    if quantity == "value" or case.cotangent is None or case.dtype == "float16":
        return 1.0
    return max(1.0, float(np.max(np.abs(case.cotangent), initial=0)))


def base(case: Case, quantity: str) -> float:
    """The budget of a quantity (`"value"`, `"d logits"`, ...) in ULP, before conditioning."""
    if case.budget is not None:
        return case.budget
    if dtype_of(case, quantity) in HALF:
        return HALF_ULP
    gamma = _gamma(case)
    if gamma > 2:
        return BEYOND_2[case.function][quantity != "value"] + 4 * gamma
    if case.function == "poly_loss" and gamma:
        return POLY_BELOW_0
    return BUDGET[case.function][quantity != "value"]


def dtype_of(case: Case, quantity: str) -> str:
    """A value has the dtype asked for, a gradient that of its input."""
    return case.result_dtype if quantity == "value" else case.dtype


def allowance(case: Case, quantity: str) -> Floats:
    """What conditioning adds to the budget of each number: k, times 1 + gamma for softmax_focal_loss.

    x - max is rounded once, and exp magnifies that rounding by its size: k is the distance of the element from the
    maximum of its row; for what a class costs (a loss, -log p) and for 1 - p, that of the largest other logit.
    For asymmetric_loss, what the answer 0 costs is a power of p - margin, which has the rounding of p and of the margin
    at its own size, the 4 ULP of a sigmoid: 4 margin / (p - margin), times 1 + gamma. That of a divergence is made with
    its exact numbers (`_allowance`).
    """
    if case.function == "asymmetric_loss" and dtype_of(case, quantity) not in HALF:
        return _k_margin(case, quantity)
    if not _has_rows(case) or dtype_of(case, quantity) in HALF:
        return np.zeros(())
    # An exponential further down is no number of the dtype: k is at most 104 in float32.
    end = math.ceil(-FORMATS[dtype_of(case, quantity)].subnormal_exponent * LOG_2)
    far, near = _distances(case)
    found = (1 + _gamma(case)) * np.minimum(_of_quantity(case, quantity, far, near), end)
    if case.function == "generalized_cross_entropy" and quantity == "d logits":
        found = found + np.moveaxis(_k_power(case, far), -1, case.axis)
    return found


def _end_of_normal(dtype: str) -> float:
    """The distance from the maximum of a row from which on an exponential may be no normal number."""
    form = FORMATS["float32" if dtype in HALF else dtype]
    return float(-form.emin * LOG_2 * (1 - np.ldexp(1.0, -20)))


def flushable(case: Case, quantity: str) -> Floats:
    """Which part of each number is made of exponentials, relative to the row's maximum, that are no normal numbers.

    1 for an element so far from the maximum, and for what a class costs if all others are. What goes with a power of
    1 - p loses its part once for each factor.
    """
    dtype = dtype_of(case, quantity)
    if not _has_rows(case) or dtype == "float16":  # made of float32, far from where that ends
        return np.zeros(())
    end = _end_of_normal(dtype)
    far, near = _distances(case)
    if not np.any(far > end):
        return np.zeros(())
    x = _rows(case)
    parts = np.zeros(x.shape)
    # Nearer ones leave of those further than `end` no more than rounding does.
    for at in zip(*np.nonzero(near > end - 50), strict=True):
        parts[at] = part_below(x[at[:-1]].tolist(), end)
    found = _of_quantity(case, quantity, (far > end).astype(np.float64), parts)
    return np.minimum((1 + _gamma(case)) * found, 1)


def _temperature(case: Case) -> float:
    return float(case.options.get("temperature", 1.0))


def _has_rows(case: Case) -> bool:
    """Whether logits are compared with the maximum of a row."""
    return case.function not in (*ELEMENTWISE, *DIVERGENCES, "nll_loss") and case.arrays["logits"].size > 0


def _gamma(case: Case) -> float:
    """The power of 1 - p in a loss."""
    if case.function == "poly_loss":
        return float(case.options.get("epsilon", 2.0) < 0)
    if case.function == "asymmetric_loss":
        return max(float(case.options.get("gamma_positive", 1.0)), float(case.options.get("gamma_negative", 4.0)))
    if "gamma" in case.arrays:
        return float(np.max(case.arrays["gamma"], initial=0.0))
    return float(case.options.get("gamma", 2.0)) if "focal" in case.function else 0.0


def _k_power(case: Case, far: Floats) -> Floats:
    """For p^q = exp(-q (-log p)), which goes with the gradient: three roundings of -log p at its size, times q."""
    if case.target_kind == "index" and not case.options.get("label_smoothing"):
        counts = np.arange(far.shape[-1]) == np.maximum(case.arrays["target"], 0)[..., None]
    elif case.target_kind == "index":
        counts = np.ones(far.shape, dtype=np.bool_)
    else:
        counts = np.moveaxis(case.arrays["target"], case.axis, -1) != 0
    return np.asarray(3 * float(case.options.get("q", 0.7)) * np.max(np.where(counts, far, 0), axis=-1, keepdims=True))


def _k_margin(case: Case, quantity: str) -> Floats:
    margin = float(case.options.get("margin", 0.05))
    alone = case.reduction == "none" and quantity in ("value", "d sample_weight")
    if not alone and quantity not in ("value", "d logits", "d target"):
        return np.zeros(())
    over = np.asarray([chance(x) for x in case.arrays["logits"].ravel().tolist()]).reshape(case.arrays["logits"].shape)
    over -= margin
    power = 1 + float(case.options.get("gamma_negative", 4.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        k = np.where((over > 0) & (case.arrays["target"] < 1), power * 4 * margin / over, 0)
    if alone or quantity != "value":
        return k
    # What is summed over samples has that of each as much as it has of its loss.
    single = replace(case, options={**case.options, "reduction": "none"}, cotangent=None, wrt=())
    losses = np.where(_counting(case, k.shape), np.abs(exact(single)["value"].high), 0)
    total = np.sum(losses)
    return np.asarray(np.sum(k * losses) / total if 0 < total < np.inf else 0.0)


def _rows(case: Case) -> Floats:
    """The logits over their temperature, class axis last; a class that takes no part is -inf."""
    x = np.moveaxis(case.arrays["logits"], case.axis, -1)
    if case.function in TRANSFORMS and "where" in case.arrays:
        mask = np.moveaxis(np.broadcast_to(case.arrays["where"], case.arrays["logits"].shape), case.axis, -1)
        x = np.where(mask != 0, x, -np.inf)
    return np.asarray(x / _temperature(case))


def _distances(case: Case) -> tuple[Floats, Floats]:
    """Of each class from the maximum; and for a maximum, of the largest other logit from it (of other classes 0)."""
    x = _rows(case)
    with np.errstate(invalid="ignore"):
        top = np.max(x, axis=-1, keepdims=True)
        runner_up = np.partition(x, -2, axis=-1)[..., -2:-1] if x.shape[-1] > 1 else top
        return _tame(top - x), np.where(x == top, _tame(top - runner_up), 0)


def _of_quantity(case: Case, quantity: str, far: Floats, near: Floats) -> Floats:
    """What each number of a quantity has, of what probabilities (`far`) and what 1 - p and -log p (`near`) have."""
    if case.function == "logsumexp" and quantity == "value":
        return np.zeros(())
    if quantity == "d logits":
        return np.moveaxis(_of_gradient(case, far, near), -1, case.axis)
    if quantity == "value" and case.function == "softmax":
        return np.moveaxis(far, -1, case.axis)
    if quantity == "d target" or case.function == "log_softmax":
        return np.moveaxis(near, -1, case.axis)
    of_loss = _of_loss(case, near)
    if quantity == "d sample_weight" or (quantity == "value" and case.reduction == "none"):
        return of_loss
    # What is summed over samples is mostly the largest losses, and these have the least of it.
    return np.asarray(np.min(of_loss, where=_counting(case, of_loss.shape), initial=np.inf))


def _counting(case: Case, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The samples that are neither ignored nor masked, and weigh something."""
    counts = np.ones(shape, dtype=np.bool_)
    for name in ("where", "sample_weight"):
        if name in case.arrays:
            counts &= np.broadcast_to(case.arrays[name] != 0, shape)
    ignored = case.options.get("ignore_index", -100)
    if case.target_kind == "index" and ignored is not None:
        counts &= ~np.isin(case.arrays["target"], ignored)
    return counts


def _of_gradient(case: Case, far: Floats, near: Floats) -> Floats:
    """p of every class but the one pulled at, which has 1 - p of it; softmax's is that times p of the one pulled at."""
    pulled = _pulled(case, far.shape)
    alone = np.sum(pulled, axis=-1, keepdims=True) == 1
    if case.function != "softmax":
        return np.where(pulled & alone, near, far)
    least = np.min(np.where(pulled, far, np.inf), axis=-1, keepdims=True)
    return np.where(pulled & alone, far + near, far + np.where(np.isfinite(least), least, 0))


def _pulled(case: Case, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The classes that a gradient is pulled back from."""
    if case.function in ("softmax", "log_softmax"):
        if case.cotangent is None:
            return np.ones(shape, dtype=np.bool_)
        return np.asarray(np.moveaxis(case.cotangent, case.axis, -1) != 0)
    if case.target_kind == "index" and not case.options.get("label_smoothing"):
        return np.asarray(np.arange(shape[-1]) == case.arrays["target"][..., None])
    return np.zeros(shape, dtype=np.bool_)


def _of_loss(case: Case, cost: Floats) -> Floats:
    """k of each sample's loss, from that of what its classes cost: the least of those that it is made of."""
    if case.target_kind == "index" and not case.options.get("label_smoothing"):
        labels = np.maximum(case.arrays["target"], 0).astype(np.int64)[..., None]
        return np.asarray(np.take_along_axis(cost, labels, axis=-1)[..., 0])
    if case.target_kind == "index":
        return np.asarray(np.min(cost, axis=-1))
    shares = np.moveaxis(case.arrays["target"], case.axis, -1)
    least = np.min(np.where(shares != 0, cost, np.inf), axis=-1)
    return np.where(np.isfinite(least), least, 0)


def _tame(distance: Floats) -> Floats:
    """No allowance where a row isn't finite."""
    return np.where(np.isfinite(distance), distance, 0)
