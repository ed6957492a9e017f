"""The arrays and the functions of the stand-in."""

import inspect
import json
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

_REAL = json.loads((Path(__file__).parent / "real.json").read_text())
_NAMES, _METHODS = _REAL["names"], set(_REAL["methods"])


# ---------------------------------------------------------------------------------------------------------------
# Devices, and what waits for them


class _Device:
    """One of two devices; within it, it is the current one."""

    current: ClassVar[list[int]] = [0]
    compute_capability = "00"

    def __init__(self, device: Any = None) -> None:
        self.id: int = self.current[-1] if device is None else getattr(device, "id", device)

    def __enter__(self) -> "_Device":
        self.current.append(self.id)
        return self

    def __exit__(self, *raised: object) -> None:
        self.current.pop()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Device) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"

    def synchronize(self) -> None:
        _waits("synchronize")


def _waits(what: str) -> None:
    """A read of the device: not for the package, whose tools for tests are no part of a call."""
    frame = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("arrayloss.") and not module.startswith("arrayloss.testing"):
            raise RuntimeError(f"{what}: {module}, line {frame.f_lineno}, waits for the device")
        frame = frame.f_back


def _numbers(x: Any) -> Any:
    """The NumPy array of an argument, or the argument as it is, where CuPy takes it."""
    if isinstance(x, ndarray):
        if x._device != _Device.current[-1]:
            raise RuntimeError(f"an array on device {x._device} is used while {_Device.current[-1]} is current")
        return x._numbers
    if isinstance(x, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    return type(x)(map(_numbers, x)) if type(x) in (tuple, list) else x


def _made(x: Any) -> Any:
    """A result: arrays, never NumPy's scalars."""
    if isinstance(x, np.ndarray | np.generic):
        made = object.__new__(ndarray)
        made._numbers, made._device = np.asarray(x), _Device.current[-1]
        return made
    return type(x)(map(_made, x)) if type(x) in (tuple, list) else x


# ---------------------------------------------------------------------------------------------------------------
# Arrays


def _refused(what: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(what)

    return method


def _reading(name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any) -> Any:
        _waits(name)
        return getattr(self._numbers, name)(*args)

    return method


def _computed(name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        with np.errstate(all="ignore"):
            result = getattr(_numbers(self), name)(*map(_numbers, args), **{k: _numbers(v) for k, v in kwargs.items()})
        if result is NotImplemented:
            return result
        return self if result is self._numbers else _made(result)

    return method


def _attribute(name: str) -> property:
    return property(lambda self: getattr(self._numbers, name))


class ndarray:
    __slots__ = ("_device", "_numbers")
    __hash__ = None  # type: ignore[assignment]
    __array__ = _refused("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")
    __array_ufunc__ = _refused("a ufunc of NumPy's on an array of CuPy's")
    __array_function__ = _refused("a function of NumPy's on an array of CuPy's")

    @property
    def device(self) -> _Device:
        return _Device(self._device)

    def get(self) -> Any:
        _waits("get")
        return self._numbers.copy()

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"standin({self._numbers!r})"

    def _index(self, key: Any) -> tuple[Any, ...]:
        """The key for NumPy: integers wrap, and a mask must be read for its size."""
        keys = key if isinstance(key, tuple) else (key,)
        axes = [0 if k is None or k is Ellipsis else getattr(k, "ndim", 1) if _is_mask(k) else 1 for k in keys]
        if Ellipsis in [k for k in keys if not isinstance(k, ndarray)]:
            at = next(i for i, k in enumerate(keys) if k is Ellipsis)
            axes[at] = self._numbers.ndim - sum(axes)
        found = []
        for i, k in enumerate(keys):
            if isinstance(k, list):
                raise TypeError("a list as an index")
            k = _numbers(k)
            if isinstance(k, np.ndarray) and k.dtype.kind in "iu":
                k = k % max(1, self._numbers.shape[sum(axes[:i])])
            found.append(k)
        return tuple(found)

    def __getitem__(self, key: Any) -> Any:
        if any(map(_is_mask, key if isinstance(key, tuple) else (key,))):
            _waits("a mask as an index")
        return _made(_numbers(self)[self._index(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        with np.errstate(all="ignore"):
            _numbers(self)[self._index(key)] = _numbers(value)


def _is_mask(key: Any) -> bool:
    return isinstance(key, ndarray) and key._numbers.dtype == bool


_READS = ["__bool__", "__int__", "__float__", "__complex__", "__format__", "item", "tolist", "nonzero"]
_TWO = ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift", "matmul"]
_OPERATORS = [f"__{of}{name}__" for name in _TWO for of in ("", "r", "i") if of + name != "imatmul"]
_OPERATORS += [f"__{name}__" for name in ("eq", "ne", "lt", "le", "gt", "ge", "neg", "pos", "abs", "invert")]
_SHOWN = ["shape", "dtype", "ndim", "size", "nbytes", "itemsize", "strides", "flags"]
for _names, _how in ((_READS, _reading), (_OPERATORS, _computed), (_SHOWN, _attribute)):
    for _name in _names:
        if _name in _METHODS:
            setattr(ndarray, _name, _how(_name))
for _name in _METHODS - set(_READS) - set(vars(ndarray)):
    if not _name.startswith("_") and callable(getattr(np.ndarray, _name, None)):
        setattr(ndarray, _name, _computed(_name))
for _name in ("T", "mT", "real", "imag"):
    setattr(ndarray, _name, property(lambda self, name=_name: _made(getattr(_numbers(self), name))))
ndarray.__module__ = "cupy"


# ---------------------------------------------------------------------------------------------------------------
# Functions: NumPy's, where CuPy has them, with the arguments that CuPy takes

_FACTS = ["result_type", "can_cast", "issubdtype", "promote_types", "broadcast_shapes", "isscalar", "isdtype"]
_FACTS += ["shape", "ndim", "size", "min_scalar_type"]
_WAITING = ["nonzero", "flatnonzero", "argwhere", "unique", "array_equal", "allclose", "extract", "compress"]


def _signature(said: str) -> inspect.Signature | None:
    """Of `(a, axis=None, dtype: 'X' = <class 'float'>) -> 'Y'`: names, kinds and which have defaults."""
    listed = re.sub(r"<class '(\w+)'>", r"\1", re.sub(r": '[^']*'", "", said.partition(" ->")[0]))
    listed = re.sub(r"<[^>]*>", "None", listed)
    try:
        found = eval(f"lambda {listed[1:-1]}: None", {"float": float, "int": int, "None": None})
    except (SyntaxError, NameError):
        return None
    return inspect.signature(found)


def _function(name: str, said: str) -> Callable[..., Any]:
    of_numpy, signature = getattr(np, name), None if said == "ufunc" else _signature(said)
    into = name in ("array", "asarray", "ascontiguousarray", "asfortranarray")

    def function(*args: Any, **kwargs: Any) -> Any:
        if said == "ufunc" and (wrong := kwargs.keys() - {"out", "dtype", "casting"}):
            raise TypeError(f"cupy.{name}: Wrong arguments {sorted(wrong)}")
        if signature is not None:
            signature.bind(*args, **kwargs)
        if name in _WAITING:
            _waits(name)
        if into:  # the way in, from NumPy and from another device
            first, kwargs = args[0], {k: v for k, v in kwargs.items() if k != "blocking"}
            if isinstance(first, ndarray) and first._device == _Device.current[-1] and name != "array":
                return first if kwargs.get("dtype") in (None, first.dtype) else first.astype(kwargs["dtype"])
            args = (getattr(first, "_numbers", first), *args[1:])
            return _made(np.array(*args, **{k: v for k, v in kwargs.items() if k != "copy"}))
        arrays = [_numbers(a) for a in args]
        if name in ("take", "take_along_axis"):
            axis = kwargs.get("axis", arrays[2] if len(arrays) > 2 else None)
            arrays[1] = arrays[1] % max(1, arrays[0].size if axis is None else arrays[0].shape[axis])
        with np.errstate(all="ignore"):
            result = of_numpy(*arrays, **{k: _numbers(v) for k, v in kwargs.items()})
        if isinstance(kwargs.get("out"), ndarray):
            return kwargs["out"]
        return result if name in _FACTS else _made(result)

    function.__name__ = name
    return function


PUBLIC: dict[str, Any] = {"__version__": f"{_REAL['version']}+standin"}
for _name, _said in _NAMES.items():
    _found = getattr(np, _name, None)
    if _found is not None and (_said == "ufunc" or _said.startswith("(")):
        PUBLIC[_name] = _function(_name, _said)
    elif _said == "value" or isinstance(_found, type):
        PUBLIC[_name] = _found


def _submodule(name: str, **contents: Any) -> types.ModuleType:
    module = types.ModuleType(f"cupy.{name}")
    vars(module).update(contents, __path__=[])
    sys.modules[module.__name__] = module
    return module


def _wrapped(module: Any) -> dict[str, Any]:
    def through(of_numpy: Any) -> Any:
        return lambda *args, **kwargs: _made(of_numpy(*map(_numbers, args), **kwargs))

    public = {n: f for n, f in vars(module).items() if not n.startswith("_") and callable(f)}
    return {n: f if isinstance(f, type) else through(f) for n, f in public.items()}


class _Stream:
    """The one there is; nothing is ever waiting on it."""

    ptr = 0


_properties = {"name": b"no device: a stand-in for CuPy over NumPy"}
PUBLIC |= {
    "ndarray": ndarray,
    "asnumpy": ndarray.get,
    "cuda": _submodule(
        "cuda",
        Device=_Device,
        Stream=_Stream,
        is_available=lambda: True,
        device=_submodule("cuda.device", Device=_Device),
        runtime=types.SimpleNamespace(getDeviceCount=lambda: 2, getDeviceProperties=lambda device: _properties),
    ),
    "linalg": _submodule("linalg", **_wrapped(np.linalg)),
    "fft": _submodule("fft", **_wrapped(np.fft)),
}
