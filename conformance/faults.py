"""The suite judged in its turn: faults planted in right losses, and the families of cases that catch each.

`python -m conformance.faults` prints the table. A fault is called with the right function `f` (the loss, or its
`value_and_grad`) and the arguments of a call, and answers wrongly, in the one way that it is named for.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from array_api_compat import array_namespace

from arrayloss.testing import Case, Implementation, Loss

from . import runner
from .backends import arrayloss, versions
from .cases import BINARY, CATEGORICAL, DIVERGENCES, ELEMENTWISE, FUNCTIONS, GIVEN, PAIRED
from .runner import Selection

LABELLED = (*CATEGORICAL, *BINARY)
LOSSES = (*LABELLED, *DIVERGENCES)
ROWS = ("softmax", "log_softmax", "logsumexp", *CATEGORICAL, *DIVERGENCES)
FOCAL = ("softmax_focal_loss", "sigmoid_focal_loss")
SMOOTHED = tuple(name for name in LABELLED if name not in ("nll_loss", "binary_cross_entropy"))
POSITIVE = ("binary_cross_entropy_with_logits", "sigmoid_focal_loss")


@dataclass(frozen=True)
class Fault:
    """One thing wrong.

    Attributes
    ----------
    plant
        Called as `plant(f, *arrays, **options)`.
    functions
        The functions that it can be planted in.
    backend
        Where it is looked for: what is wrong with a tape shows on torch alone.
    formula
        Whether `plant` is a formula of its own, which takes no options but the reduction and what makes the formula.
    """

    name: str
    plant: Loss
    functions: tuple[str, ...]
    backend: str = "numpy"
    dtype: str = "float32"
    formula: bool = False


# ---------------------------------------------------------------- what goes in, changed


def _without(f: Loss, *arrays: Any, option: str, **options: Any) -> Any:
    return f(*arrays, **{name: given for name, given in options.items() if name != option})


def _changed(f: Loss, *arrays: Any, option: str, change: Callable[[Any], Any], **options: Any) -> Any:
    return f(*arrays, **{name: change(given) if name == option else given for name, given in options.items()})


def _reduced(f: Loss, *arrays: Any, change: Callable[[Any], Any], reduction: Any = "mean", **options: Any) -> Any:
    return f(*arrays, reduction=change(reduction), **options)


def _other_axis(f: Loss, x: Any, *target: Any, axis: int = -1, **options: Any) -> Any:
    """The classes are brought to the last axis by a reshape, which leaves the numbers where they were."""
    xp = array_namespace(x)

    def last(a: Any) -> Any:
        return xp.reshape(a, (*a.shape[:axis], *a.shape[axis:][1:], a.shape[axis])) if a.shape == x.shape else a

    options = {name: last(a) if hasattr(a, "shape") else a for name, a in options.items()}
    found = f(last(x), *map(last, target), **options)
    return _mapped(found, *2 * [lambda a: xp.reshape(a, x.shape) if math.prod(a.shape) == math.prod(x.shape) else a])


def _next_label(f: Loss, x: Any, target: Any, **options: Any) -> Any:
    """The class after the right one; in the binary family the other answer."""
    xp = array_namespace(x)
    if xp.isdtype(target.dtype, "bool"):
        return f(x, ~target, **options)
    if f.__name__ in BINARY:
        return f(x, xp.where(target >= 0, 1 - target, target), **options)
    if xp.isdtype(target.dtype, "integral"):
        target = xp.where(target >= 0, (target + 1) % x.shape[options.get("axis", -1)], target)
    return f(x, target, **options)


def _ignored_as_first(f: Loss, x: Any, target: Any, **options: Any) -> Any:
    """A negative label is taken for class 0, so that it can be indexed with, and stays that."""
    xp = array_namespace(x)
    return f(x, xp.where(target < 0, xp.zeros_like(target), target), **options)


def _hard_target(f: Loss, x: Any, target: Any, **options: Any) -> Any:
    """Of soft targets the likeliest class counts alone."""
    xp = array_namespace(x)
    if f.__name__ in BINARY:
        return f(
            x, xp.astype(target > 0.5, x.dtype) if xp.isdtype(target.dtype, "real floating") else target, **options
        )
    if xp.isdtype(target.dtype, "real floating"):
        target = xp.argmax(target, axis=options.get("axis", -1))
    return f(x, target, **options)


def _clipped(f: Loss, x: Any, *target: Any, **options: Any) -> Any:
    """Probabilities are kept within [1e-7, 1 - 1e-7]."""
    xp = array_namespace(x)
    if f.__name__ == "binary_cross_entropy":
        return f(xp.clip(x, 1e-7, 1 - 1e-7), *target, **options)
    if f.__name__ in ELEMENTWISE:
        return f(xp.clip(x, -math.log(1e7), math.log(1e7)), *target, **options)
    if f.__name__ not in ("nll_loss", *GIVEN):
        x = _right("log_softmax")(x, axis=options.get("axis", -1), where=options.get("where") if not target else None)
    return f(xp.clip(x, math.log(1e-7), math.log1p(-1e-7)), *target, **options)


def _other_side(f: Loss, x: Any, target: Any, *, pos_weight: Any = None, alpha: Any = None, **options: Any) -> Any:
    """pos_weight weighs the negatives: the same loss with both answers exchanged."""
    if pos_weight is None:
        return f(x, target, **options, **({} if alpha is None else {"alpha": alpha}))
    xp = array_namespace(x)
    if xp.isdtype(target.dtype, ("integral", "bool")):
        target = xp.astype(target, x.dtype)
    if alpha is not None:
        options["alpha"] = 1 - alpha
    return _mapped(f(-x, 1 - target, pos_weight=pos_weight, **options), _same, lambda gradient: -gradient)


def _other_way(f: Loss, x: Any, target: Any, **options: Any) -> Any:
    """The divergence of the student from the teacher."""
    return f(target, x, **options)


def _gammas_swapped(
    f: Loss, *arrays: Any, gamma_positive: float = 1.0, gamma_negative: float = 4.0, **options: Any
) -> Any:
    return f(*arrays, gamma_positive=gamma_negative, gamma_negative=gamma_positive, **options)


def _alpha_in_the_mean(f: Loss, *arrays: Any, alpha: Any = None, class_weight: Any = None, **options: Any) -> Any:
    """alpha is one more class weight, and divides the mean."""
    weights = [a for a in (alpha, class_weight) if a is not None]
    return f(*arrays, **options, **({"class_weight": math.prod(weights)} if weights else {}))


def _cut_off(f: Loss, x: Any, target: Any, **options: Any) -> Any:
    """What is not the logits is taken off the tape: its gradient is 0 without a word."""
    return f(x, target.detach(), **{name: a.detach() if hasattr(a, "detach") else a for name, a in options.items()})


def _smoothed_to_others(f: Loss, x: Any, target: Any, *, label_smoothing: float = 0.0, **options: Any) -> Any:
    """The wrong classes share the smoothing: s / (C - 1) each, and none for the label."""
    classes = 2 if f.__name__ in BINARY else x.shape[options.get("axis", -1)]
    return f(x, target, label_smoothing=min(1.0, label_smoothing * classes / max(1, classes - 1)), **options)


# ---------------------------------------------------------------- what comes out, changed


def _same(x: Any) -> Any:
    return x


def _mapped(found: Any, value: Callable[[Any], Any], gradient: Callable[[Any], Any]) -> Any:
    return (value(found[0]), gradient(found[1])) if isinstance(found, tuple) else value(found)


def _scaled(f: Loss, *arrays: Any, value: float = 1, gradient: float = 1, **options: Any) -> Any:
    return _mapped(f(*arrays, **options), lambda v: v * value, lambda g: g * gradient)


def _pulled(f: Loss, x: Any, *target: Any, by: float, **options: Any) -> Any:
    """The gradient on torch's tape, scaled."""
    found = f(x, *target, **options)
    if not isinstance(found, tuple) and found.requires_grad:
        x.register_hook(lambda g: g * by)
    return found


