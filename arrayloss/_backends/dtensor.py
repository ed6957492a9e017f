"""DTensors of PyTorch: whole tensors in the shape given, each device its part, and one all-reduce for one reduction.

The numbers of a DTensor can't be read, as parts are elsewhere. So labels are compared, not indexed, with positions that
are sharded as the classes are. DTensor reduces a partial sum in every operation that reads it; here it happens once.
"""

from __future__ import annotations

from typing import Any

import torch
from array_api_compat import torch as xp
from torch.distributed.tensor import DTensor, Replicate

from arrayloss._backends.generic import Arrays, Backend, Call, is_static
from arrayloss._backends.torch import Torch, taped
from arrayloss._kernels.ops import Array, ComparedLabel, Forward, Ops, Position


def _finished(*sums: Array) -> tuple[Array, ...]:
    """The tensors without partial sums; in one all-reduce, if their placements are the same."""
    first = sums[0]
    whole = _without_partial(first)
    if len(sums) > 1 and whole != first.placements and all(s.placements == first.placements for s in sums):
        parts = torch.stack([s.to_local(grad_placements=whole) for s in sums], -1)
        shape, stride = (*first.shape, len(sums)), (*(len(sums) * n for n in first.stride()), 1)
        both = DTensor.from_local(
            parts, first.device_mesh, first.placements, run_check=False, shape=torch.Size(shape), stride=stride
        )
        both = both.redistribute(placements=whole)
        # Not unbind: for a result without a gradient, its backward takes zeros that are no DTensor.
        return tuple(both.select(-1, i) for i in range(len(sums)))
    return tuple(s.redistribute(placements=_without_partial(s)) for s in sums)


def _without_partial(x: Array) -> tuple[Any, ...]:
    return tuple(Replicate() if p.is_partial() else p for p in x.placements)


def _everywhere(x: Array, like: Array) -> Array:
    """A tensor that every device has made itself, as a replicated DTensor on the mesh of `like`."""
    return DTensor.from_local(x, like.device_mesh, run_check=False)


def _beside(x: Array, logits: Array) -> Array:
    """`x`, whose axes are as long as those of the logits, or 1; sharded as the logits are."""
    if x.ndim != logits.ndim:
        return x
    placements = (
        Replicate() if p.is_shard() and x.shape[p.dim] != logits.shape[p.dim] else p for p in logits.placements
    )
    return x.redistribute(placements=tuple(placements))


class _Ops(Ops):
    def constant(self, x: Array) -> Array:
        return x.detach()

    def max(self, x: Array) -> Array:
        return _finished(super().max(x))[0]

    def sum(self, x: Array) -> Array:
        return _finished(super().sum(x))[0]

    def peel(self, e: Array, at: Any) -> Array:
        ties, rest = (torch.sum(x, self.axis, True) for x in (at.hit.to(e.dtype), at.put(e, e - 1)))
        ties, rest = _finished(ties, rest)
        return rest + (ties - 1)

    def at_label(self, labels: Array, x: Array) -> Position:
        positions = torch.arange(x.shape[self.axis], dtype=labels.dtype, device=labels.device)
        return ComparedLabel(self, _beside(_everywhere(self.along(positions, x), x), x) == labels)


class _Apply(torch.autograd.Function):
    """A kernel with its own vjps. They are kept: computing the kernel again would communicate again."""

    @staticmethod
    def forward(ctx: Any, call: Call, *arrays: Array | None) -> Array:
        ctx.call = call
        ctx.save_for_backward(*arrays)
        value, ctx.vjps, _ = backend.forward(call, arrays)
        return value

    @staticmethod
    def backward(ctx: Any, g: Array) -> tuple[Array | None, ...]:
        arrays, vjps, ctx.vjps = ctx.saved_tensors, ctx.vjps, None
        if vjps is None or torch.is_grad_enabled():
            vjps = backend.forward(ctx.call, arrays).vjps
        g = backend.astype(_finished(g)[0], ctx.call.dtype)
        # The first vjp may overwrite what the others read: it is called last.
        made = [
            vjp(g).to(a.dtype).redistribute(placements=_without_partial(a)) if need and vjp else None
            for a, vjp, need in reversed(tuple(zip(arrays, vjps, ctx.needs_input_grad[1:], strict=True)))
        ]
        return None, *reversed(made)


class Distributed(Torch):
    @property
    def name(self) -> str:
        return "torch.distributed.tensor"

    def owns(self, x: Any) -> bool:
        return isinstance(x, DTensor)

    def device(self, x: Array) -> Any:
        return x.device_mesh

    def can_inspect(self, *arrays: Array | None) -> bool:
        return False

    def on_tape(self, *arrays: Array | None) -> bool:
        return taped(*arrays)

    def runs_blocks(self, layer: Arrays, others: Arrays) -> bool:
        return False  # a block of rows would be sent around

    def number(self, value: float, like: Array, dtype: Any) -> Array:
        return _everywhere(super().number(value, like, dtype), like)

    def arange(self, n: int, like: Array) -> Array:
        return _everywhere(torch.arange(n, dtype=like.dtype, device=like.device), like)

    def finished(self, *sums: Any) -> tuple[Any, ...]:
        total, *others = sums
        if all(isinstance(x, DTensor) for x in others):
            return _finished(total, *(x.to(total.dtype) for x in others))
        return *_finished(total), *others

    def gather(self, values: Array, labels: Array) -> Array:
        return torch.nn.functional.embedding(labels, values[:, None])[..., 0]

    def ops(self, call: Call) -> Ops:
        return _Ops(xp, call.dtype, call.axis)

    def forward(self, call: Call, arrays: Arrays) -> Forward:
        (x,) = _finished(arrays[0])
        return super().forward(call, (x, *(None if a is None else _beside(a, x) for a in arrays[1:])))

    def value(self, call: Call, arrays: Arrays, *, summed: bool = False) -> Array:
        if is_static(call.kernel) and taped(*arrays):
            return _Apply.apply(call, *arrays)  # type: ignore[no-untyped-call]
        return self.forward(call, arrays).value

    value_and_gradient = Backend.value_and_gradient
    reduced = Backend.reduced


backend = Distributed(xp)
