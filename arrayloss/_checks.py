"""What the arguments must be, said to whoever got them wrong."""

from __future__ import annotations

from typing import Any

from arrayloss._libraries import Library, library_of
from arrayloss._modes import Array, Namespace


def library(first: Array, name: str = "logits", /, **others: Array | None) -> Library:
    """The library that all of the arrays share; raises where they do not."""
    ours = _library(name, first)
    if not is_real(ours, first):
        raise TypeError(
            f"{name} must be an array of real floating-point numbers, not of {first.dtype}; "
            f"cast it first, for example to float32"
        )
    device = ours.device(first)
    for other, array in others.items():
        if array is None:
            continue
        shared(ours, name, other, array)
        at = ours.device(array)
        if at is not None and device is not None and at != device:
            raise ValueError(f"{name} is on device {device} and {other} on {at}; move them to one device")
    return ours


def shared(ours: Library, name: str, other: str, array: Array) -> None:
    """`array` is one of our library's, as that of `name` is."""
    if not ours.owns(array):
        raise TypeError(
            f"{name} is an array of {ours.name} and {other} one of {_library(other, array).name}; "
            f"pass arrays of one library"
        )


def real_dtype(library: Library, dtype: Any) -> None:
    """A floating-point dtype, as the library itself writes it."""
    try:
        real = library.isdtype(dtype, "real floating")
    except (AttributeError, TypeError):
        real = False
    if not real:
        raise TypeError(
            f"dtype must be one of {library.name}'s own real floating-point dtypes, such as its float32, not {dtype!r}"
        )


def is_real(library: Library, x: Array) -> bool:
    """Whether `x` is of real floating-point numbers."""
    try:
        return library.isdtype(x.dtype, "real floating")
    except TypeError:
        # NumPy's isdtype refuses the dtypes of ml_dtypes (bfloat16), which NumPy's own functions don't know either.
        return False


def _library(name: str, x: Any) -> Library:
    library = library_of(x)
    if library is None:
        raise TypeError(
            f"{name} must be an array (of NumPy, PyTorch, JAX, CuPy, or any other library of the array API "
            f"standard), not {_said(x)}"
        )
    return library


def _said(x: Any) -> str:
    """What was given in place of something else."""
    return "None" if x is None else f"{x!r}" if isinstance(x, (bool, int, float, str)) else f"a {type(x).__name__}"


def class_axis(axis: int, ndim: int) -> int:
    """`axis` counted from the front."""
    if isinstance(axis, bool) or not isinstance(axis, int):
        raise TypeError(f"axis must be an int, not {_said(axis)}")
    if ndim == 0:
        raise ValueError("there must be at least one dimension, the class axis; this array is 0-dimensional")
    if not -ndim <= axis < ndim:
        raise ValueError(
            f"axis {axis} is out of range: the array has {ndim} dimension{'s'[: ndim > 1]}, so axis must be from "
            f"{-ndim} to {ndim - 1}"
        )
    return axis % ndim


def fraction(name: str, value: float) -> float:
    """A number in [0, 1]."""
    number = real(name, value)
    if not 0 <= number <= 1:
        raise ValueError(f"{name} must be between 0 and 1, not {value!r}")
    return number


def real(name: str, value: float) -> float:
    """A Python number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a Python number, not {_said(value)}")
    return value


def at_least(name: str, least: float, value: float) -> float:
    """A finite number from `least` up."""
    number = real(name, value)
    if not least <= number < float("inf"):
        raise ValueError(f"{name} must be a finite number of at least {least}, not {value!r}")
    return number


def focusing(gamma: float, name: str = "gamma") -> float:
    """An exponent >= 0; a whole one as an int, since x ** 2 is a product where x ** 2.0 may be a pow."""
    number = at_least(name, 0, gamma)
    return int(number) if number == int(number) else number


def same_shape(
    name: str,
    shape: tuple[int, ...],
    expected: tuple[int, ...],
    logits: tuple[int, ...],
    why: str,
    first: str = "the logits have",
) -> None:
    if tuple(shape) != tuple(expected):
        raise ValueError(
            f"{name} has shape {tuple(shape)} and {first} shape {tuple(logits)}: {why}, so {name} must have shape "
            f"{tuple(expected)}; nothing is broadcast here"
        )


def broadcastable(name: str, shape: tuple[int, ...], to: tuple[int, ...]) -> None:
    padded = (1,) * (len(to) - len(shape)) + tuple(shape)
    if len(shape) > len(to) or any(n not in (1, m) for n, m in zip(padded, to, strict=True)):
        raise ValueError(
            f"{name} has shape {tuple(shape)}, which does not broadcast to {tuple(to)}, the shape of what it applies to"
        )


def mask(xp: Namespace, where: Array, to: tuple[int, ...]) -> None:
    """An array of bool that broadcasts."""
    if not xp.isdtype(where.dtype, "bool"):
        raise TypeError(f"where must be an array of bool, not of {where.dtype}")
    broadcastable("where", where.shape, to)


def given(name: str, x: Any) -> Any:
    """`x`, which may not be left out."""
    if x is None:
        raise TypeError(f"{name} must be an array, not None")
    return x


def within(name: str, library: Library, x: Array) -> None:
    """Every element in [0, 1]; `x` can be looked at."""
    xp = library.xp
    wrong = (x < 0) | (x > 1)
    if bool(xp.any(wrong)):
        worst = float(xp.reshape(x, (-1,))[int(xp.argmax(xp.astype(xp.reshape(wrong, (-1,)), xp.int8)))])
        raise ValueError(f"{name} must be between 0 and 1, not {worst:g}")


def ignored(ignore_index: Any) -> None:
    """A label, or None."""
    if ignore_index is not None and not hasattr(ignore_index, "__index__"):
        raise TypeError(f"ignore_index must be an int, or None where no label is ignored, not {_said(ignore_index)}")
