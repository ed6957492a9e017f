"""The docstrings of the public losses, functions and modules: what several of them share is written here, once.

A docstring in another file says what is special to its own function: the formula, the source, an example, an option
that no other has. `documented` adds the rest from the tables at the end of this file.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from string import Template
from textwrap import dedent
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
Table = dict[str, str]
SECTIONS = ("Parameters", "Returns", "Raises", "Notes", "References", "Examples")


def documented(family: str) -> Callable[[F], F]:
    """Complete the docstring of a function or class: every parameter described, in the order of the signature.

    What the docstring describes itself stays; the rest comes from the table of the family: "categorical", "paired" or
    "binary" for losses, "along axis" or "elementwise" for functions of one array. In place of a family's name, `family`
    may be a table of your own: numpydoc entries, in which `$array` is the first parameter; those called Returns and
    Raises are sections. Raises TypeError for a parameter that
    neither describes, and for a description of what is not there. Under ``python -OO``, without docstrings, it does
    nothing.
    """
    table = _TABLES[family] if family in _TABLES else _entries(family)

    def complete(function: F) -> F:
        if function.__doc__ is None:
            return function
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


def _entries(text: str, **words: str) -> Table:
    """Split numpydoc text into entries, each called by its first word. A `$word` is replaced."""
    text = Template(text.strip()).safe_substitute(words)
    return {entry.split()[0]: entry.rstrip() for entry in re.split(r"\n(?=\S)", text) if entry}


# numpydoc text, in which $array is the name of the function's first parameter.
_LOSS = """
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
gamma : scalar >= 0
    The focusing parameter: the larger it is, the less a well-classified $sample counts. With 0, the loss is the
    cross-entropy.
Returns
    array
        With `reduction="none"`, the loss of each $sample, in the shape of $shape.
        With another reduction, one number, 0-d. At least 0. The library and device are those of `$array`.
Raises
    TypeError
        If an argument has the wrong type or dtype, or the arrays belong to different libraries.
    ValueError
        If a shape does not fit, an option is out of its range, or the arrays are on different devices.$checked
"""
_CHECKED = """ Also if a target
        is out of its range, on a CPU and outside of traced or compiled functions; elsewhere that loss is NaN."""
_ROWS = """
logits : array of floating-point numbers, at least 1-D
    The score of each class, along `axis`. -inf leaves a class out.
target : array of integers or floating-point numbers
    Integers are labels, from 0 on, in the shape of `$array` without the class axis. Floating-point numbers are the
    probabilities of all classes, in the shape of `$array`.
axis : int
    The class axis.
class_weight : array of shape (classes,), optional
    The weight :math:`w_c` of each class; without it, 1. The weight of a sample, which a mean is divided by, is w times
    that of its label.
ignore_index : int or None
    The label of samples that do not count. Only for labels.
label_smoothing : scalar in [0, 1]
    s: the target t becomes t' = (1 - s) t + s / C, with the number of classes C.
alpha : array of shape (classes,), in [0, 1], optional
    A factor of the loss of each class. Unlike a weight, it does not change the divisor of a mean.
"""
_ELEMENTS = """
logits : array of floating-point numbers, any shape
    The score of each element.
target : array of bool, integers or floating-point numbers
    The target of each element, in [0, 1], in the shape of `$array`.
ignore_index : int, optional
    The target of elements that do not count.
label_smoothing : scalar in [0, 1]
    s: a target y becomes (1 - s) y + s / 2.
pos_weight : scalar or array, optional
    A factor of the loss of the answer 1. Its shape must broadcast to that of the logits. Unlike a weight, it does
    not change the divisor of a mean.
alpha : scalar in [0, 1], optional
    A factor of the loss of the answer 1; for the answer 0 it is 1 - alpha. Without it, both are 1.
"""
_MODULE = """
weight : tensor$shape, optional
    The weight of each $weighed, as a buffer.
size_average : bool, optional
    Deprecated in torch. Use `reduction`.
reduce : bool, optional
    Deprecated in torch. Use `reduction`.
"""
_ARRAY = """
x : array of floating-point numbers, $dimensions
    The input.
axis : int
    The axis to compute along.
where : array of bool, optional
    True for the elements that take part. Its shape must broadcast to that of `$array`.
Returns
    array
        The shape, dtype, library and device are those of `$array`. float16 and bfloat16 are computed in float32.
Raises
    TypeError
        If `$array` is not an array of real floating-point numbers.$checked
"""
_AXIS = """
    ValueError
        If `axis` is out of range, or the shape of `where` does not broadcast."""
_CATEGORICAL, _PAIRED = (
    _entries(_LOSS + _ROWS, sample="sample", shape="`$array` without the class axis", checked=checked)
    for checked in (_CHECKED, "")
)
_BINARY = _entries(_LOSS + _ELEMENTS, sample="element", shape="`$array`", checked=_CHECKED)
_TABLES = {
    "categorical": _CATEGORICAL,
    "paired": _PAIRED,
    "binary": _BINARY,
    "categorical module": _CATEGORICAL | _entries(_MODULE, shape=" of shape (classes,)", weighed="class"),
    "binary module": _BINARY | _entries(_MODULE, shape=" broadcastable to the input", weighed="element"),
    "along axis": _entries(_ARRAY, dimensions="at least 1-D", checked=_AXIS),
    "elementwise": _entries(_ARRAY, dimensions="any shape", checked=""),
}