def _undivided(f: Loss, x: Any, target: Any, **options: Any) -> Any:
    """The gradient of a mean is that of the sum."""
    found = f(x, target, **options)
    if isinstance(found, tuple) and options.get("reduction", "mean") == "mean":
        return found[0], f(x, target, **{**options, "reduction": "sum"})[1]
    return found


def _leaking(f: Loss, x: Any, target: Any, *, where: Any = None, **options: Any) -> Any:
    """What is masked is multiplied by 0, and 0 * nan is nan."""
    if where is None:
        return f(x, target, **options)
    xp = array_namespace(x)
    every = _right(f.__name__)(x, target, **{**options, "reduction": "none"})
    leak = xp.sum(every * 0)
    return _mapped(f(x, target, where=where, **options), lambda v: v + leak, _same)


def _spreading(f: Loss, *arrays: Any, **options: Any) -> Any:
    """One nan makes all numbers nan."""
    xp = array_namespace(arrays[0])
    return _mapped(f(*arrays, **options), *2 * [lambda a: a + xp.sum(xp.where(xp.isnan(a), a, xp.zeros_like(a)))])


def _half_total(f: Loss, x: Any, *target: Any, **options: Any) -> Any:
    """Exponentials, or the losses of many samples, are added up in float16."""
    xp = array_namespace(x)
    found = f(x, *target, **options)

    def lost(terms: Any, **along: Any) -> Any:
        half = xp.sum(xp.astype(terms, xp.float16), dtype=xp.float16, **along)
        return xp.sum(terms, **along) / xp.astype(half, terms.dtype)

    if target:
        if options.get("reduction", "mean") not in ("mean", "sum"):
            return found
        ratio = 1 / lost(_right(f.__name__)(x, *target, **{**options, "reduction": "none"}))
        return _mapped(found, lambda v: v * ratio, _same)
    axis = options.get("axis", -1)
    ratio = lost(xp.exp(x - xp.max(x, axis=axis, keepdims=True)), axis=axis, keepdims=f.__name__ != "logsumexp")
    if f.__name__ == "softmax":
        return found * ratio
    return found + xp.log(ratio) if f.__name__ == "log_softmax" else found - xp.log(ratio)


