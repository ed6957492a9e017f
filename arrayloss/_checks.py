"""What the arguments must be: checks, and the messages of their errors."""

from __future__ import annotations

import numbers
import operator
from typing import Any

from arrayloss._backends import Backend, backend_of
from arrayloss._kernels.ops import Array, Namespace


def backend(first: Array, name: str = "logits", /, **others: Array | None) -> Backend:
    """The backend of all of the arrays; raises if they do not have the same one."""
    ours = _backend(name, first)
    if ours.kind(first.dtype) != "real floating":
        raise TypeError(
            f"{name} must be an array of real floating-point numbers ({SERVED}), not of "
            f"{_name(first.dtype)}; cast it first, for example to float32"
            + ("; if it is the target, pass it second" if "target" in others else "")
        )
    _served(ours, name, first)
    device = ours.device(first)
    for other, array in others.items():
        if array is not None:
            shared(ours, name, other, array)
            at = ours.device(array)
            if at is not None and device is not None and at != device:
                raise ValueError(f"{name} is on device {device} and {other} on {at}; move them to one device")
    return ours


def integers(name: str, x: Array) -> Backend:
    """The backend of an array of integers."""
    ours = _backend(name, x)
    if ours.kind(x.dtype) != "integral":
        raise TypeError(f"{name} must be an array of integers, not of {_name(x.dtype)}")
    _served(ours, name, x)
    return ours


def _served(backend: Backend, name: str, x: Array) -> None:
    """An array that can be computed with: not a masked array, for example (`Backend.refusal`)."""
    refusal = backend.refusal(x)
    if refusal is not None:
        raise type(refusal)(f"{name} is {refusal}")


def shared(ours: Backend, name: str, other: str, array: Array) -> None:
    """`array`, called `other`, is of the same library as the array called `name`, and of real numbers."""
    if not ours.owns(array):
        raise TypeError(
            f"{name} is an array of {ours.name}, and {other} is one of {_backend(other, array).name}; "
            f"pass arrays of one library"
        )
    if ours.kind(array.dtype) is None:
        raise TypeError(
            f"{other} must be an array of real numbers (bool, integers, {SERVED}), not of {_name(array.dtype)}"
        )
    _served(ours, other, array)


def real_dtype(backend: Backend, dtype: Any) -> None:
    """A floating-point dtype, as an object of the library itself."""
    try:
        real = backend.kind(dtype) == "real floating"
    except (AttributeError, TypeError):
        real = False
    if not real:
        raise TypeError(
            f"dtype must be one of {backend.name}'s own real floating-point dtypes ({SERVED}), not {dtype!r}"
        )


SERVED = "float16, bfloat16, float32, float64, where the library itself has them"


def _name(dtype: Any) -> str:
    """The name of a dtype; "longdouble" first for NumPy's, whose name depends on the machine."""
    return f"longdouble ({dtype})" if str(dtype).startswith(("float96", "float128")) else str(dtype)


def _backend(name: str, x: Any) -> Backend:
    backend = backend_of(x)
    if backend is None:
        raise TypeError(
            f"{name} must be an array (of NumPy, PyTorch, JAX, CuPy, or any other library of the array API "
            f"standard), not {_said(x)}{_how_to_convert(x)}"
        )
    return backend


def _how_to_convert(x: Any) -> str:
    """How to make an array of it, for a message: of a list, a tensor without the array API, or scikit-learn's words."""
    if isinstance(x, (list, tuple)) or hasattr(x, "__array__"):
        return "; make an array of it, for example by asarray"
    if isinstance(x, dict):
        return "; make an array of its values, in the order of the classes"
    if isinstance(x, str) and x == "balanced":
        return "; balanced_class_weight(labels, classes) makes such an array"
    return ""


def _said(x: Any) -> str:
    """A wrong argument, for a message: its value if that is short, or else its type."""
    if x is None or isinstance(x, (bool, int, float, str)):
        return repr(x)
    library = type(x).__module__.partition(".")[0]
    return f"a {type(x).__name__}" if library == "builtins" else f"a {type(x).__name__} of {library}"


def class_axis(axis: Any, ndim: int) -> int:
    """`axis` counted from the front."""
    if type(axis) is not int:
        axis = integer("axis", axis)
    if ndim == 0:
        raise ValueError("there must be at least one dimension, the class axis; this array is 0-dimensional")
    if not -ndim <= axis < ndim:
        raise ValueError(
            f"axis {axis} is out of range: the array has {ndim} dimension{'s'[: ndim > 1]}, so axis must be from "
            f"{-ndim} to {ndim - 1}"
        )
    return int(axis % ndim)


