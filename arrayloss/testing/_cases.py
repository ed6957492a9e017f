"""One call and its exact results, as NumPy arrays, from which each library makes its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from arrayloss.testing._formats import Floats, rounded
from arrayloss.testing._measure import Due, Exact, Measurement, errors


@dataclass(frozen=True)
class Reduce:
    """A reduction given as an object: `kind` is its public name, `arguments` what it is made with."""

    kind: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(f'{k}={v!r}' for k, v in self.arguments.items())})"


@dataclass(frozen=True, eq=False)
class Case:
    """One call of a function.

    Attributes
    ----------
    function, family, name
        What it is a case of.
    dtype
        "float16", "bfloat16", "float32" or "float64": what the floating-point arrays are passed in.
    arrays
        The arrays by name, `logits` first, as float64 arrays of numbers that `dtype` can hold.
    options
        The other options by name.
    target_kind
        What the target is passed as: "index" (int64), "float" (`dtype`), "bool", or "none" where there's no target.
    cotangent
        What the gradients are pulled back from; None for 1.
    wrt
        The arrays to differentiate by.
    budget
        ULP allowed, in place of the table's.
    due
        What has to come back (`"value"`, `"d logits"`, ...), where that is known.
    """

    function: str
    family: str
    name: str
    dtype: str
    arrays: Mapping[str, Floats]
    options: Mapping[str, Any] = field(default_factory=dict)
    target_kind: str = "none"
    cotangent: Floats | None = None
    wrt: tuple[str, ...] = ("logits",)
    budget: float | None = None
    due: Mapping[str, Due] = field(default_factory=dict)

    @property
    def result_dtype(self) -> str:
        """The dtype of the value: that of the inputs, or the one asked for."""
        return str(self.options.get("dtype", self.dtype))

    @property
    def axis(self) -> int:
        """The class axis."""
        return int(self.options.get("axis", -1))

    @property
    def reduction(self) -> Any:
        """The reduction: the one asked for, or the default of the losses."""
        return self.options.get("reduction", "mean")

    @property
    def label(self) -> str:
        """Family, name and options in one line."""
        options = ", ".join(f"{k}={v}" for k, v in self.options.items())
        extras = ", ".join(k for k in self.arrays if k not in ("logits", "target"))
        return f"{self.family}/{self.name}({options}{'; ' if options and extras else ''}{extras})"

    def take(self, at: npt.NDArray[np.intp]) -> Case:
        """The case with some of its samples only (those along the first axis of the logits)."""
        arrays = {name: a[at] if name in PER_SAMPLE else a for name, a in self.arrays.items()}
        return replace(self, arrays=arrays, cotangent=None if self.cotangent is None else self.cotangent[at], due={})

    def samples(self) -> Iterator[Case]:
        """Each sample alone, differentiated by what belongs to the sample."""
        wrt = tuple(name for name in self.wrt if name in PER_SAMPLE)
        for i in range(len(self.arrays["logits"])):
            one = self.take(np.asarray([i]))
            yield replace(one, wrt=wrt, cotangent=None if one.cotangent is None else one.cotangent[0])


PER_SAMPLE = ("logits", "target", "sample_weight", "where")
"""Arrays that have the axes of the samples."""


def case(
    logits: npt.ArrayLike, target: npt.ArrayLike | None = None, /, *, dtype: str = "float32", **options: Any
) -> Case:
    """Make a case of one's own: the arrays (rounded to `dtype`), and the options, arrays among them or not.

    Parameters
    ----------
    logits
        Numbers, of any shape.
    target
        Integers, booleans or floats, passed on as such; None for a function without a target.
    dtype
        "float16", "bfloat16", "float32" or "float64".
    **options
        What the function is given by name. NumPy arrays become arrays of the library under test.

    Examples
    --------
    >>> case([[2.0, 0.5]], [0], label_smoothing=0.1).target_kind
    'index'
    """
    arrays = {"logits": rounded(logits, dtype)}
    kind = "none"
    if target is not None:
        given = np.asarray(target)
        kind = {"b": "bool", "f": "float"}.get(given.dtype.kind, "index")
        arrays["target"] = rounded(given, dtype) if kind == "float" else given.astype(np.float64)
    plain = {}
    for name, value in options.items():
        if isinstance(value, np.ndarray):
            arrays[name] = rounded(value, dtype)
        else:
            plain[name] = value
    return Case("", "", "", dtype, arrays, plain, kind)


@dataclass(frozen=True)
class Witness:
    """The number that a record is about: the input it came from, the exact number, and the number that came back.

    `ulp` is its error, and `after_k` the error without the allowance for conditioning; NaN where there is no error.
    """

    position: tuple[int, ...]
    inputs: dict[str, list[str]]
    exact: float
    got: float
    ulp: float
    after_k: float


def witness(case: Case, due: Due, quantity: str, at: int, got: Floats) -> Witness:
    """What there is to say of the number at a (flat) position of a quantity (`"value"`, `"d logits"`, ...)."""
    position = tuple(int(i) for i in np.unravel_index(at, got.shape)) if got.shape else ()
    # The derivative by a weight of a class is of all samples.
    sample = position if quantity.split()[-1] in ("value", *PER_SAMPLE) else ()
    inputs = {name: _near(case, name, values, sample, due.terms) for name, values in case.arrays.items()}
    exact = Exact(*(np.asarray(part.ravel()[at]) for part in (due.exact.high, due.exact.low, due.exact.scale)))
    ulp = float(errors(got.ravel()[at], exact, due.dtype))
    k = float(np.broadcast_to(due.allowance, got.shape).ravel()[at]) if due.allowance.size else 0.0
    return Witness(position, inputs, float(exact.high), float(got.ravel()[at]), ulp, max(ulp - k, 0.0))


def _near(case: Case, name: str, values: Floats, position: tuple[int, ...], terms: int) -> list[str]:
    """The part of an input that a number depends on, as far as that is one sample; at most 12 numbers of it."""
    logits = case.arrays["logits"]
    if position and values.ndim:
        if logits.ndim == 2 and name in PER_SAMPLE and case.axis == -1:
            values = values[position[0]] if len(values) == len(logits) else values
        elif logits.ndim == 1 and values.shape == logits.shape and len(position) == 1 and terms == 1:
            values = values[position[0]]
    return [float(v).hex() for v in np.ravel(values)[:12]]


def fault(found: Measurement, budget: float) -> str:
    """What is wrong with the numbers measured, in words; empty if nothing is."""
    said = [
        f"{found.over} over {budget:g} ULP" if found.over else "",
        f"{found.lost} lost" if found.lost else "",
        f"{found.spurious} NaN or inf for a finite number" if found.spurious else "",
        f"{found.missing} not NaN or inf as due" if found.missing else "",
    ]
    return f"{', '.join(filter(None, said))} of {found.count}" if any(said) else ""
