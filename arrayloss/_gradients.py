"""A loss's value and its derivative by the logits, in closed form, on any library."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import update_wrapper, wraps
from typing import Any, ParamSpec, Protocol, TypeVar

from arrayloss import _engine
from arrayloss._libraries import library_of

P = ParamSpec("P")
A = TypeVar("A")


def loss(stated: Callable[P, _engine.Problem[A]], own: str | None = None) -> Callable[P, A]:
    """A public loss of the function that states its problem; `value_and_grad` has it stated once more.

    `own` is the method of a library that may know the value where no option is given.
    """

    @wraps(stated)
    def value(*args: P.args, **kwargs: P.kwargs) -> A:
        if own is not None and len(args) == 2 and not kwargs:
            library = library_of(args[0])
            known: A | None = None if library is None else getattr(library, own)(*args)
            if known is not None:
                return known
        return _engine.evaluate(stated(*args, **kwargs))

    # Not `__wrapped__`, which many a function of another library has too.
    vars(value)["problem"] = stated
    # What `help` shows is the array that comes back.
    value.__annotations__ = {**stated.__annotations__, "return": "A"}
    vars(value)["__signature__"] = inspect.signature(stated).replace(return_annotation="A")
    return value


def _named(made: Callable[..., Any], loss: Callable[..., Any]) -> None:
    """Let what is `made` of a loss say that it takes what the loss does, and a cotangent."""
    # Not `wraps`, which a type checker sees no type variable through.
    update_wrapper(made, loss)
    taken = list(inspect.signature(loss).parameters.values())
    # What takes any option takes them last.
    end = len(taken) - (taken[-1].kind is inspect.Parameter.VAR_KEYWORD)
    taken.insert(end, inspect.Parameter("cotangent", inspect.Parameter.KEYWORD_ONLY, default=None))
    vars(made)["__signature__"] = inspect.Signature(taken)


class ValueAndGrad(Protocol):
    """What `value_and_grad` makes of a loss: the arrays that come back are of the type that went in."""

    def __call__(self, first: A, /, *arguments: Any, cotangent: Any = None, **options: Any) -> tuple[A, A]: ...


class Grad(Protocol):
    """What `grad` makes of a loss."""

    def __call__(self, first: A, /, *arguments: Any, cotangent: Any = None, **options: Any) -> A: ...


def problem_of(loss: Callable[..., Any], taker: str = "this") -> Callable[..., _engine.Problem[Any]]:
    """The function that states the loss's problem; raises for what is no loss."""
    stated: Callable[..., _engine.Problem[Any]] | None = getattr(loss, "problem", None)
    if stated is None:
        raise TypeError(
            f"{taker} takes a loss of arrayloss, such as cross_entropy, not "
            f"{getattr(loss, '__name__', repr(loss))}; its options go to the function that comes back"
        )
    return stated


def value_and_grad(loss: Callable[..., Any], /) -> ValueAndGrad:
    """A function for a loss's value and its derivative by the logits.

    The derivative is the loss's own formula, computed in the same pass as the value: no tape, so that NumPy and CuPy
    have it as well, and on torch and JAX it equals what their autodiff gives.

    Parameters
    ----------
    loss : function
        One of the losses of `arrayloss`, or of the presets of `arrayloss.compat`.

    Returns
    -------
    function
        `f(logits, target, /, **options) -> (value, gradient)`, with the arguments of the loss, in its own order: where
        a preset of `arrayloss.compat` has the target first, so has this. The gradient has the shape and dtype of the
        logits. With `reduction="none"`, `f` takes the cotangent, of the shape of the losses,
        as `cotangent=`; the gradient is that of `sum(cotangent * losses)`.

    Raises
    ------
    TypeError
        If `loss` is not one of these; if a cotangent is missing, or given for a reduced loss.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss import cross_entropy, value_and_grad
    >>> value, gradient = value_and_grad(cross_entropy)(np.asarray([[0.0, np.log(3.0)]]), np.asarray([1]))
    >>> round(float(value), 6), gradient.tolist()
    (0.287682, [[0.25, -0.25]])
    """
    stated = problem_of(loss, "value_and_grad")

    def both(*arguments: Any, cotangent: Any = None, **options: Any) -> tuple[Any, Any]:
        return _engine.evaluate_with_gradient(stated(*arguments, **options), cotangent)

    _named(both, loss)
    return both


def grad(loss: Callable[..., Any], /) -> Grad:
    """A function for a loss's derivative by the logits: `value_and_grad` without the value.

    Parameters
    ----------
    loss : function
        One of the losses of `arrayloss`.

    Returns
    -------
    function
        `f(logits, target, /, **options) -> gradient`.

    Raises
    ------
    TypeError
        If `loss` is not one of these; if a cotangent is missing, or given for a reduced loss.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss import binary_cross_entropy_with_logits, grad
    >>> grad(binary_cross_entropy_with_logits)(np.zeros(2), np.asarray([0, 1])).tolist()
    [0.25, -0.25]
    """
    both = value_and_grad(loss)

    def gradient(*arguments: Any, cotangent: Any = None, **options: Any) -> Any:
        return both(*arguments, cotangent=cotangent, **options)[1]

    _named(gradient, loss)
    return gradient