def axes(axis: Any, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The axes of a reduction, counted from the front, ascending; None if they are all axes of `shape`."""
    if axis is None:
        return None
    given = [integer("axis", one) for one in (axis if isinstance(axis, tuple) else (axis,))]
    found = sorted({one % len(shape) for one in given if -len(shape) <= one < len(shape)})
    if not found or len(found) != len(given):
        raise ValueError(f"axis {axis} of a reduction is out of range or named twice: the losses have shape {shape}")
    return None if len(found) == len(shape) else tuple(found)


def scalar(value: Any) -> Any:
    """A real scalar of any type as a Python number; anything else, also a traced scalar, unchanged."""
    if isinstance(value, (bool, int)) or value is None or type(value) is float:
        return value
    if isinstance(value, numbers.Real):
        return value.__index__() if isinstance(value, numbers.Integral) else float(value)
    if getattr(value, "shape", None) == ():
        backend = backend_of(value)
        if backend is not None and not is_complex(value) and backend.is_constant(value):
            return value.item() if hasattr(value, "item") else float(value)
    return value


def fraction(name: str, value: Any) -> Any:
    """A number in [0, 1]."""
    number = real(name, value)
    if isinstance(number, (int, float)) and not 0 <= number <= 1:
        raise ValueError(f"{name} must be between 0 and 1, not {value!r}")
    return number


def real(name: str, value: Any) -> Any:
    """A real number; a traced 0-d array stays one, and its value is not read."""
    if type(value) is float:
        return value
    number = scalar(value)
    if traced(number) and not is_complex(number):
        return number
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise TypeError(f"{name} must be a real number, not {_said(value)}")
    return number


def traced(value: Any) -> bool:
    """Whether a scalar option is an array, not a number."""
    return not isinstance(value, (int, float)) and getattr(value, "shape", None) == () and hasattr(value, "dtype")


def is_complex(value: Array) -> bool:
    """Whether an array is of complex numbers."""
    return "complex" in str(value.dtype)


def at_least(name: str, least: float, value: Any) -> Any:
    """A finite number from `least` up."""
    number = real(name, value)
    if not traced(number) and not least <= number < float("inf"):
        raise ValueError(f"{name} must be a finite number of at least {least}, not {value!r}")
    return number


def above_zero(name: str, value: Any) -> Any:
    """A finite number above 0."""
    number = real(name, value)
    if not traced(number) and not 0 < number < float("inf"):
        raise ValueError(f"{name} must be a finite number above 0, not {value!r}")
    return number


def focusing(gamma: Any, name: str = "gamma") -> Any:
    """An exponent >= 0; a whole one as an int, since x ** 2 is a product where x ** 2.0 may be a pow."""
    number = at_least(name, 0, gamma)
    return number if traced(number) or number != int(number) else int(number)


def integer(name: str, value: Any, hint: str = "") -> int:
    """An int, of Python or another library."""
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise TypeError(f"{name} must be an int{hint}, not {_said(value)}")


def ignored(value: Any) -> tuple[int, ...]:
    """The labels of samples that don't count; empty for None."""
    if value is None or type(value) is int:
        return () if value is None else (value,)
    hint = ", a tuple of these, or None where no label is ignored"
    return tuple(integer("ignore_index", one, hint) for one in (value if isinstance(value, tuple) else (value,)))


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
    if len(shape) > len(to) or any(n != 1 and n != m for n, m in zip(padded, to, strict=True)):
        raise ValueError(
            f"{name} has shape {tuple(shape)}, which does not broadcast to {tuple(to)}, the shape of what it applies to"
        )


def mask(xp: Namespace, where: Array, to: tuple[int, ...]) -> None:
    """An array of bool that broadcasts."""
    if not xp.isdtype(where.dtype, "bool"):
        raise TypeError(f"where must be an array of bool, not of {where.dtype}; for a mask of 0 and 1, pass mask != 0")
    broadcastable("where", where.shape, to)


def part(name: str, x: Any, base: type[Any]) -> None:
    """A part of a loss: an object of a subclass of `base` that compilers can cache by its hash."""
    if not isinstance(x, base):
        raise TypeError(f"the {name} of a loss must be an object of a subclass of {base.__name__}, not {_said(x)}")
    if type(x).__hash__ is None:
        raise TypeError(f"{type(x).__name__} has no hash: make it a frozen dataclass")


def given(name: str, x: Any) -> Any:
    """`x`, which may not be left out."""
    if x is None:
        raise TypeError(f"{name} must be an array, not None")
    return x


def within(name: str, backend: Backend, x: Array) -> None:
    """Every element in [0, 1]; `x` may be inspected."""
    refuse(backend, (x < 0) | (x > 1), x, name, f"{name} must be between 0 and 1")


def not_negative(name: str, backend: Backend, x: Array) -> None:
    """Every element a finite number of at least 0; `x` may be inspected."""
    wrong = ~(x >= 0) | (x == float("inf"))
    refuse(backend, wrong, x, name, f"{name} must hold finite numbers of at least 0")


def per_class(shape: tuple[int, ...], axis: int | None, **options: Array | None) -> None:
    """Arrays with one number for each class."""
    for name, values in options.items():
        if values is not None:
            same_shape(name, values.shape, (shape[axis or 0],), shape, "there is one number for each class")


def layer(backend: Backend, hidden: tuple[int, ...], axis: int, weight: Array, bias: Array | None) -> None:
    """The weight (classes, features) and the bias (classes,) of a linear layer."""
    for name, x in (("weight", weight), ("bias", bias)):
        if x is not None and backend.kind(x.dtype) != "real floating":
            raise TypeError(f"{name} must be an array of floating-point numbers, not of {x.dtype}")
    features = hidden[axis]
    if weight.ndim != 2 or weight.shape[1] != features or weight.shape[0] == 0:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)} and hidden {tuple(hidden)}: the logits are hidden @ weight.T, so "
            f"weight must have shape (classes, {features}), with one class at least"
        )
    if bias is not None and tuple(bias.shape) != tuple(weight.shape[:1]):
        raise ValueError(
            f"bias has shape {tuple(bias.shape)}, and must have {tuple(weight.shape[:1])}, one for each class"
        )


