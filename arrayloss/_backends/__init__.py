"""What is special to each array library, in a module of its name, imported when the first such array arrives."""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace

from arrayloss._backends.generic import Backend, Unknown

__all__ = ["Backend", "backend_of"]


def backend_of(x: Any) -> Backend | None:
    """The library that made the array `x`; None where `x` is no array.

    The module of its class tells which backend to ask; array-api-compat is asked for all others. (Asking it first
    would do too, but takes 5 us a call, and torch.compile warns of the caches in it.)
    """
    # Import statements rather than a table of names: torch.compile traces them. No `from`: it takes 3 times as long.
    root = type(x).__module__.partition(".")[0]
    module: Any = None
    if root == "numpy":
        import arrayloss._backends.numpy as module
    elif root == "torch" and type(x).__name__ == "DTensor":
        import arrayloss._backends.dtensor as module
    elif root == "torch":
        import arrayloss._backends.torch as module
    elif root in ("jax", "jaxlib"):
        import arrayloss._backends.jax as module
    elif root == "cupy":
        import arrayloss._backends.cupy as module
    elif root == "dask":
        import arrayloss._backends.dask as module
    if module is not None and module.backend.owns(x):
        return module.backend  # type: ignore[no-any-return]
    try:
        xp = array_namespace(x)
    except TypeError:
        return None
    except AttributeError:
        # array-api-compat (1.16, common/_helpers.py) asks a namespace for its `__name__`, which an object that is no
        # module may lack.
        xp = x.__array_namespace__()
    # A subclass that is defined elsewhere (of torch.Tensor, say) has the namespace of its base.
    for known in ("numpy", "torch", "cupy"):
        if getattr(xp, "__name__", "") == f"array_api_compat.{known}" and root != known:
            return backend_of(xp.empty(0))
    return Unknown(xp)
