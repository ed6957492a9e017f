"""PyTorch: one autograd function for every kernel; plain tensors in blocks, in place."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from array_api_compat import torch as xp

from arrayloss._libraries.generic import Library
from arrayloss._modes import Array, ComparedLabels, Eager, IndexedLabels, Traced
from arrayloss._rows import Arrays, Work, in_blocks, whole

_CPU_BLOCK_BYTES = 2 * 1024 * 1024
_DEVICE_BLOCK_BYTES = 256 * 1024 * 1024
# Elements from which a sum in float64 is folded first.
_FOLDED = 1 << 16


def _plain() -> bool:
    """Whether tensors are just tensors: no compiler traces, and no torch.func transform wraps them.

    The flag is private, and the one that `torch.autograd.Function.apply` itself asks (torch/autograd/function.py).
    """
    return not torch.compiler.is_compiling() and not torch._C._are_functorch_transforms_active()


def _taped(*arrays: Array | None) -> bool:
    return torch.is_grad_enabled() and any(a is not None and a.requires_grad for a in arrays)


class _Traced(Traced):
    def take(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        # array-api-compat's take_along_axis fixes the batch size of a program with dynamic shapes.
        return x.gather(1, labels)


class _Compiled(_Traced):
    """For torch.compile, whose C++ reads what a reduction or a foreign operation wrote, and computes all else anew.

    A number of a row is computed for every 16 of its elements, and the backward computes those of the forward again.
    """

    def labels(self, x: torch.Tensor, labels: torch.Tensor) -> ComparedLabels:
        # Int32, of which twice as many fit a vector. An arange is put together element by element, for every vector
        # anew; a cummax, on a CPU, is not the compiler's work, and is read.
        positions = torch.arange(x.shape[1], dtype=torch.int32, device=labels.device)
        return ComparedLabels(self, positions.cummax(0).values if labels.device.type == "cpu" else positions, labels)

    def highest(self, x: torch.Tensor) -> torch.Tensor:
        # A whole number, which `base` has next to nothing to do with.
        return torch.amax(torch.floor(x), 1, keepdim=True)

    def base(self, highest: Array) -> Array:
        return highest - self.depth

    def exp_below(self, x: Array, d: Array, top: Array, near: float, base: Array | None = None) -> Array:
        if base is None:
            return super().exp_below(x, d, top, near)
        # The base may be +inf; +inf itself has the exponential 1 then.
        d = x - base
        e = torch.exp(d) * (1 + self.finite(x - (d + base), d))
        return torch.where(x == float("inf"), 1.0, e)

    def log_ratio(self, others: Array, e: Array, x: Array, base: Array) -> Array:
        return super().log_ratio(others, e, x, self.at_most(base))


class _Labels(IndexedLabels):
    """torch's own gather and scatter, 3 times faster than indexing."""

    def __init__(self, labels: torch.Tensor) -> None:
        self._column = labels

    def take(self, x: torch.Tensor) -> torch.Tensor:
        return x.gather(1, self._column)

    def drop(self, e: torch.Tensor) -> torch.Tensor:
        return e.scatter_(1, self._column, 0)

    def spread(self, e: torch.Tensor, others: torch.Tensor, at_label: torch.Tensor) -> torch.Tensor:
        return e.mul_(others).scatter_(1, self._column, at_label)


