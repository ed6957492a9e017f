"""Backends by name: those that the suite knows, and any array API namespace that an import can find."""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from arrayloss.testing import FORMATS, Backend, Floats, backends


class Namespace(Backend):
    """A library that the suite knows nothing of: what it does is in the array API standard, or it is not done."""

    def __init__(self, name: str, xp: Any) -> None:
        self.found = xp
        self.refused = {dtype: reason for dtype in FORMATS if (reason := _refused(xp, dtype)) is not None}
        super().__init__(name, dtypes=tuple(dtype for dtype in FORMATS if dtype not in self.refused))

    def missing(self) -> str | None:
        return None if self.dtypes else self.refused["float32"]

    @cached_property
    def xp(self) -> Any:
        return self.found

    def numpy(self, values: Any) -> Floats:
        # Through DLPack, which copies from a device; `__array__` where a library has none, or can't.
        try:
            return np.from_dlpack(values, device="cpu").astype(np.float64)
        except (AttributeError, BufferError, TypeError):
            return super().numpy(values)


def _refused(xp: Any, dtype: str) -> str | None:
    """Why no numbers of that dtype can be brought over, or None (a device may have none; NumPy has no bfloat16)."""
    try:
        xp.asarray(np.ones(1, dtype), dtype=getattr(xp, dtype))
    except Exception as reason:  # each library has its own
        return f"{type(reason).__name__}: {reason}"
    return None


def backend(name: str) -> Backend:
    """The backend of that name: one of the suite's own, or what `module` or `module:object` names.

    The object is an array API namespace, or a `Backend` for a library which needs more said than that.
    """
    known = {one.name: one for one in backends()}
    if name in known:
        return known[name]
    try:
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as reason:
        raise ValueError(
            f"no backend {name!r} ({reason}); there are {', '.join(known)}, or any array API namespace as "
            "module or module:object"
        ) from reason
    if isinstance(found, Backend):
        return found
    if not hasattr(found, "asarray"):
        raise ValueError(f"{name} is no array API namespace: it has no asarray")
    return Namespace(name, found)


def chosen(names: Sequence[str]) -> list[Backend]:
    """The backends of those names; with no names, every one that the suite knows."""
    return [backend(name) for name in names] if names else backends()
