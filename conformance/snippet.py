"""Writes a failing call as a program that can be pasted: the arrays in exact decimals, the call, what was due."""

from __future__ import annotations

import inspect
import re
import sys
from decimal import Decimal
from typing import Any

import numpy as np

from arrayloss.testing import Case, Exact, Floats, Implementation, Reduce, parameters

from .cases import ELEMENTWISE

NUMBERS = 400
"""A case of more numbers than this isn't written out."""


def snippet(
    implementation: Implementation,
    case: Case,
    backend: str,
    mode: str,
    quantity: str,
    at: tuple[int, ...],
    due: str,
    why: str,
) -> str | None:
    """A program that makes the call and prints the number at a position, and what is due there; `why` is its title.

    None where the case is too large to be read, or where the function can't be imported by a name, or reduces by itself
    what are several samples.
    """
    function = _named(implementation, implementation.functions[case.function], case.function)
    if function is None or sum(values.size for values in case.arrays.values()) > NUMBERS:
        return None
    samples = case.arrays["logits"].shape[: 1 if case.function in ELEMENTWISE else -1]
    if implementation.single and any(count > 1 for count in samples):
        return None
    library = _Library.of(backend)
    arrays = dict(case.arrays)
    if case.cotangent is not None and quantity.split()[0] in ("closed", "auto"):
        arrays["cotangent"] = case.cotangent
    lines = [f"{name} = {library.array(values, passed_as(case, name))}" for name, values in arrays.items()]
    arguments = _arguments(implementation, case, library)
    call = f"{function}({arguments})"
    if quantity.startswith("closed"):
        both = _named(implementation, implementation.value_and_grad, "value_and_grad")
        pull = ", cotangent=cotangent" if "cotangent" in arrays else ""
        call = f"{both}({function})({arguments}{pull})[{int(quantity != 'closed value')}]"
    by = quantity.removeprefix("auto d ") if quantity.startswith("auto") else ""
    body = [f"    return {call}"]
    if library.name == "jax" and by:
        one = "cotangent" if "cotangent" in arrays else "jnp.ones_like(value)"
        body = [f"    value, back = jax.vjp(lambda {by}: {call}, {by})", f"    return back({one})[0]"]
    if mode != "eager" or len(body) > 1:
        names = ", ".join(arrays)
        lines += ["", "", f"def compute({names}):", *body, "", ""]
        compiled = {"jax.jit": "jax.jit(compute)", "torch.compile": _COMPILED}.get(mode, "compute")
        call = f"{compiled}({names})"
    if library.name == "torch" and by:
        lines.insert(len(arrays), f"{by}.requires_grad_()")
        pull = ", cotangent" if "cotangent" in arrays else ""
        call = f"torch.autograd.grad({call}, {by}{pull})[0]"
    # What reduces by itself gives one number of the one sample.
    place = "" if implementation.single and quantity.endswith("value") else "".join(f"[{i}]" for i in at)
    lines += [
        f"result = {call}",
        f'print("came back:", {library.listed("result")}{place})',
        f'print("exact:    ", "{due}")',
    ]
    modules = dict.fromkeys(
        name.rpartition(".")[0] for name in (function, "arrayloss." if "arrayloss." in call else "")
    )
    modules.pop("", None)
    title = f"# {function}, {quantity}, {case.dtype} on {backend} {mode}: {' '.join(why.split())}"
    return "\n".join([title, *library.imports("\n".join(lines), case, list(modules)), "", *lines]) + "\n"


_COMPILED = "torch.compile(compute, fullgraph=True, dynamic=True)"


def digits(exact: Exact, at: tuple[int, ...]) -> str:
    """An exact number in 20 digits."""
    high, low = float(exact.high[at]), float(exact.low[at])
    text = f"{Decimal(high) + Decimal(low):.20g}" if np.isfinite(high) else str(high)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def written(values: Floats, dtype: str) -> str:
    """An array as nested lists of decimals that read back as the same numbers."""
    if dtype.startswith("int"):
        return str(values.astype(np.int64).tolist())
    return str(values.astype(bool).tolist() if dtype == "bool" else values.tolist())


def _named(implementation: Implementation, thing: Any, name: str) -> str | None:
    """The dotted name that a function can be imported by, found by looking it up."""
    inner = inspect.unwrap(thing)
    module = getattr(inner, "__module__", None) or ""
    for place in (implementation.name, module.split(".")[0], module):
        for attribute in (name, getattr(inner, "__name__", name)):
            found = getattr(sys.modules.get(place), attribute, None)
            if found is not None and (found is thing or found is inner):
                return f"{place}.{attribute}"
    return None