def _right(name: str) -> Loss:
    found: Loss = getattr(importlib.import_module("arrayloss"), name)
    return found


# ---------------------------------------------------------------- formulas as people write them


def _naive(name: str) -> Loss:
    """Probabilities first, without a maximum, and then their logarithm."""

    def plant(f: Loss, x: Any, *target: Any, axis: int = -1, reduction: str = "", **form: float) -> Any:
        xp = array_namespace(x)
        if name in ELEMENTWISE:
            p = x if name == "binary_cross_entropy" else xp.exp(x) / (1 + xp.exp(x))
        elif name in ("nll_loss", *GIVEN):
            p = xp.exp(x)
        else:
            total = xp.sum(xp.exp(x), axis=axis, keepdims=True)
            if name == "logsumexp":
                return xp.squeeze(xp.log(total), axis=axis)
            p = xp.exp(x) / total
        if not target:
            return xp.log(p) if name.startswith("log_") else p
        cost = _naive_cost(name, p, target[0], **form)
        cost = cost if name in BINARY else xp.sum(cost, axis=axis)
        return cost if reduction == "none" else xp.sum(cost) if reduction == "sum" else xp.mean(cost)

    return plant


def _naive_cost(
    name: str,
    p: Any,
    y: Any,
    *,
    gamma: float = 2.0,
    epsilon: float = 2.0,
    q: float = 0.7,
    alpha: float = 0.1,
    beta: float = 1.0,
    log_zero: float = math.log(1e-4),
    gamma_positive: float = 1.0,
    gamma_negative: float = 4.0,
    margin: float = 0.05,
) -> Any:
    """What each class costs, and in the binary family each answer."""
    xp = array_namespace(p)
    if name in DIVERGENCES:
        y = xp.exp(y) / xp.sum(xp.exp(y), axis=-1, keepdims=True) if name in PAIRED else y
        if name.startswith("kl"):
            return y * (xp.log(y) - xp.log(p))
        m = (p + y) / 2
        return (p * xp.log(p / m) + y * xp.log(y / m)) / 2
    if name not in BINARY and xp.isdtype(y.dtype, "integral"):
        y = xp.arange(p.shape[-1]) == y[..., None]
    y = xp.astype(y, p.dtype)
    if name == "generalized_cross_entropy":
        return y * (1 - p**q) / q
    if name == "symmetric_cross_entropy":
        return -y * (alpha * xp.log(p) + beta * log_zero * (1 - p))
    power = gamma if "focal" in name else gamma_positive if name == "asymmetric_loss" else 0.0
    cost = -y * (1 - p) ** power * xp.log(p)
    if name == "poly_loss":
        return cost + y * epsilon * (1 - p)
    if name not in BINARY:
        return cost
    if name == "asymmetric_loss":
        p, power = xp.where(p > margin, p - margin, 0.0 * p), gamma_negative
    return cost - (1 - y) * p**power * xp.log(1 - p)


