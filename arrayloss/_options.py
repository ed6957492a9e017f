"""The options that several losses share: each one's type, default and description are written once, here.

A loss takes them as `**options: Unpack[ClassOptions]`, say, which type checkers expand to single keywords. Each class's
docstring describes the options in numpydoc form, and also the array arguments, Returns and Raises. `documented` puts
the descriptions into the docstring of a function, and `expanded` the keywords into its signature. (These defaults
are for the signatures. The calls use those of `categorical`, `binary` and `paired`; a test compares the two.)
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from string import Template
from textwrap import dedent
from typing import Annotated, Any, Literal, SupportsFloat, TypeAlias, TypedDict, TypeVar, get_args, get_type_hints

from arrayloss.reductions import Reduction

F = TypeVar("F", bound=Callable[..., Any])
Table = dict[str, str]
# A real number: of Python, of NumPy, a 0-d array, or a traced value. (To a type checker, an array of any shape is one.)
Scalar: TypeAlias = float | SupportsFloat
SECTIONS = ("Parameters", "Returns", "Raises", "Notes", "References", "Examples")

# -------------------------------------------------------------------------------------------------------------------
# The options, as `Annotated[type, default]`; else the default is None. $array is the first parameter's name.


class LossOptions(TypedDict, total=False):
    """
    sample_weight : array, optional
        The weight w of each $sample; without it, 1. Its shape must broadcast to that of the ${sample}s.
    where : array of bool, optional
        True for each $sample that counts. Its shape must broadcast to that of the ${sample}s.
    reduction : {"none", "mean", "sum"}, Mean, Sum or Hardest
        How the losses of the ${sample}s become the result. "none": they are the result. "sum": their weighted sum.
        "mean": their weighted sum, divided by the sum of the weights.
    dtype : dtype, optional
        The floating-point dtype of the result; without it, that of `$array`. For example float32, for the mean of the
        losses of bfloat16 logits.
    gamma : scalar or array, >= 0
        The focusing parameter: the larger it is, the less a well-classified $sample counts. With 0, the loss is the
        cross-entropy. An array has one number for each class or $sample,
        $exponents.
    Returns
        array
            With `reduction="none"`, the loss of each $sample, in the shape of $shape.
            With another reduction, one number, 0-d; `Mean` and `Sum`
            with an `axis` give the shape without that axis. At least 0, unless this page says otherwise. The library
            and device are those of `$array`.
    Raises
        TypeError
            If an argument has the wrong type or dtype, or the arrays belong to different libraries.
        ValueError
            If a shape does not fit, an option is out of its range, or the arrays are on different devices.$checked
    """

    sample_weight: Any
    where: Any
    reduction: Annotated[Literal["none", "mean", "sum"] | Reduction, "mean"]
    dtype: Any


class RowOptions(LossOptions, total=False):
    """
    logits : array of floating-point numbers, at least 1-D
        The score of each class, along `axis`. -inf leaves a class out.
    target_logits : array of floating-point numbers
        The logits t of the target (the teacher), in the shape of `logits`. They get a gradient too.
    log_probs : array of floating-point numbers, at least 1-D
        The logarithm of the probability of each class, along `axis`; for example from `log_softmax`.
    probs : array of floating-point numbers
        The probabilities q of the target, in the shape of `log_probs`. They get a gradient too, which is -inf where q
        is 0 and p is not. A negative, infinite or NaN one is a ValueError on a CPU, outside of traced or compiled
        functions; elsewhere that loss is NaN.
    axis : int
        The class axis.
    """

    axis: Annotated[int, -1]


class LabelOptions(RowOptions, total=False):
    """
    target : array of integers or floating-point numbers
        Integers are labels, from 0 on, in the shape of `$array` without the class axis. Floating-point numbers are the
        probabilities of all classes, in the shape of `$array`.
    class_weight : array of shape (classes,), optional
        The weight :math:`w_c` of each class; without it, 1. A sample with label c has the weight w :math:`w_c`; a mean
        is divided by the sum of these.
    ignore_index : int, tuple of int, or None
        The label, or a tuple of labels, of samples that do not count. Only for labels.
    """

    class_weight: Any
    ignore_index: Annotated[int | tuple[int, ...] | None, -100]


class ClassOptions(LabelOptions, total=False):
    """
    label_smoothing : scalar in [0, 1]
        s: the target t becomes t' = (1 - s) t + s / C, with the number of classes C.
    alpha : array of shape (classes,) or scalar, in [0, 1], optional
        A factor of the loss of each class, or one for all. Unlike a weight, it does not change the divisor of a mean.
    """

    label_smoothing: Annotated[Scalar, 0.0]


class ElementOptions(LossOptions, total=False):
    """
    logits : array of floating-point numbers, any shape
        The score of each element.
    target : array of bool, integers or floating-point numbers
        The target of each element, in [0, 1], in the shape of `$array`.
    ignore_index : int or tuple of int, optional
        The target, or a tuple of targets, of elements that do not count.
    """

    ignore_index: int | tuple[int, ...] | None


class AnswerOptions(ElementOptions, total=False):
    """
    label_smoothing : scalar in [0, 1]
        s: a target y becomes (1 - s) y + s / 2.
    pos_weight : scalar or array, optional
        A factor of the loss of the answer 1. Its shape must broadcast to that of `$array`. Unlike a weight, it does
        not change the divisor of a mean.
    alpha : scalar or array, in [0, 1], optional
        A factor of the loss of the answer 1; for the answer 0 it is 1 - alpha. Without it, both are 1. Its shape must
        broadcast to that of `$array`: (classes,), say, with one number for each class of several labels.
    """

    label_smoothing: Annotated[Scalar, 0.0]
    pos_weight: Scalar | None


# -------------------------------------------------------------------------------------------------------------------
# Into signatures and docstrings


def expanded(function: Callable[..., Any]) -> inspect.Signature:
    """The signature of a function, with the keywords of its `**options: Unpack[...]` one by one."""
    signature = inspect.signature(function)
    options = options_of(function)
    if options is None:
        return signature
    *own, _ = signature.parameters.values()
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in _fields(options).items()
    ]
    return signature.replace(parameters=[*own, *shared])


def options_of(function: Callable[..., Any]) -> Any:
    """The class of a function's `**options: Unpack[...]`, or None."""
    if "Unpack[" not in str(list(function.__annotations__.values())):
        return None
    (options,) = get_args(get_type_hints(function)[inspect.getfullargspec(function).varkw or ""])
    return options