def class_target(
    backend: Backend, target: Array, shape: tuple[int, ...], labels: tuple[int, ...], axis: int, ignore_index: Any
) -> bool:
    """Whether a target is labels, not probabilities, for logits of `shape` and samples of the shape of `labels`."""
    if backend.kind(target.dtype) == "integral":
        given = tuple(target.shape)
        if given != labels:
            others = [i for i in range(len(shape)) if (*shape[:i], *shape[i + 1 :]) == given]
            hint = "nothing is broadcast here"
            if given == tuple(shape):
                hint = "one-hot targets must be floats, so cast them, as by target.astype(float)"
            elif others:
                hint = f"if the classes are on axis {others[0]}, pass axis={others[0]}"
            raise ValueError(
                f"target has shape {given} and the logits have shape {tuple(shape)}: integers are labels, without the "
                f"class axis (axis {axis}), so target must have shape {labels}; {hint}"
            )
        return True
    if backend.kind(target.dtype) != "real floating":
        raise TypeError(f"target must be integer labels or floating-point probabilities, not {target.dtype}")
    if target.ndim == len(labels) and tuple(target.shape) == labels:
        raise ValueError(
            f"target has shape {labels}, that of labels, but is of {target.dtype}: labels must be integers, so cast "
            f"them, as by target.astype(int) or target.long(); probabilities have shape {tuple(shape)}, one number for "
            f"each logit"
        )
    same_shape("target", target.shape, shape, shape, "probabilities have one number for each logit")
    if ignore_index not in (None, -100):
        raise ValueError(
            f"ignore_index={ignore_index} is for integer labels and has no effect on probabilities: leave samples out "
            f"with where= or sample_weight="
        )
    return False


def holds(backend: Backend, given: Any, dtype: Any, value: int) -> bool:
    """Whether an integer can be in an array of dtype `given`, and be compared with one of `dtype`."""
    for one in (given, dtype):
        least, most = backend.integer_range(one)
        if not least <= value <= most:
            return False
    return True


def refuse(backend: Backend, wrong: Array, values: Array, what: str, allowed: str) -> None:
    """Raise for the first element that is wrong, if there is one."""
    xp = backend.xp
    if not bool(xp.any(wrong)):
        return
    # Not nonzero: a namespace may have no shapes that depend on data.
    first = int(xp.argmax(xp.astype(xp.reshape(wrong, (-1,)), xp.int8)))
    value = xp.reshape(values, (-1,))[first]
    number = f"{float(value):g}" if backend.kind(value.dtype) == "real floating" else f"{backend.integer(value)}"
    position: list[int] = []
    for n in reversed(wrong.shape):
        first, i = divmod(first, n)
        position.insert(0, i)
    at = f" at position {tuple(position)}" if position else ""
    raise ValueError(f"{what} {number}{at} is out of range: {allowed}")