# ---------------------------------------------------------------- the list


def faults() -> list[Fault]:
    """Every fault, with the functions that it applies to."""
    package: Any = importlib.import_module("arrayloss")

    def without(option: str, *functions: str) -> Fault:
        return Fault(f"{option} left out", partial(_without, option=option), functions)

    def changed(name: str, option: str, change: Callable[[Any], Any], *functions: str) -> Fault:
        return Fault(name, partial(_changed, option=option, change=change), functions)

    def reduced(name: str, kind: str, change: Callable[[Any], Any]) -> Fault:
        def change_one(reduction: Any) -> Any:
            return change(reduction) if kind in (reduction, type(reduction).__name__) else reduction

        return Fault(name, partial(_reduced, change=change_one), LOSSES)

    return [
        Fault("value of the wrong sign", partial(_scaled, value=-1), FUNCTIONS),
        Fault("gradient of the wrong sign", partial(_scaled, gradient=-1), LOSSES),
        Fault("gradient of the wrong sign (tape)", partial(_pulled, by=-1), FUNCTIONS, "torch:cpu"),
        Fault("gradient scaled by 1.001", partial(_scaled, gradient=1.001), LOSSES),
        Fault("gradient scaled by 1.001 (tape)", partial(_pulled, by=1.001), FUNCTIONS, "torch:cpu"),
        Fault("gradient of the mean undivided", _undivided, LOSSES),
        Fault("gradients of targets and weights cut off (tape)", _cut_off, LOSSES, "torch:cpu"),
        *(Fault("naive formula", _naive(name), (name,), formula=True) for name in FUNCTIONS),
        Fault("probabilities clipped at 1e-7", _clipped, tuple(n for n in FUNCTIONS if n != "logsumexp")),
        Fault("float16 accumulation", _half_total, (*ROWS, *BINARY)),
        Fault("wrong axis", _other_axis, ROWS),
        Fault("off-by-one label", _next_label, LABELLED),
        Fault("soft target taken for its largest", _hard_target, LABELLED),
        without("sample_weight", *LOSSES),
        changed("sample_weight squared", "sample_weight", lambda w: w * w, *LOSSES),
        without("class_weight", *CATEGORICAL),
        changed("class_weight squared", "class_weight", lambda w: w * w, *CATEGORICAL),
        without("pos_weight", *POSITIVE, "asymmetric_loss"),
        Fault("pos_weight on the wrong side", _other_side, POSITIVE),
        without("alpha", *FOCAL),
        changed("alpha swapped", "alpha", lambda a: 1 - a, "sigmoid_focal_loss"),
        changed("alpha swapped", "alpha", lambda a: array_namespace(a).flip(a), "softmax_focal_loss"),
        Fault("alpha in the mean's divisor", _alpha_in_the_mean, ("softmax_focal_loss",)),
        without("gamma", *FOCAL),
        changed("gamma one more", "gamma", lambda gamma: gamma + 1, *FOCAL),
        without("epsilon", "poly_loss"),
        changed("epsilon of the wrong sign", "epsilon", lambda epsilon: -epsilon / 4, "poly_loss"),
        without("q", "generalized_cross_entropy"),
        without("log_zero", "symmetric_cross_entropy"),
        without("margin", "asymmetric_loss"),
        Fault("gammas swapped", _gammas_swapped, ("asymmetric_loss",)),
        Fault("student and teacher swapped", _other_way, ("kl_divergence_with_logits",)),
        without("label_smoothing", *SMOOTHED),
        Fault("label_smoothing kept from the label", _smoothed_to_others, SMOOTHED),
        without("where", *ROWS[:3], *LOSSES),
        Fault("masked row leaks its NaN", _leaking, LOSSES),
        Fault("NaN of one number spreads to all", _spreading, FUNCTIONS),
        Fault("ignored label taken for class 0", _ignored_as_first, LABELLED),
        reduced("mean divides by every sample", "mean", lambda _: package.Mean(over="all")),
        reduced("mean divides by the valid samples", "mean", lambda _: package.Mean(over="valid")),
        reduced("mean of nothing never 0", "Mean", lambda mean: replace(mean, empty="nan")),
        reduced("hardest of all is one only", "Hardest", lambda _: package.Hardest(k=1)),
        replace(without("dtype", *LOSSES), dtype="float16"),
    ]


