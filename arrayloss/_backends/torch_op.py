"""`linear_cross_entropy` under torch.compile: one operator, into which the compiler does not look.

Traced, every block would become part of the program: as many products as there are blocks to compile, and none of them
overwrites its memory.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch

from arrayloss._backends.generic import Arrays

_REGISTERED: dict[str, Any] = {}


def run(blocks: Any, arrays: Arrays, g: torch.Tensor | None, needed: tuple[bool, ...]) -> tuple[torch.Tensor, Any]:
    """`blocks.run`, as one operator."""
    losses, *made = _run(_registered(_as_tuples(blocks)), g, needed, arrays)
    if g is None:
        return losses, None
    given = iter(made)
    return losses, tuple(next(given) if asked else None for asked in _asked(arrays, needed))


def _asked(arrays: Arrays, needed: Sequence[bool]) -> tuple[bool, ...]:
    return tuple(a is not None and need for a, need in zip(arrays, needed, strict=False))


def _as_tuples(x: Any) -> Any:
    """A dataclass as its class and fields, as the compiler can't hand over an object that the traced program makes.

    A float becomes a quotient of integers: dynamo makes a symbol of one that has changed, which is not a constant.
    """
    if isinstance(x, float):
        return operator.truediv, *x.as_integer_ratio()
    fields = getattr(type(x), "__match_args__", None)
    return x if fields is None else (type(x), *(_as_tuples(getattr(x, name)) for name in fields))


def _from_tuples(x: Any) -> Any:
    return x[0](*map(_from_tuples, x[1:])) if isinstance(x, tuple) else x


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _registered(tuples: Any) -> str:
    """The key of `blocks` in this process: a program can hold a string, and no object."""
    blocks = _from_tuples(tuples)
    for key, one in _REGISTERED.items():
        if one == blocks:
            return key
    key = f"{len(_REGISTERED)} {blocks}"
    _REGISTERED[key] = blocks
    return key


@torch.library.custom_op("arrayloss::run_blocks", mutates_args=())
def _run(
    key: str, g: torch.Tensor | None, needed: Sequence[bool], arrays: Sequence[torch.Tensor | None]
) -> list[torch.Tensor]:
    from arrayloss._backends.torch import backend

    losses, gradients = _REGISTERED[key].run(backend, tuple(arrays), g, tuple(needed))
    return [losses, *(d.contiguous() for d in gradients or () if d is not None)]


@_run.register_fake
def _shapes(
    key: str, g: torch.Tensor | None, needed: Sequence[bool], arrays: Sequence[torch.Tensor | None]
) -> list[torch.Tensor]:
    hidden, dtype = arrays[0], _REGISTERED[key].call.dtype
    assert hidden is not None
    losses = hidden.new_empty((hidden.shape[0], 1), dtype=dtype)
    dtypes = (hidden.dtype, dtype, dtype)
    made = zip(arrays, dtypes, () if g is None else _asked(tuple(arrays), needed), strict=False)
    return [losses, *(a.new_empty(a.shape, dtype=d) for a, d, asked in made if asked and a is not None)]
