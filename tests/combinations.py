"""Every public function with every option: alone, all at once, with each target, reduction and axis.

For the tests that ask whether a call can be made at all: on a device, and on what stands for one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from outside.common import ACTIVATIONS, BINARY, CATEGORICAL, LOSSES, arguments

import arrayloss as al

CLASSES, ROWS = 3, 6


class Combination(NamedTuple):
    """A call: `function(*arrays, **options)`, with NumPy arrays in float64 or of integers."""

    function: Callable[..., Any]
    arrays: tuple[Any, ...]
    options: dict[str, Any]
    target: str = ""

    @property
    def is_loss(self) -> bool:
        return self.function in LOSSES

    @property
    def name(self) -> str:
        shape = "x".join(map(str, self.arrays[0].shape))
        said = [shape, self.target, *(f"{k}={_short(v)}" for k, v in self.options.items())]
        return f"{self.function.__name__}({', '.join(filter(None, said))})"

    @property
    def samples(self) -> tuple[int, ...]:
        """The shape of the losses."""
        shape = list(self.arrays[0].shape)
        if self.function not in BINARY:
            del shape[self.options.get("axis", -1)]
        return tuple(shape)

    def moved(self, move: Callable[[Any], Any]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments, with `move` of each array, in their order."""
        arrays = [move(a) for a in self.arrays]
        options = {k: move(v) if isinstance(v, np.ndarray) else v for k, v in self.options.items()}
        over = getattr(options.get("reduction"), "over", None)
        if isinstance(over, np.ndarray):
            options["reduction"] = al.Mean(over=move(over))
        return arrays, options


def _short(value: Any) -> str:
    return f"array{list(value.shape)}" if isinstance(value, np.ndarray) else str(value)


REDUCTIONS = [
    *("none", "mean", "sum", al.Sum(), al.Mean(over="valid", empty="zero"), al.Mean(over="all")),
    *(al.Mean(over=7), al.Mean(over=np.asarray(7.0)), al.Hardest(k=2), al.Hardest(fraction=0.5)),
]


def combinations(*, few: bool = False) -> Iterator[Combination]:
    """All of them, or `few`: of a loss, none of its options, and all at once with three reductions."""
    for function in ACTIVATIONS:
        yield from _of_function(function)
    for loss in LOSSES:
        for target in _targets(loss):
            if not few or target != "int32":
                yield from _few_of(loss, target) if few else _of_loss(loss, target)


def _few_of(loss: Any, target: str) -> Iterator[Combination]:
    for one in _of_loss(loss, target):
        reduction, others = one.options.get("reduction"), len(one.options.keys() - {"reduction", "axis"})
        if not one.options or (others > 1 and reduction in ("none", "mean", al.Hardest(k=2))):
            yield one


def _of_function(function: Any) -> Iterator[Combination]:
    x = np.random.default_rng(0).normal(size=(ROWS, CLASSES))
    yield Combination(function, (x,), {})
    yield Combination(function, (np.stack([x, -x]),), {})
    if function in (al.sigmoid, al.log_sigmoid):
        return
    yield Combination(function, (np.stack([x, -x], 1),), {"axis": 1})
    for options in ({"axis": 0}, {"where": x > -1}, {"axis": 0, "where": x > -1}):
        yield Combination(function, (x,), options)
        if function is al.logsumexp:
            yield Combination(function, (x,), {**options, "keepdims": True})


def _targets(loss: Any) -> list[str]:
    if loss is al.kl_divergence_with_logits:
        return ["teacher"]
    return ["int32", "bool", "float"] if loss in BINARY else ["int64", "int32", "float"]


def _of_loss(loss: Any, target: str) -> Iterator[Combination]:
    x, t = arguments(loss, soft=target == "float", shape=(ROWS, CLASSES))
    t = t if target in ("float", "teacher") else t.astype(target)
    alone = list(_options(loss, target))
    together = {k: v for options in alone for k, v in options.items() if k != "dtype"}
    for options in ({}, *alone):
        yield Combination(loss, (x, t), options, target)
    for reduction in REDUCTIONS:
        yield Combination(loss, (x, t), {"reduction": reduction}, target)
        yield Combination(loss, (x, t), {**together, "reduction": reduction}, target)
    if loss in BINARY:
        yield Combination(loss, (x[0], t[0]), {}, target)
        return
    per_class = {k: v for k, v in together.items() if k in ("class_weight", "alpha", "gamma", "label_smoothing")}
    wide = (np.stack([x, x[::-1]], 2), np.stack([t, t[::-1]], -1))
    for options in ({"axis": 1}, {**per_class, "axis": 1}, {**per_class, "axis": 1, "reduction": al.Hardest(k=2)}):
        yield Combination(loss, wide, options, target)
    yield Combination(loss, (x.T, t.T if t.ndim == 2 else t), {**together, "axis": 0}, target)


def _options(loss: Any, target: str) -> Iterator[dict[str, Any]]:
    """The options of a loss, each with a value that has an effect."""
    shape = (ROWS, CLASSES) if loss in BINARY else (ROWS,)
    rng = np.random.default_rng(0)
    yield {"sample_weight": np.where(rng.random(shape) < 0.2, 0.0, rng.uniform(0.5, 2, shape))}
    yield {"where": rng.random(shape) < 0.7}
    yield {"dtype": "float64"}
    if loss is al.kl_divergence_with_logits:
        yield {"temperature": 1.5}
        return
    if target not in ("float", "bool"):
        yield {"ignore_index": 1}
    if loss is not al.nll_loss:
        yield {"label_smoothing": 0.1}
    if loss in CATEGORICAL:
        yield {"class_weight": np.asarray([1.0, 0.5, 2.0])}
    if loss in BINARY:
        yield {"pos_weight": 2.5}
        yield {"pos_weight": np.asarray(2.5)}
        yield {"pos_weight": np.asarray([1.0, 0.5, 2.0])}
    if loss in (al.softmax_focal_loss, al.sigmoid_focal_loss):
        yield {"gamma": 0.0}
        yield {"gamma": 0.5}
        yield {"gamma": np.asarray([0.0, 1.5, 2.0])}
    if loss is al.softmax_focal_loss:
        yield {"alpha": 0.25}
        yield {"alpha": np.asarray([0.2, 0.3, 0.5])}
    if loss is al.sigmoid_focal_loss:
        yield {"alpha": 0.25}
        yield {"alpha": np.asarray(0.25)}
        yield {"alpha": np.asarray([0.2, 0.3, 0.5])}
    if loss is al.cross_entropy:
        yield {"z_loss": 0.25}
        yield {"temperature": 1.5}
    if loss is al.poly_loss:
        yield {"epsilon": -0.5}
    if loss is al.asymmetric_loss:
        yield {"gamma_positive": 0.0, "gamma_negative": 2.5, "margin": 0.1}