def caught(planted: Sequence[Fault], function: str, families: Sequence[str] = ()) -> dict[str, dict[str, int]]:
    """By fault, the families (of those given, or of all) that catch it in a function, and in how many quantities."""
    found: dict[str, dict[str, int]] = {fault.name: {} for fault in planted}
    for dtype in dict.fromkeys(fault.dtype for fault in planted):
        some = [fault for fault in planted if fault.dtype == dtype]
        backends = tuple(dict.fromkeys(fault.backend for fault in some))
        chosen = Selection((function,), backends, ("eager",), (dtype,), quick=True)
        judged = [with_fault(fault, function) for fault in some]
        cases = (case for case in runner.selected_cases(chosen) if not families or case.family in families)
        for result in runner.run(judged, cases, chosen):
            if result.failed:
                counts = found[result.implementation]
                counts[result.family] = counts.get(result.family, 0) + 1
    return found


def with_fault(fault: Fault, function: str) -> Implementation:
    """The package's function with that fault, under the fault's name."""
    right = arrayloss()
    gradients = right.value_and_grad
    assert gradients is not None

    def value_and_grad(planted: Loss) -> Loss:
        return partial(fault.plant, gradients(right.functions[function]))

    return replace(
        right,
        name=fault.name,
        functions={function: partial(fault.plant, right.functions[function])},
        value_and_grad=None if fault.formula else value_and_grad,
        backends=(fault.backend,),
        not_covered=_formula_only if fault.formula else right.not_covered,
        strict=False,
    )


def _formula_only(case: Case) -> str | None:
    form = {"gamma", "epsilon", "q", "alpha", "beta", "log_zero", "gamma_positive", "gamma_negative", "margin"}
    extras = {*case.arrays, *case.options} - {"logits", "target", "reduction", *form}
    reduction = case.options.get("reduction", "none")
    return f"takes no {', '.join(extras)}" if extras else None if isinstance(reduction, str) else "no such reduction"


def table() -> str:
    """What catches each fault, as Markdown."""
    lines = ["| function | fault | caught by, in how many quantities |", "| --- | --- | --- |"]
    for function in FUNCTIONS:
        planted = [fault for fault in faults() if function in fault.functions]
        for fault, families in caught(planted, function).items():
            said = ", ".join(f"{family} {count}" for family, count in families.items())
            lines.append(f"| {function} | {fault} | {said or '**not caught**'} |")
    return "\n".join(lines)


LEGEND = (
    "A fault is an error that is made on purpose in a right implementation, to see whether the suite finds it. The "
    "last column has the families of cases in which it does; the number counts the values and gradients that fail."
)


def main() -> None:
    """Print the table, dated."""
    found = ", ".join(f"{name} {number}" for name, number in versions().items() if name in ("numpy", "torch"))
    print(f"# Planted faults\n\n{datetime.now(UTC).isoformat(timespec='seconds')}; {found}\n\n{LEGEND}\n\n{table()}")


if __name__ == "__main__":
    main()