def _fields(options: Any) -> dict[str, tuple[Any, Any]]:
    """The type and the default of each option; those of the most derived class come first."""
    family, hints, plain = _family(options), get_type_hints(options, include_extras=True), get_type_hints(options)
    names = sorted(hints, key=lambda name: -min(i for i, one in enumerate(family) if name in one.__annotations__))
    defaults = {name: hint.__metadata__[0] for name, hint in hints.items() if hasattr(hint, "__metadata__")}
    return {name: (plain[name], defaults.get(name)) for name in names}


def documented(*tables: Any) -> Callable[[F], F]:
    """Complete the docstring of a function or class: every parameter described, in the order of the signature.

    What the docstring describes itself stays; the rest comes from `tables`, of which a later one takes precedence.
    Each is a class of this file, or text of your own: entries of numpydoc, in which `$array` is the first parameter;
    those called Returns and Raises are sections. Raises TypeError for a parameter that nothing describes, and for a
    described parameter that is not in the signature. Under ``python -OO``, without docstrings, it does nothing.
    """

    def complete(function: F) -> F:
        if function.__doc__ is None:
            return function
        table: Table = {}
        for one in tables:
            table |= _entries(one) if isinstance(one, str) else _described(one)
        head, *found = re.split(r"\n\n(\w+)\n-+\n", inspect.cleandoc(function.__doc__))
        sections = dict(zip(found[::2], found[1::2], strict=True))
        own = _entries(sections.pop("Parameters", ""))
        names = list(inspect.signature(function).parameters)
        wrong = [name for name in names if name not in own and name not in table]
        wrong += [name for name in own if name not in names] + [name for name in sections if name not in SECTIONS]
        if wrong:
            raise TypeError(f"the docstring of {function.__name__} does not fit its signature: {', '.join(wrong)}")
        shared = {name: Template(entry).substitute(array=names[0]) for name, entry in table.items()}
        sections["Parameters"] = "\n".join(own.get(name) or shared[name] for name in names)
        if not isinstance(function, type):
            for name in ("Returns", "Raises"):
                if name in shared:
                    sections.setdefault(name, dedent(shared[name].partition("\n")[2].rstrip()))
        text = [f"{name}\n{'-' * len(name)}\n{sections[name]}" for name in SECTIONS if name in sections]
        function.__doc__ = "\n\n".join([head, *text])
        return function

    return complete


_FAMILIES = ((LossOptions, RowOptions, LabelOptions, ClassOptions), (LossOptions, ElementOptions, AnswerOptions))
_CHECKED = """ Also if a target
        is out of its range, on a CPU and outside of traced or compiled functions; elsewhere that loss is NaN."""


def _family(options: Any) -> tuple[Any, ...]:
    """The bases of a class of options, then the class itself. (A TypedDict doesn't know its bases.)"""
    (family,) = (family for family in _FAMILIES if options in family[1:])
    return family[: family.index(options) + 1]


def _described(options: Any) -> Table:
    """The entries of a class of options, and of its bases."""
    family = _family(options)
    if ElementOptions in family:
        words = {
            "sample": "element",
            "shape": "`$array`",
            "exponents": "and its shape must broadcast to that of `$array`",
        }
    else:
        words = {"sample": "sample", "shape": "`$array` without the class axis"}
        words["exponents"] = "of shape (classes,), or of another that broadcasts to that of `$array`"
    text = "\n".join(dedent(one.__doc__ or "").strip() for one in family)
    return _entries(text, checked="" if options is RowOptions else _CHECKED, **words)


def _entries(text: str, **words: str) -> Table:
    """Split numpydoc text into entries, each called by its first word. A `$word` is replaced."""
    text = Template(text.strip()).safe_substitute(words)
    return {entry.split()[0]: entry.rstrip() for entry in re.split(r"\n(?=\S)", text) if entry}