def _arguments(implementation: Implementation, case: Case, library: _Library) -> str:
    given = [name for name in ("logits", "target") if name in case.arrays]
    given += [f"{name}={name}" for name in case.arrays if name not in ("logits", "target")]
    # A function that hasn't an option does by itself what the case asks for.
    takes = parameters(implementation.functions[case.function], 1 if case.target_kind == "none" else 2)
    for name, value in case.options.items():
        if not takes.take(name):
            continue
        if isinstance(value, Reduce):
            made = implementation.reduction(value)
            given.append(f"{name}={made!r}" if isinstance(made, str) else f"{name}=arrayloss.{value}")
        else:
            given.append(f"{name}={library.dtype(value) if name == 'dtype' else repr(value)}")
    return ", ".join(given)


def passed_as(case: Case, name: str) -> str:
    """The dtype that an array of a case is passed in."""
    if name == "where" or (name == "target" and case.target_kind == "bool"):
        return "bool"
    if name == "target" and case.target_kind == "index":
        return "int64"
    return case.result_dtype if name == "cotangent" else case.dtype


class _Library:
    """How one library is written; the namespace is imported as it is known by."""

    lines: tuple[str, ...] = ("import numpy as np",)
    name = "numpy"
    space = "np"

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.device = backend.partition(":")[2]

    @staticmethod
    def of(backend: str) -> _Library:
        kind: type[_Library] = _LIBRARIES.get(backend.split(":")[0], _Other)
        return kind(backend)

    def imports(self, body: str, case: Case, modules: list[str]) -> list[str]:
        """What the program needs, the module that is judged last."""
        words = [word for word in ("inf", "nan") if re.search(rf"\b{word}\b(?!\")", body)]
        needed = [f"from math import {', '.join(words)}\n"] if words else []
        numpy = ["import numpy as np"] if "np." in body and "import numpy as np" not in self.lines else []
        return [*needed, *dict.fromkeys([*self.lines, *numpy, *(f"import {module}" for module in modules)])]

    def dtype(self, name: str) -> str:
        return f"{self.space}.{name}"

    def values(self, values: Floats, dtype: str) -> str:
        """Nested lists; an empty array keeps its shape."""
        return written(values, dtype) if values.size else f"np.zeros({values.shape})"

    def array(self, values: Floats, dtype: str) -> str:
        return f"{self.space}.asarray({self.values(values, dtype)}, dtype={self.dtype(dtype)})"

    def listed(self, result: str) -> str:
        return f"np.asarray({result}).tolist()"


class _Torch(_Library):
    lines = ("import torch",)
    name = "torch"
    space = "torch"

    def array(self, values: Floats, dtype: str) -> str:
        where = "" if self.device == "cpu" else f", device={self.device!r}"
        return f"torch.tensor({self.values(values, dtype)}, dtype={self.dtype(dtype)}{where})"

    def listed(self, result: str) -> str:
        return f"{result}.tolist()"


class _Jax(_Library):
    lines = ("import jax", "import jax.numpy as jnp", "import numpy as np")
    name = "jax"
    space = "jnp"

    def imports(self, body: str, case: Case, modules: list[str]) -> list[str]:
        wide = "float64" in (case.dtype, case.result_dtype)
        return super().imports(body, case, modules) + (['\njax.config.update("jax_enable_x64", True)'] if wide else [])

    def dtype(self, name: str) -> str:
        return f"jnp.{'int32' if name == 'int64' else name}"

    def listed(self, result: str) -> str:
        return f"np.asarray({result}, dtype=float).tolist()"


class _Strict(_Library):
    lines = ("import array_api_strict", "import numpy as np")
    name = space = "array_api_strict"


class _Dask(_Library):
    lines = ("import dask.array", "import numpy as np")
    name = "dask"

    def array(self, values: Floats, dtype: str) -> str:
        chunks = tuple(max(1, -(-n // 2)) if axis == 0 else n for axis, n in enumerate(values.shape))
        return f"dask.array.from_array({super().array(values, dtype)}, chunks={chunks})"

    def listed(self, result: str) -> str:
        return f"{result}.compute().tolist()"


class _Cupy(_Library):
    lines = ("import cupy",)
    name = space = "cupy"

    def listed(self, result: str) -> str:
        return f"{result}.get().tolist()"


class _Other(_Library):
    """A namespace unknown to the suite, named `module` or `module:object`."""

    def __init__(self, backend: str) -> None:
        super().__init__(backend)
        self.space = backend.replace(":", ".")
        self.lines = (f"import {backend.split(':')[0]}", "import numpy as np")


_LIBRARIES: dict[str, type[_Library]] = {
    "numpy": _Library,
    "torch": _Torch,
    "jax": _Jax,
    "array-api-strict": _Strict,
    "dask": _Dask,
    "cupy": _Cupy,
}
