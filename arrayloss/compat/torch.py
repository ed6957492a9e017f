"""The losses of `torch.nn.functional` (PyTorch 2.13), on any array.

The order of the arguments, names and defaults are those of torch. The class axis is 1 (0 for a single sample). Each
function says where it differs from torch. All of them differ in this: a label out of range raises ValueError (under a
tracer or on an accelerator, its loss is nan; torch ends the process's CUDA context). A sample that is ignored or has
weight 0 contributes 0, even if its logits are nan. A term 0 * inf is 0; in torch it is nan.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import arrayloss
from arrayloss import Mean
from arrayloss.compat.shared import averaged, check_integers, check_target, check_weights, over_all
from arrayloss.extending import (
    BinaryLink,
    CrossEntropy,
    GivenKullbackLeibler,
    Link,
    Ops,
    Probability,
    Problem,
    backend_of,
    binary,
    categorical,
    check_broadcastable,
    check_given,
    documented,
    given_log_probabilities,
    given_probabilities,
    linear,
    loss,
    paired,
    sigmoid,
)
from arrayloss.extending import softmax as of_logits

A = TypeVar("A")

_FUNCTION = """
input : array of floating-point numbers
    Logits.
dim : int, optional
    The class axis. With None, it is chosen as by torch, but without torch's warning: 0 if `input` has 1 or 3
    dimensions, else 1.
_stacklevel : int
    Without effect.
dtype : dtype, optional
    The dtype that `input` is cast to first.
Returns
    array
        The shape of `input`.
"""
_LOSS = """
size_average : bool, optional
    Deprecated in torch. Use `reduction`.
reduce : bool, optional
    Deprecated in torch. Use `reduction`.
Returns
    array
        0-d, or with `reduction="none"` the shape of the labels, or of the elements.
"""
_CATEGORICAL = (
    _LOSS
    + """
target : array of integers, (), (N,) or (N, d1, ...)
    Labels, of any integer dtype (torch: int64 or uint8).
weight : array of shape (C,), optional
    A weight for each class.
ignore_index : int
    The label of samples that don't count.
reduction : {"mean", "sum", "none"}
    "mean" divides by the sum of the weights of the labels that count. If no label counts, it is nan.
"""
)
_BINARY = (
    _LOSS
    + """
input : array of floating-point numbers, any shape
    Logits.
target : array of floating-point numbers in [0, 1], of bool or of integers, of the shape of `input`
    Probabilities of the answer 1.
weight : array broadcastable to `input`, optional
    A weight for each element.
reduction : {"mean", "sum", "none"}
    "mean" divides by the number of elements, whatever the weights.