class _Eager(Eager):
    def labels(self, x: torch.Tensor, labels: torch.Tensor) -> _Labels:
        return _Labels(labels)

    def sides(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.relu(x), torch.relu(-x)

    def raised(self, x: torch.Tensor, e: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # Not array-api-compat's sign, which takes 15 times as long to make that of nan nan; `e` is it already.
        sign = torch.sign(x)
        return torch.maximum(e, sign), torch.maximum(e, sign.neg_())


class _Apply(torch.autograd.Function):
    """A kernel with its pulls. Only the inputs are saved: what the backward needs beside them is computed again.

    No `jvp`: with one, torch.compile(fullgraph=True) fails.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(kernel: Any, *arrays: torch.Tensor | None) -> torch.Tensor:
        return library.value(kernel, arrays)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        kernel, *arrays = inputs
        ctx.kernel = kernel
        ctx.save_for_backward(*arrays)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (None, *_pulled(ctx.kernel, g, ctx.saved_tensors, ctx.needs_input_grad[1:]))


def _pulled(
    kernel: Any, g: torch.Tensor, arrays: tuple[torch.Tensor | None, ...], needed: tuple[bool, ...]
) -> tuple[torch.Tensor | None, ...]:
    """What the kernel pulls the cotangent `g` back to, for each input that it is needed for."""
    # A tape (create_graph=True) needs operations that it can differentiate: out of place, on whole arrays.
    mode = library.mode(kernel.dtype, g, *arrays)
    # A compiled backward has no second one, and shares what it computes with the forward if that reads the same.
    twice = not isinstance(mode, Eager) and not torch.compiler.is_compiling()

    def work(x: Array, g: Array, *others: Array | None) -> tuple[Array | None, ...]:
        coefficient = others[0] if others else None
        if coefficient is not None and twice:
            # What counts for nothing must not reach the second derivative either: 0 * nan there is out of sight.
            nothing = (coefficient == 0) & ~torch.isfinite(x.amax(1, keepdim=True))
            x = torch.where(nothing, torch.zeros_like(x), x)
        rows = (x, *others)
        pulls = kernel(mode, *rows).pulls
        g = mode.real(g)
        # The pull of the logits may write over what the others read: it comes last.
        gradients = [pulls[i](g).to(rows[i].dtype) if needed[i] else None for i in reversed(range(len(needed)))]
        return tuple(reversed(gradients))

    x, *others = arrays
    return library.run(work, (x, g, *others))


class _Prepaid(torch.autograd.Function):
    """A reduced loss of plain tensors: the gradient is made with the value, in one pass over each block.

    The exponentials are computed once. The backward hands the gradient over as it stands, or scales it there, so that
    nothing but the gradient itself takes memory; a second backward computes it again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        kernel: Any,
        reduced: Callable[[torch.Tensor], torch.Tensor],
        cotangent: torch.Tensor,
        *arrays: torch.Tensor | None,
    ) -> torch.Tensor:
        ctx.kernel = kernel
        ctx.save_for_backward(cotangent, *arrays)
        losses, ctx.gradient = library.gradient(kernel, arrays, cotangent)
        return reduced(losses)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cotangent, *arrays = ctx.saved_tensors
        gradient, ctx.gradient = ctx.gradient, None
        kept: tuple[None, ...] = (None,) * (len(arrays) - 1)
        if torch.is_grad_enabled():
            needed = (True, *(False for _ in kept))
            return (None, None, None, *_pulled(ctx.kernel, g * cotangent, tuple(arrays), needed))
        if gradient is None:
            _, gradient = library.gradient(ctx.kernel, tuple(arrays), cotangent)
        # 1 as a rule; to look would wait for an accelerator.
        if not library.looks(g) or g != 1:
            gradient = library.mode(ctx.kernel.dtype, g).still(g, gradient.mul_(g))
        return None, None, None, gradient, *kept


class Torch(Library):
    def quiet(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def owns(self, x: Any) -> bool:
        return isinstance(x, torch.Tensor)

    def compute_dtype(self, *dtypes: Any) -> Any:
        # torch.compile doesn't trace result_type of dtypes.
        return torch.float64 if torch.float64 in dtypes else torch.float32

    def index_dtype(self, x: Array) -> Any:
        return torch.int64  # the only one that torch indexes with

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        if _plain() and not _taped(x) and x.numel() > _FOLDED:
            # torch makes a copy in float64 to sum that; of sums of four, rounded twice, the copy is a quarter.
            flat = x.reshape(-1)
            n = flat.shape[0] // 4
            first, second, third, fourth = (flat[i * n : (i + 1) * n] for i in range(4))
            x = torch.cat(((first + second) + (third + fourth), flat[4 * n :]))
        # Not sum(dtype=): that takes 4 us longer.
        return x.to(torch.float64).sum()

    def looks(self, *arrays: Array | None) -> bool:
        return _plain() and all(a is None or a.device.type == "cpu" for a in arrays)

    def differentiates(self, *arrays: Array | None) -> bool:
        return not _plain() or _taped(*arrays)

    def mode(self, dtype: Any, *arrays: Array | None) -> Traced:
        if torch.compiler.is_compiling():
            return _Compiled(self.xp, dtype)
        if not _plain() or _taped(*arrays):
            return _Traced(self.xp, dtype)
        return _Eager(self.xp, dtype, looks=self.looks(*arrays))

    def run(self, work: Work, arrays: Arrays) -> tuple[Array | None, ...]:
        if not _plain() or _taped(*arrays):
            return whole(self.xp, work, arrays)
        on_cpu = arrays[0].device.type == "cpu"
        return in_blocks(self.xp, work, arrays, _CPU_BLOCK_BYTES if on_cpu else _DEVICE_BLOCK_BYTES)

    def value(self, kernel: Any, arrays: Arrays) -> torch.Tensor:
        """The kernel's value, without a tape."""
        value: torch.Tensor = super().apply(kernel, arrays)
        return value

    def apply(self, kernel: Any, arrays: Arrays) -> Array:
        # Nothing to differentiate: no function either, which torch.compile calls with one argument too many then.
        if not _taped(*arrays) and not torch._C._are_functorch_transforms_active():
            return self.value(kernel, arrays)
        return _Apply.apply(kernel, *arrays)  # type: ignore[no-untyped-call]

    def apply_reduced(
        self, kernel: Any, arrays: Arrays, reduced: Callable[[Array], Array], cotangent: Callable[[], Array]
    ) -> Array:
        x, *others = arrays
        if _plain() and _taped(x) and not _taped(*others) and x.dtype == kernel.dtype:
            g = cotangent()
            if not g.requires_grad:
                return _Prepaid.apply(kernel, reduced, g, *arrays)  # type: ignore[no-untyped-call]
        return reduced(self.apply(kernel, arrays))


library = Torch(xp)
