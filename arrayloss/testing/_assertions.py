"""Assertions for a test of one's own: two functions agree; a function agrees with one of `arrayloss`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from arrayloss.testing._backends import Backend, Implementation, Loss, as_numpy, backend
from arrayloss.testing._candidate import candidate, judged_as, take_library
from arrayloss.testing._cases import Case, Witness, case, fault, witness
from arrayloss.testing._formats import FORMATS, Floats
from arrayloss.testing._measure import Due, Exact, errors, measure
from arrayloss.testing._vectors import vectors

MOST = 5
"""How many failing cases a message shows."""


def ulp_distance(got: Any, exact: Any, dtype: str | None = None) -> Floats:
    """How far numbers are from exact ones, in units in the last place of the exact one.

    Parameters
    ----------
    got
        An array of any library, or a number.
    exact
        What it should be, of the same shape: an array of any library, taken as float64, or an `Exact`.
    dtype
        The format whose ULP is the unit: "float16", "bfloat16", "float32" or "float64"; that of `got` if None.

    Returns
    -------
    array
        A NumPy array of float64: 0 where both are the same infinity or NaN, inf where only one of them is.

    Raises
    ------
    ValueError
        If the shapes differ, or `got` is of no floating-point format and `dtype` isn't given.

    Examples
    --------
    >>> import numpy as np
    >>> round(float(ulp_distance(np.float32(0.1), 0.1)), 3)
    0.2
    >>> ulp_distance(np.asarray([1.0, np.inf], dtype=np.float32), [1 + 2.0**-22, 5.0])
    array([ 2., inf])
    """
    if dtype is None:
        dtype = str(getattr(got, "dtype", "float64")).split(".")[-1]
        if dtype not in FORMATS:
            raise ValueError(f"an array of {dtype} has no ULP: give dtype, one of {', '.join(FORMATS)}")
    numbers = as_numpy(got)
    if not isinstance(exact, Exact):
        high = as_numpy(exact)
        exact = Exact(high, np.zeros_like(high), np.abs(high))
    if numbers.shape != exact.high.shape:
        raise ValueError(f"numbers of shape {numbers.shape} against exact ones of shape {exact.high.shape}")
    same = (numbers == exact.high) & (exact.low == 0) | (np.isnan(numbers) & np.isnan(exact.high))
    distance = np.where(np.isfinite(numbers) & np.isfinite(exact.high), errors(numbers, exact, dtype), np.inf)
    return np.where(same, 0.0, distance)


def assert_conforms(
    f: Loss,
    as_: str | None = None,
    *,
    library: str | Backend | None = None,
    value_and_grad: Loss | None = None,
    gradient: bool = True,
    budget: float | None = None,
    dtypes: Sequence[str] = (),
    families: Sequence[str] = (),
) -> list[str]:
    """Assert that a function gives the numbers, and the gradients, of a function of `arrayloss` to a few ULP.

    It is judged by the golden vectors: inputs of every kind that loses digits, with exact results. The gradients are
    computed by the library's own autodiff.

    Parameters
    ----------
    f
        Called as `f(logits, target, **options)`, or `f(logits, **options)` if it is judged as a function that has no
        target; a class, of torch's modules say, as `f(**options)(logits, target)`. The options are those of the
        function that it is judged as, as far as its signature has them (for a module: that of `forward`); a case that
        needs another is not covered. An option whose default differs from that function's is always given. A function
        that takes one-hot targets and no labels is given these.
    as_
        The name of the function that it is judged as; its own if None.
    library
        The library whose arrays it takes, by name or as from the fixture `array_library`; None to find out by trying.
    value_and_grad
        For a library that has no autodiff: called as `f` is, gives the value and the gradient by the logits (of
        `sum(cotangent * value)`, if it takes a `cotangent`).
    gradient
        If False, only the values are judged.
    budget
        The error in ULP that each number may have, in place of the contract's budget. The allowance for conditioning
        is still added to it (see `Due.allowance`).
    dtypes, families
        The dtypes and families of the vectors to use. If empty, all of them.

    Returns
    -------
    list of str
        The cases that were not covered, each with the reason.

    Raises
    ------
    AssertionError
        With the number that is farthest off in each of the worst cases: its input, the exact result, what came back,
        and the error in ULP. Also if there was no case that it could be called with. If the function raised an
        exception, that is the cause.
    ValueError
        If there's no such function or library, or nothing to differentiate with; if it takes no library's arrays (what
        it raised is the cause), or takes the target first.

    Examples
    --------
    >>> import numpy as np
    >>> def sigmoid(x):
    ...     return np.asarray(1 / (1 + np.exp(-x.astype("float64"))), dtype=x.dtype)
    >>> assert_conforms(sigmoid, gradient=False, dtypes=["float32"])
    []
    """
    name = judged_as(f, as_)
    one = backend(library) if isinstance(library, str) else library
    judged = candidate(f, name, () if one is None else (one,), value_and_grad=value_and_grad, gradient=gradient)
    one = one or backend((judged.backends or ())[0])
    if gradient and value_and_grad is None and not one.differentiates:
        raise ValueError(f"{one.name} has no autodiff: give value_and_grad, or gradient=False to judge values alone")
    uncovered: list[str] = []
    failed: list[_Failure] = []
    asked = 0
    for given in vectors(name, dtypes=dtypes, families=families):
        if given.dtype not in one.dtypes or given.result_dtype not in one.dtypes:
            continue
        if reason := judged.not_covered(given):
            uncovered.append(f"{given.label}, {given.dtype}: {reason}")
            continue
        asked += 1
        failed += _failures(judged, given if gradient else replace(given, wrt=()), one, budget)
    if not asked:
        said = "; ".join(uncovered[:MOST]) or f"there are none of {', '.join((*dtypes, *families))}"
        raise AssertionError(f"{judged.name} was judged by no case of {name} on {one.name}: {said}")
    if failed:
        cases = len({(failure.case.label, failure.case.dtype) for failure in failed})
        head = f"{judged.name} is no {name} on {one.name}: {cases} of {asked} cases fail, {len(uncovered)} not covered"
        worst = sorted(failed, key=lambda failure: failure.gravity, reverse=True)
        raised = next((failure.raised for failure in worst if failure.raised), None)
        raise AssertionError("\n".join([head, *(failure.text for failure in worst[:MOST])])) from raised
    return uncovered


@dataclass(frozen=True)
class _Failure:
    case: Case
    gravity: float
    text: str
    raised: Exception | None = None


def _failures(judged: Implementation, given: Case, one: Backend, budget: float | None) -> Iterator[_Failure]:
    """What is wrong with what comes back for a case."""
    heading = f"- {given.label}, {given.dtype}"
    try:
        numbers = one.evaluate(judged, given, "eager")
    except Exception as error:  # whatever it raises is a finding
        yield _Failure(given, np.inf, f"{heading}: raised {type(error).__name__}: {error}", error)
        return
    for quantity, got in numbers.items():
        due = given.due[quantity.removeprefix("closed ").removeprefix("auto ")]
        allowed = due.budget if budget is None else budget
        try:
            found = measure(got, due.exact, due.dtype, allowed, due.allowance, due.terms, due.magnified, due.flushable)
        except ValueError as error:
            yield _Failure(given, np.inf, f"{heading}: {quantity}: {error}")
            continue
        if wrong := fault(found, allowed):
            grave = np.inf if found.spurious or found.missing else found.worst
            seen = _told(given, due, quantity, found.worst_at, got)
            yield _Failure(given, grave, f"{heading}: {quantity}: {wrong}\n{seen}")


def _told(given: Case, due: Due, quantity: str, at: int, got: Floats) -> str:
    """The number at a position, with what it came from."""
    seen = witness(given, due, quantity, at, got)
    # The distance to a NaN is NaN: inf is shown.
    ulp = np.inf if np.isnan(seen.ulp) else seen.ulp
    return f"    {_where(seen)}\n    exact {_number(seen.exact)}, got {_number(seen.got)}: {ulp:.4g} ULP"


def _where(seen: Witness) -> str:
    inputs = ", ".join(f"{name} = {_list(numbers)}" for name, numbers in seen.inputs.items())
    return f"at {', '.join(map(str, seen.position))}: {inputs}" if seen.position else f"of {inputs}"


def _list(numbers: Sequence[str]) -> str:
    found = [f"{float.fromhex(number)!r}" for number in numbers]
    return found[0] if len(found) == 1 else f"[{', '.join(found)}]"


def _number(value: float) -> str:
    return f"{value:.9g} ({value.hex()})" if np.isfinite(value) else str(value)


# ---------------------------------------------------------------- two functions


def assert_same(
    f: Loss,
    g: Loss,
    cases: Iterable[Case | Sequence[Any]],
    *,
    ulp: float = 4.0,
    dtype: str = "float32",
    gradient: bool = True,
    libraries: tuple[str | Backend | None, str | Backend | None] = (None, None),
) -> None:
    """Assert that two functions, of one library or of two, have the same values and gradients to a few ULP.

    Parameters
    ----------
    f, g
        The two functions, called as `f(logits, target, **options)` with the arguments of each case.
    cases
        What to call them with: `Case`s, as `case(logits, target, **options)` and `vectors(...)` give them, or tuples
        of logits and target (arrays of NumPy, or lists).
    ulp
        The largest difference that is allowed between two numbers, in units in the last place of the larger one.
    dtype
        The dtype of the floating-point arrays in tuples. They are rounded to it.
    gradient
        Whether the gradients with respect to the logits are compared too. Each is computed by the autodiff of its own
        library.
    libraries
        The names of the libraries whose arrays `f` and `g` take. With None, the function finds out by trying.

    Raises
    ------
    AssertionError
        If they differ. The message has the numbers that differ most, with their positions and inputs.
    ValueError
        If there are no cases, if a function takes the arrays of no library, or if a library has no autodiff.

    Examples
    --------
    >>> import numpy as np
    >>> def plain(x):
    ...     return np.log(1 / (1 + np.exp(-x)))
    >>> def stable(x):
    ...     return -np.logaddexp(x.dtype.type(0), -x)
    >>> assert_same(plain, stable, [([-1.0, 0.5],)], gradient=False)
    >>> assert_same(plain, stable, [([-1.0, 15.5],)], gradient=False)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    AssertionError: plain and stable differ in 1 of 1 cases
    - case 0, value: ... ULP at 1: logits = [-1.0, 15.5]
        plain on numpy ..., stable on numpy -1.8553...e-07 (...)
    """
    given = [one if isinstance(one, Case) else case(*one, dtype=dtype) for one in cases]
    if not given:
        raise ValueError("no cases to compare by")
    asked = [replace(one, function="", wrt=("logits",) if gradient else ()) for one in given]
    sides = [_side(h, asked[0], library, gradient) for h, library in zip((f, g), libraries, strict=True)]
    apart: list[tuple[float, str]] = []
    for i, one in enumerate(asked):
        first, second = (side.library.evaluate(side.judged, one, "eager") for side in sides)
        far, text = max((_apart(one, name, first[name], second[name], sides) for name in first), key=lambda p: p[0])
        if far > ulp:
            apart.append((far, f"- case {i}{f', {given[i].label}' if given[i].function else ''}, {text}"))
    if apart:
        names = " and ".join(side.judged.name for side in sides)
        worst = sorted(apart, key=lambda pair: -pair[0])[:MOST]
        said = [text for _, text in worst]
        raise AssertionError("\n".join([f"{names} differ in {len(apart)} of {len(given)} cases", *said]))


@dataclass(frozen=True)
class _Side:
    """One of two functions, and the library that it takes."""

    judged: Implementation
    library: Backend


def _side(f: Loss, first: Case, library: str | Backend | None, gradient: bool) -> _Side:
    among = () if library is None else (backend(library) if isinstance(library, str) else library,)
    found, _ = take_library(f, {first.target_kind: first}, among, gradient)
    if gradient and not found.differentiates:
        raise ValueError(f"{found.name} has no autodiff: give gradient=False to compare values alone")
    return _Side(Implementation(getattr(f, "__name__", str(f)), {"": f}), found)


def _apart(one: Case, quantity: str, a: Floats, b: Floats, sides: Sequence[_Side]) -> tuple[float, str]:
    """How far two results are apart, in ULP of the larger number, and what there is to say of the farthest."""
    name = quantity.removeprefix("auto ")
    if a.shape != b.shape:
        return np.inf, f"{name}: shapes {a.shape} and {b.shape}"
    if not a.size:
        return 0.0, ""
    dtype = one.result_dtype if name == "value" else one.dtype
    larger = np.where(np.abs(b) > np.abs(a), b, a)
    distance = ulp_distance(b, Exact(a, np.zeros_like(a), np.abs(larger)), dtype)
    at = int(np.argmax(distance))
    # Of many elements, only the input of the worst one is shown; few are shown whole.
    terms = 1 if a.shape == one.arrays["logits"].shape and a.size > 12 else 2
    seen = witness(one, Due(Exact(a, a, a), dtype, 0.0, np.zeros(()), terms), name, at, b)
    said = [
        f"{side.judged.name} on {side.library.name} {_number(number)}"
        for side, number in zip(sides, (seen.exact, seen.got), strict=True)
    ]
    return float(distance.flat[at]), f"{name}: {float(distance.flat[at]):.4g} ULP {_where(seen)}\n    {', '.join(said)}"