"""
)


def _axis(x: Any, dim: int | None) -> int:
    return (0 if x.ndim in (0, 1, 3) else 1) if dim is None else dim


def _cast(x: A, dtype: Any) -> A:
    return x if dtype is None else backend_of(x, "input").astype(x, dtype)


def _reduction(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    """`reduction`, or what the two arguments that it replaced say."""
    if size_average is None and reduce is None:
        return reduction
    return "none" if reduce is False else "sum" if size_average is False else "mean"


@documented(_FUNCTION)
def softmax(input: A, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> A:
    """`torch.nn.functional.softmax`.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import torch as F
    >>> F.softmax(np.asarray([[0.0, np.log(3.0)]]), 1).round(6).tolist()
    [[0.25, 0.75]]
    """
    return arrayloss.softmax(_cast(input, dtype), axis=_axis(input, dim))


@documented(_FUNCTION)
def log_softmax(input: A, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> A:
    """`torch.nn.functional.log_softmax`.

    Where torch returns exactly 0 (in float32, from a margin of 16.7), this function returns the accurate value.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import torch as F
    >>> [f"{x:.6g}" for x in F.log_softmax(np.asarray([0.0, 50.0]), 0)]
    ['-50', '-1.92875e-22']
    """
    return arrayloss.log_softmax(_cast(input, dtype), axis=_axis(input, dim))


@documented(_FUNCTION)
def logsigmoid(input: A) -> A:
    """`torch.nn.functional.logsigmoid`.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import torch as F
    >>> F.logsigmoid(np.asarray([0.0, -1000.0])).tolist()
    [-0.6931471805599453, -1000.0]
    """
    return arrayloss.log_sigmoid(input)


def _categorical(
    link: Link, input: Any, target: Any, weight: Any, ignore_index: int, reduction: str, label_smoothing: float = 0.0
) -> Problem[Any]:
    backend = backend_of(input, "input", target=check_given("target", target), weight=weight)
    if link is given_log_probabilities:
        check_integers("target", backend, target)
    soft, axis = backend.kind(target.dtype) == "real floating", 0 if input.ndim == 1 else 1
    check_target("input", input, "target", target, () if soft else (axis,))
    check_weights("input", input, "weight", weight, axis)
    if soft and ignore_index >= 0:
        raise ValueError(f"ignore_index {ignore_index} goes with integer labels; a target of probabilities has none")
    return categorical(
        link,
        CrossEntropy(),
        input,
        target,
        name="input",
        label_smoothing=label_smoothing,
        axis=axis,
        class_weight=weight,
        ignore_index=-100 if soft else ignore_index,
        reduction=over_all(reduction) if soft else reduction,
    )


@loss
@documented(_CATEGORICAL)
def nll_loss(
    input: A,
    target: Any,
    weight: Any = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Problem[A]:
    """`torch.nn.functional.nll_loss`.

    Parameters
    ----------
    input : array of floating-point numbers, (C,), (N, C) or (N, C, d1, ...)
        Log-probabilities.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import torch as F
    >>> log_p = np.log(np.asarray([[0.5, 0.5], [0.25, 0.75]]))
    >>> float(F.nll_loss(log_p, np.asarray([0, 0]), np.asarray([3.0, 1.0])))
    1.0397207708399179
    """
    reduction = _reduction(size_average, reduce, reduction)
    return _categorical(given_log_probabilities, input, target, weight, ignore_index, reduction)


@loss
@documented(_CATEGORICAL)
def cross_entropy(
    input: A,
    target: Any,
    weight: Any = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Problem[A]:
    """`torch.nn.functional.cross_entropy`.

    Parameters
    ----------
    input : array of floating-point numbers, (C,), (N, C) or (N, C, d1, ...)
        Logits.
    target : array of integers, (), (N,) or (N, d1, ...), or of floating-point numbers, of the shape of `input`
        Labels, of any integer dtype (torch: int64 or uint8), or probabilities.
    ignore_index : int
        The label of samples that do not count. If the target is probabilities, a number of 0 or more raises ValueError
        (torch: RuntimeError).
    reduction : {"mean", "sum", "none"}
        "mean" divides by the sum of the weights of the labels that count. (If no label counts, it is nan.) With
        probabilities, it divides by the number of samples, whatever the weights.
    label_smoothing : float in [0, 1]
        s: the target becomes (1 - s) target + s / C.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import torch as F
    >>> x, w = np.asarray([[0.0, 0.0], [0.0, np.log(3.0)]]), np.asarray([3.0, 1.0])
    >>> round(float(F.cross_entropy(x, np.asarray([0, 1]), w)), 6)
    0.591781
    >>> round(float(F.cross_entropy(x, np.eye(2), w)), 6)  # one-hot: divided by N = 2, not by 3 + 1
    1.183562
    """
    reduction = _reduction(size_average, reduce, reduction)
    return _categorical(of_logits, input, target, weight, ignore_index, reduction, label_smoothing)


@loss
@documented(_CATEGORICAL)
def linear_cross_entropy(
    input: A,
    linear_weight: Any,
    target: Any,
    *,
    linear_bias: Any = None,
    weight: Any = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: None = None,
) -> Problem[A]:
    """`torch.nn.functional.linear_cross_entropy`, of a layer whose output is (C,) or (N, C).

    Parameters
    ----------
    input : array of floating-point numbers, (D,) or (N, D)
        The input of the layer.
    linear_weight : array of shape (C, D)
        The weight of the layer.
    target : array of integers, () or (N,), or of floating-point numbers, (C,) or (N, C)
        Labels or probabilities.
    linear_bias : array of shape (C,), optional
        The bias of the layer.
    reduction : {"mean", "sum", "none"}
        As in `cross_entropy`.
    ignore_index : int, optional
        The label of samples that don't count; None is -100. With probabilities, it is a ValueError.
    label_smoothing : float in [0, 1]
        s: the target becomes (1 - s) target + s / C.
    options : None
        How torch cuts the logits into blocks. Here they are always in blocks, and anything but None is a TypeError.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import torch as F
    >>> x, w = np.asarray([[1.0, 2.0]]), np.asarray([[1.0, 0.0], [0.0, 1.0]])
    >>> round(float(F.linear_cross_entropy(x, w, np.asarray([1]))), 6)
    0.313262
    """
    if options is not None:
        raise TypeError("options choose how torch cuts its blocks; leave them out: here the loss is always in blocks")
    if input.ndim > 2:  # type: ignore[attr-defined]
        raise ValueError(f"input must be (D,) or (N, D), not {tuple(input.shape)}")  # type: ignore[attr-defined]
    target = check_given("target", target)
    soft = backend_of(input, "input", target=target, weight=weight).kind(target.dtype) == "real floating"
    if soft and ignore_index is not None and ignore_index >= 0:
        raise ValueError(f"ignore_index {ignore_index} goes with integer labels; a target of probabilities has none")
    return linear(
        of_logits,
        CrossEntropy(),
        input,
        linear_weight,
        target,
        bias=linear_bias,
        label_smoothing=label_smoothing,
        class_weight=weight,
        ignore_index=-100 if soft or ignore_index is None else ignore_index,
        reduction=over_all(reduction) if soft else reduction,
    )


@dataclass(frozen=True)
class _Clamped(BinaryLink):
    """Probabilities as torch takes them: logarithms of at least -100, and x (1 - x) of at least 1e-12 in a divisor."""

    unit_interval: ClassVar[bool] = True

    def of_answers(self, ops: Ops, x: Any) -> tuple[Probability, Probability, Any]:
        xp = ops.xp
        given = given_probabilities.of_answers(ops, x)[:2]
        hundred, least = xp.full_like(x, 100.0), xp.full_like(x, 9.999999960041972e-13)  # float32(1e-12), as in torch

        def clamped(at: Probability) -> Probability:
            neg_log_p = xp.minimum(at.neg_log_p, hundred)
            return Probability(neg_log_p=lambda: neg_log_p, p=lambda: at.p, one_minus_p=lambda: at.one_minus_p)

        def vjp(g: Any, by_one: Any, by_zero: Any) -> Any:
            derivative = (by_one * (1 - x) - by_zero * x) / xp.maximum(x * (1 - x), least)
            return ops.multiply_zero_wins(g, derivative)

        return clamped(given[0]), clamped(given[1]), vjp


def _binary(link: BinaryLink, input: Any, target: Any, weight: Any, reduction: Any, **options: Any) -> Problem[Any]:
    backend_of(input, "input", target=check_given("target", target), weight=weight)
    check_target("input", input, "target", target)
    if weight is not None:
        check_broadcastable("weight", weight.shape, input.shape)
    options.update(name="input", sample_weight=weight, reduction=over_all(reduction))
    return binary(link, CrossEntropy(), input, target, **options)


@loss
@documented(_BINARY)
def binary_cross_entropy(
    input: A,
    target: Any,
    weight: Any = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Problem[A]:
    """`torch.nn.functional.binary_cross_entropy`.

    This function has torch's limits, in the value and in the gradient: a logarithm is at least -100, and the divisor in
    the gradient is at least 1e-12. `arrayloss.binary_cross_entropy` has no such limits, so a wrong 0 or 1 costs inf. If
    you have logits, use them instead. A probability outside [0, 1] raises ValueError (torch: RuntimeError); where it
    cannot be read (under a tracer, on an accelerator), its loss is nan.

    Parameters
    ----------
    input : array of floating-point numbers in [0, 1], any shape
        Probabilities.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import torch as F
    >>> F.binary_cross_entropy(np.asarray([0.0, 0.5]), np.asarray([1.0, 1.0]), reduction="none").tolist()
    [100.0, 0.6931471805599453]
    """
    return _binary(_Clamped(), input, target, weight, _reduction(size_average, reduce, reduction))


@loss
@documented(_BINARY)
def binary_cross_entropy_with_logits(
    input: A,
    target: Any,
    weight: Any = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Any = None,
) -> Problem[A]:
    """`torch.nn.functional.binary_cross_entropy_with_logits`.

    A target outside [0, 1] raises ValueError. torch accepts it, and the loss may then be negative.

    Parameters
    ----------
    pos_weight : array broadcastable to `input`, optional
        A factor of the term of the answer 1.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import torch as F
    >>> x, y, w = np.zeros(2), np.asarray([0.0, 1.0]), np.asarray([1.0, 3.0])
    >>> float(F.binary_cross_entropy_with_logits(x, y, w))  # (log 2 + 3 log 2) / 2
    1.3862943611198906
    """
    reduction = _reduction(size_average, reduce, reduction)
    return _binary(sigmoid, input, target, weight, reduction, pos_weight=pos_weight)


@loss
@documented(_BINARY)
def soft_margin_loss(
    input: A, target: Any, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean"
) -> Problem[A]:
    """`torch.nn.functional.soft_margin_loss`: log(1 + exp(-target * input)).

    Where torch returns 0 (in float32, from a margin of 16.7), this keeps the digits.

    Parameters
    ----------
    target : array of floating-point numbers or of integers, of the shape of `input`
        1 and -1.
    reduction : {"mean", "sum", "none"}
        "mean" divides by the number of elements.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import torch as F
    >>> F.soft_margin_loss(np.asarray([0.0, 2.0]), np.asarray([1, -1]), reduction="none").round(6).tolist()
    [0.693147, 2.126928]
    """
    backend = backend_of(input, "input", target=check_given("target", target))
    check_target("input", input, "target", target)
    sign = backend.astype(target, input.dtype)  # type: ignore[attr-defined]
    margin = input * sign
    made = _binary(sigmoid, margin, backend.xp.ones_like(margin), None, _reduction(size_average, reduce, reduction))
    return replace(made, restore=lambda g: g * sign)


@loss
@documented(_BINARY)
def multilabel_soft_margin_loss(
    input: A,
    target: Any,
    weight: Any = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Problem[A]:
    """`torch.nn.functional.multilabel_soft_margin_loss`: of each sample, the mean of its binary cross-entropies.

    A target outside [0, 1] is a ValueError.

    Parameters
    ----------
    input : array of floating-point numbers, (C,) or (..., C)
        Logits.
    reduction : {"mean", "sum", "none"}
        "mean" divides by the number of samples.

    Returns
    -------
    array
        0-d, or with `reduction="none"` the shape of `input` without its last axis.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import torch as F
    >>> F.multilabel_soft_margin_loss(np.zeros((1, 2)), np.asarray([[1.0, 0.0]]), reduction="none").round(6).tolist()
    [0.693147]
    """
    how: Any = _reduction(size_average, reduce, reduction)
    if how == "none":
        return averaged(_binary(sigmoid, input, target, weight, "none"), -1, "input")
    # The sum over samples of a mean over C classes.
    how = Mean(over=input.shape[-1]) if how == "sum" else how  # type: ignore[attr-defined]
    return _binary(sigmoid, input, target, weight, how)


@loss
@documented(_LOSS)
def kl_div(
    input: A,
    target: Any,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Problem[A]:
    """`torch.nn.functional.kl_div`, without its warning that "mean" is not the mean over the samples.

    A negative probability is a ValueError; torch has nan there.

    Parameters
    ----------
    input : array of floating-point numbers, any shape
        Log-probabilities.
    target : array of floating-point numbers, of the shape of `input`
        Probabilities, or with `log_target` their logarithms.
    reduction : {"mean", "batchmean", "sum", "none"}
        "mean" divides by the number of elements, "batchmean" by the length of the first axis.
    log_target : bool
        Whether `target` are logarithms.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss.compat import torch as F
    >>> log_p, q = np.log(np.asarray([[0.5, 0.5]])), np.asarray([[1.0, 0.0]])
    >>> float(F.kl_div(log_p, q)), float(F.kl_div(log_p, q, reduction="batchmean"))
    (0.34657359027997264, 0.6931471805599453)
    """
    x: Any = input
    how: Any = _reduction(size_average, reduce, reduction)
    if how == "batchmean":
        how = Mean(over=x.shape[0]) if x.ndim else "sum"
    xp = backend_of(x, "input", target=check_given("target", target)).xp
    check_target("input", x, "target", target)
    # Each element is a row of one class.
    x, target = (xp.expand_dims(a, axis=-1) for a in (x, target))
    options: Any = {"names": ("input", "target"), "probabilities": not log_target, "reduction": over_all(how)}
    made = paired(GivenKullbackLeibler(log_target), x, target, **options)
    return replace(made, restore=lambda g: xp.squeeze(g, axis=-1))
