"""What is special to one array library, each in the module named after it, imported when its first array arrives."""

from __future__ import annotations

from functools import cache
from typing import Any

from array_api_compat import array_namespace

from arrayloss._libraries.generic import Library

__all__ = ["Library", "library_of"]


@cache
def _numpy() -> Library:
    # Kept: an import statement takes 0.5 us.
    from arrayloss._libraries.numpy import library

    return library


def library_of(x: Any) -> Library | None:
    """The library that made the array `x`; None where `x` is no array.

    The module of its class tells which to ask; array-api-compat knows all others. (To ask that first would do, but
    takes 5 us a call, and torch.compile warns of the caches in it.)
    """
    # Import statements rather than a table of names: torch.compile traces them.
    root = type(x).__module__.partition(".")[0]
    library: Library | None = None
    if root == "numpy":
        library = _numpy()
    elif root == "torch":
        from arrayloss._libraries.torch import library
    elif root in ("jax", "jaxlib"):
        from arrayloss._libraries.jax import library
    elif root == "cupy":
        from arrayloss._libraries.cupy import library
    elif root == "dask":
        from arrayloss._libraries.dask import library
    if library is not None and library.owns(x):
        return library
    try:
        xp = array_namespace(x)
    except TypeError:
        return None
    except AttributeError:
        # array-api-compat (1.16, common/_helpers.py) asks a namespace for its `__name__`, which an object that is no
        # module may lack.
        xp = x.__array_namespace__()
    # A subclass that is defined elsewhere (a torch.Tensor's, say) has the namespace of its base.
    for known in ("numpy", "torch", "cupy"):
        if getattr(xp, "__name__", "") == f"array_api_compat.{known}" and root != known:
            return library_of(xp.empty(0))
    return Library(xp)
