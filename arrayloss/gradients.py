"""From a loss to its gradient, in closed form, on any library: `value_and_grad`, `grad` and `objective`.

Each loss is written as a function that returns a `Problem`, its checked arguments. The decorator `loss` turns it into
the public function, which returns the value. The other functions here compute other results from the same problem.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, get_type_hints, overload

from arrayloss import _checks, _problem
from arrayloss._options import documented, expanded, options_of
from arrayloss._problem import Problem

P = ParamSpec("P")
A = TypeVar("A")
F = TypeVar("F", bound=Callable[..., Any])


def loss(stated: Callable[P, Problem[A]]) -> Callable[P, A]:
    """Turn a function that returns a `Problem` into a loss, which returns the value. The loss has the same parameters.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss import softmax_focal_loss, value_and_grad
    >>> from arrayloss.extending import loss, problem
    >>> @loss
    ... def strong_focal_loss(logits, target, /, **options):
    ...     return problem(softmax_focal_loss, logits, target, gamma=5.0, **options)
    >>> value, gradient = value_and_grad(strong_focal_loss)(np.zeros((1, 2)), np.asarray([1]))
    >>> float(value.round(6)), gradient.round(6).tolist()
    (0.021661, [[0.069777, -0.069777]])
    """

    problem = with_suggestions(stated)
    signature = inspect.signature(problem)

    @wraps(problem)
    def value(*args: P.args, **kwargs: P.kwargs) -> A:
        with _problem.context(args, kwargs):
            result: A = _problem.value(_made(problem, args, kwargs))
        return result

    # Tracers that follow `__wrapped__` would call the inner function, which returns a `Problem`.
    del vars(value)["__wrapped__"]
    vars(value)["problem"] = problem
    # The type of the value, not of the problem, for `help`.
    value.__annotations__ = {**problem.__annotations__, "return": "A"}
    vars(value)["__signature__"] = signature.replace(return_annotation="A")
    options = options_of(stated)
    return value if options is None else documented(options)(value)


def _made(stated: Callable[..., Problem[A]], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Problem[A]:
    made = stated(*args, **kwargs)
    if not isinstance(made, Problem):
        kind = type(made).__name__
        raise TypeError(
            f"{stated.__name__} must return what categorical, binary, paired or problem returns, not {kind}"
        )
    return made


def _hints(stated: Callable[..., Any]) -> dict[str, Any]:
    """The annotations, evaluated to types; as they are written, if a name in them is not defined at run time."""
    try:
        return get_type_hints(stated)
    except NameError:
        return dict(stated.__annotations__)


def problem(loss: Callable[P, A], /, *args: P.args, **kwargs: P.kwargs) -> Problem[A]:
    """The problem of a loss and its arguments, all checked. A new loss can start from it."""
    return problem_of(loss)(*args, **kwargs)


def problem_of(loss: Callable[..., Any], caller: str = "problem") -> Callable[..., Problem[Any]]:
    """The function that returns the problem of a loss. Raises TypeError for what is not a loss."""
    stated: Callable[..., Problem[Any]] | None = getattr(loss, "problem", None)
    if stated is None:
        raise TypeError(
            f"{caller} takes a loss of arrayloss, such as cross_entropy, not "
            f"{getattr(loss, '__name__', repr(loss))}; its options go to the function that comes back"
        )
    return stated


def with_suggestions(function: F) -> F:
    """The function, with errors that suggest the right name for an unknown keyword, and with a complete signature."""
    signature = expanded(function)
    names = list(signature.parameters)
    positional = [name for name, one in signature.parameters.items() if one.kind is one.POSITIONAL_ONLY]
    open_ended = any(one.kind is one.VAR_KEYWORD for one in signature.parameters.values())

    @wraps(function)
    def suggesting(*args: Any, **kwargs: Any) -> Any:
        for name in kwargs:
            if name in positional:
                raise TypeError(f"{function.__name__}() takes {name} by position: pass it without its name")
            if name not in names and not open_ended:
                raise TypeError(_unexpected(function.__name__, name, names))
        return function(*args, **kwargs)

    del vars(suggesting)["__wrapped__"]
    # Types, not strings: the names in a string would be looked up in this module.
    hints = _hints(function)
    types = {name: hints.get(name, one.annotation) for name, one in signature.parameters.items()}
    suggesting.__annotations__ = {**types, "return": hints.get("return", signature.return_annotation)}
    vars(suggesting)["__signature__"] = signature
    return suggesting  # type: ignore[return-value]


_OTHER_WORDS = {
    "weight": "class_weight sample_weight",
    "weights": "class_weight sample_weight",
    "dim": "axis",
    "mask": "where",
    "targets": "target",
    "labels": "target",
    "input": "logits",
}


def _unexpected(function: str, name: str, names: list[str]) -> str:
    """The message for an unknown keyword, with the one that was meant."""
    words = [w for w in names if any(w.startswith(o) for o in _OTHER_WORDS.get(name, "").split())]
    meant = sorted(words) or difflib.get_close_matches(name, names, 1)
    return f"{function}() got an unexpected keyword argument '{name}'" + (
        f"; did you mean {' or '.join(meant)}?" if meant else ""
    )


@dataclass(frozen=True)
class _Derived:
    """A function made of a loss. It can be pickled and copied, and has the loss's name, docstring and parameters."""

    loss: Callable[..., Any]

    def __post_init__(self) -> None:
        parameters = list(inspect.signature(self.loss).parameters.values())
        # `**options` must stay the last parameter.
        end = len(parameters) - (parameters[-1].kind is inspect.Parameter.VAR_KEYWORD)
        parameters.insert(end, inspect.Parameter("cotangent", inspect.Parameter.KEYWORD_ONLY, default=None))
        attributes = {name: getattr(self.loss, name, None) for name in ("__name__", "__qualname__", "__doc__")}
        vars(self).update(attributes, __signature__=inspect.Signature(parameters))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.loss,)

    def _computed(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """The value and the gradient."""
        cotangent = kwargs.pop("cotangent", None)
        with _problem.context(args, kwargs):
            return _problem.value_with_gradient(_made(problem_of(self.loss), args, kwargs), cotangent)


class ValueAndGrad(_Derived, Generic[P]):
    """What `value_and_grad` returns. The value and the gradient have the type of the logits."""

    @overload
    def __call__(self, first: A, /, *args: P.args, **kwargs: P.kwargs) -> tuple[A, A]: ...
    @overload
    def __call__(self, first: A, /, *args: Any, cotangent: Any, **kwargs: Any) -> tuple[A, A]: ...
    @overload
    def __call__(self, **kwargs: Any) -> tuple[Any, Any]: ...
    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:  # type: ignore[misc]  # mypy issue with P.args
        return self._computed(args, kwargs)


class Grad(_Derived, Generic[P]):
    """What `grad` returns. The gradient has the type of the logits."""

    @overload
    def __call__(self, first: A, /, *args: P.args, **kwargs: P.kwargs) -> A: ...
    @overload
    def __call__(self, first: A, /, *args: Any, cotangent: Any, **kwargs: Any) -> A: ...
    @overload
    def __call__(self, **kwargs: Any) -> Any: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[misc]
        return self._computed(args, kwargs)[1]


def value_and_grad(loss: Callable[Concatenate[Any, P], Any], /) -> ValueAndGrad[P]:
    """Make a function that returns the value of a loss and its gradient with respect to the logits.

    The gradient is computed by a formula, in the same pass as the value. This needs no automatic differentiation, so it
    works with NumPy and CuPy too. On torch and JAX, it equals the gradient that their autodiff computes.

    Parameters
    ----------
    loss : function
        A loss of `arrayloss`, of `arrayloss.compat`, or of your own; or `softmax`, `log_softmax`, `logsumexp`,
        `sigmoid` or `log_sigmoid`, with the option ``cotangent=``.

    Returns
    -------
    function
        ``f(logits, target, /, **options) -> (value, gradient)``, with the parameters of the loss, in the same order
        (some losses of `arrayloss.compat` have the target first). The gradient has the shape and dtype of the logits;
        that of `linear_cross_entropy` is a named tuple of three gradients, with respect to `hidden`, `weight` and
        `bias`.
        With ``reduction="none"`` or means along an axis, f needs ``cotangent=``, an array in the shape of the result;
        the gradient is that of ``sum(cotangent * result)``. f can be pickled.

    Raises
    ------
    TypeError
        If `loss` is not a loss. When f is called: if the cotangent is missing, or given with a reduced loss.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss import cross_entropy, value_and_grad
    >>> value, gradient = value_and_grad(cross_entropy)(np.asarray([[0.0, np.log(3.0)]]), np.asarray([1]))
    >>> round(float(value), 6), gradient.tolist()
    (0.287682, [[0.25, -0.25]])
    """
    problem_of(loss, "value_and_grad")
    return ValueAndGrad(loss)


def grad(loss: Callable[Concatenate[Any, P], Any], /) -> Grad[P]:
    """Make a function that returns the gradient of a loss with respect to the logits: only the gradient, no value.

    Parameters
    ----------
    loss : function
        A loss, as for `value_and_grad`.

    Returns
    -------
    function
        ``f(logits, target, /, **options) -> gradient``, with the parameters of the loss, and ``cotangent=``.

    Raises
    ------
    TypeError
        As `value_and_grad` does.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss import binary_cross_entropy_with_logits, grad
    >>> grad(binary_cross_entropy_with_logits)(np.zeros(2), np.asarray([0, 1])).tolist()
    [0.25, -0.25]
    """
    problem_of(loss, "grad")
    return Grad(loss)


def objective(loss: Callable[..., Any], /, *, min_hessian: float | None = None, **options: Any) -> Callable[..., Any]:
    r"""A loss as a custom objective of XGBoost and LightGBM: gradient and diagonal Hessian, in closed form.

    Both are derivatives of the loss of each sample with respect to its raw scores, times the weight of the sample. The
    boosters sum them. They are never nan for finite scores, however large these are.

    Parameters
    ----------
    loss : function
        One of the losses of `arrayloss` that take logits, except `linear_cross_entropy` and
        `js_divergence_with_logits`, which have no second derivatives in closed form.
    min_hessian : float > 0, optional
        The smallest second derivative. Smaller ones are raised to this number, before they are multiplied by the weight
        of the sample. Without it, all second derivatives are exact. Use it for focal losses, which are not convex: with
        gamma 2, the second derivative is negative where an answer is wrong by a margin of more than 2.8. A booster does
        not split a node if the sum of the second derivatives is negative, so a training that begins with scores of 5
        everywhere would never start. With 0.01, training works from any scores.
    **options
        The options of the loss, for example `gamma`, `alpha`, `pos_weight`, `class_weight` or `label_smoothing`.

    Returns
    -------
    function
        `f(y_true, y_pred, sample_weight=None) -> (gradient, hessian)`: an objective for the scikit-learn classes of
        both libraries (`objective=f`). It can also be called as `f(y_pred, data)` with an XGBoost `DMatrix` or a
        LightGBM `Dataset`, and then takes labels and weights from `data`. So it is an objective for
        `xgboost.train(obj=f)` and `lightgbm.train({"objective": f})` too. The shape of raw scores is (N,), or (N, C)
        with a class axis. Gradient and Hessian have the shape and dtype of the scores. Labels are numbers of any dtype;
        labels of classes are whole numbers. f can be pickled.

    Raises
    ------
    TypeError
        If `loss` is not a loss of `arrayloss`, or `reduction` is among the options. When f is called: if `loss` does
        not take logits.
    ValueError
        If `min_hessian` is not above 0. When f is called: if the labels do not fit the scores.

    Notes
    -----
    For `cross_entropy`, the diagonal of the Hessian is p (1 - p). The built-in multi-class objectives use larger
    numbers: XGBoost uses 2 p (1 - p), and LightGBM C / (C - 1) p (1 - p). docs/boosting.md shows how to get the same
    models as with these.

    References
    ----------
    Chen and Guestrin, "XGBoost: A Scalable Tree Boosting System", KDD 2016.
    Friedman, "Greedy Function Approximation: A Gradient Boosting Machine", Annals of Statistics 29 (2001).

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss import binary_cross_entropy_with_logits, cross_entropy, objective
    >>> gradient, hessian = objective(binary_cross_entropy_with_logits)(np.asarray([1.0, 0.0]), np.zeros(2))
    >>> gradient.tolist(), hessian.tolist()
    ([-0.5, 0.5], [0.25, 0.25])
    >>> objective(cross_entropy)(np.asarray([1.0]), np.asarray([[0.0, np.log(3.0)]]))[1].round(6).tolist()
    [[0.1875, 0.1875]]
    """
    problem_of(loss, "objective")
    parameters = inspect.signature(loss).parameters.values()
    takes_more = sum(one.default is one.empty and one.kind is not one.VAR_KEYWORD for one in parameters) > 2
    if takes_more or not any(one.name == "reduction" or one.kind is one.VAR_KEYWORD for one in parameters):
        raise TypeError(
            f"objective takes a loss of logits, a target and reduction=, such as cross_entropy; {loss.__name__} of "
            f"{loss.__module__} takes {', '.join(one.name for one in parameters)}"
        )
    if "reduction" in options:
        raise TypeError("an objective has no reduction: a booster sums over the samples of each leaf")
    if min_hessian is not None:
        _checks.above_zero("min_hessian", min_hessian)
    return partial(_derivatives, loss, min_hessian, options)


# A function of the module, not a closure, as estimators that hold it are pickled. XGBoost looks for the names of the
# parameters, LightGBM for their number.
def _derivatives(
    loss: Any, min_hessian: float | None, options: dict[str, Any], y_true: Any, y_pred: Any, sample_weight: Any = None
) -> tuple[Any, Any]:
    if hasattr(y_pred, "get_label"):
        data, y_pred = y_pred, y_true
        y_true, sample_weight = data.get_label(), data.get_weight()
        if sample_weight is not None and len(sample_weight) == 0:
            sample_weight = None  # XGBoost returns an empty array if there are none
    backend = _checks.backend(y_pred, "y_pred", y_true=_checks.given("y_true", y_true), sample_weight=sample_weight)
    with backend.context(y_pred):
        if y_true.ndim < y_pred.ndim:
            y_true = _labels(backend, y_true)
        reduction = "sum" if sample_weight is None else "none"
        problem = problem_of(loss, "objective")(y_pred, y_true, reduction=reduction, **options)
        if sample_weight is not None:
            xp, samples = backend.xp, problem.shape
            why = "there is one for each sample"
            _checks.same_shape("sample_weight", sample_weight.shape, samples[:1], samples, why)
            sample_weight = xp.astype(sample_weight, y_pred.dtype)
            sample_weight = xp.broadcast_to(xp.reshape(sample_weight, (-1, *(1 for _ in samples[1:]))), samples)
        _, gradient = _problem.value_with_gradient(problem, sample_weight)
        return gradient, _problem.second_derivatives(problem, sample_weight, min_hessian)


def _labels(backend: Any, y: Any) -> Any:
    """Labels of classes as integers: both boosters keep labels in float32."""
    xp = backend.xp
    if not xp.isdtype(y.dtype, "real floating"):
        return y
    labels = xp.astype(y, backend.index_dtype(y))
    if backend.can_inspect(y) and not bool(xp.all(xp.astype(labels, y.dtype) == y)):
        raise ValueError("y_true must hold whole numbers, the classes, and does not")
    return labels
