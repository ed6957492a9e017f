"""PyTorch: plain tensors on rows, in place; three autograd functions, each for any kernel.

Plain tensors are those that no tracer and no transform of `torch.func` sees. Nothing to differentiate: they are
computed in place. A reduced loss with a gradient, and a loss of a linear layer: `_WithGradient`, value and gradient in
one pass. A function of one tensor: `_Function`, which keeps the exponentials. All else in reverse mode, torch.compile's
traces too: `_Apply`, with the kernel's own derivatives. In forward mode the kernel runs as plain differentiable
operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from array_api_compat import torch as xp

from arrayloss._backends.generic import NO_CONTEXT, Arrays, Call, folded, is_static
from arrayloss._backends.in_place import InPlace, InPlaceBackend
from arrayloss._kernels.ops import Array, Ops, Position

# An operation on two threads takes 10 to 30 us before it starts, so blocks are as large as memory allows.
_BLOCK_BYTES = 6 * 1024 * 1024
# Where a gradient is made, its array holds the exponentials, and a block of labels needs little other memory.
_GRADIENT_BLOCK_BYTES = 32 * 1024 * 1024
# Binary losses, which make some thirty arrays of a block's size.
_FLAT_BYTES = 512 * 1024
_DEVICE_BLOCK_BYTES = 256 * 1024 * 1024
# A sum of one row of so many classes would be split among the threads, which the rows of a batch are not.
_LONG = 1 << 14
_KINDS = {torch.float32: "real floating", torch.int64: "integral"}


def _plain() -> bool:
    """Whether tensors are just tensors: no compiler or tracer records, and no torch.func transform wraps them.

    All but the first flag are private; the second is the one that `torch.autograd.Function.apply` itself asks
    (torch/autograd/function.py).
    """
    return not (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._get_tracing_state() is not None
    )


def _differentiates_operations() -> bool:
    """Whether torch differentiates the operations of a kernel, not an autograd function: in forward mode, and if a
    compiled program has transforms of torch.func.

    In these, an autograd function that takes more than tensors raises under vmap, and any second derivative of one is 0
    (torch 2.13).
    """
    if torch.autograd.forward_ad._current_level >= 0:
        return True
    if not torch._C._are_functorch_transforms_active():
        return False
    if torch.compiler.is_compiling():
        return True
    from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters

    return any(i.key() == torch._C._functorch.TransformType.Jvp for i in retrieve_all_functorch_interpreters())


def _autocasts(device: str) -> bool:
    """Whether torch.autocast is on, which not all devices have."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


# The next two have for loops, because a generator takes 1 us longer.


def taped(*arrays: Array | None) -> bool:
    """Whether autograd records operations on any of the tensors."""
    if torch.is_grad_enabled():
        for a in arrays:
            if a is not None and a.requires_grad:
                return True
    return False


def _on_cpu(*arrays: Array | None) -> bool:
    for a in arrays:  # noqa: SIM110
        if a is not None and not a.is_cpu:
            return False
    return True


class _Traced(Ops):
    def constant(self, x: torch.Tensor) -> torch.Tensor:
        return x.detach()

    def at_label(self, labels: torch.Tensor, x: torch.Tensor) -> Position:
        return _GatheredLabel(super().at_label(labels, x), self.axis, labels)

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        # On a CPU the compiler adds one vector after another to 16 sums: 1000 equal terms lose 10 units in the last
        # place, 32000 180.
        if torch.compiler.is_compiling() and x.device.type == "cpu" and x.dtype == torch.float32:
            return torch.sum(x, self.axis, keepdim=True, dtype=torch.float64).to(x.dtype)
        if not _plain():
            return torch.sum(x, self.axis, keepdim=True)
        return _sum(x, self.axis, adjacent=self.axis == x.ndim - 1 and x.is_contiguous())


def _sum(x: torch.Tensor, axis: int, *, adjacent: bool) -> torch.Tensor:
    """The sum of each row, added in an order that does not depend on the other rows; not `x` itself.

    `adjacent` says whether the numbers of a row are adjacent in memory. If not, torch adds some columns of memory in
    another order than others.
    """
    if not adjacent:
        columns: torch.Tensor = folded(xp, x, axis, 1)
        return columns.clone() if columns is x else columns
    if x.shape[axis] < _LONG:
        return x.sum(axis, True)
    parts = [part.sum(axis, True) for part in torch.split(x, _LONG // 2, axis)]
    return torch.cat(parts, axis).sum(axis, True)


class _GatheredLabel:
    """The label, taken by `gather`: array-api-compat's take_along_axis fixes the batch size of a dynamic program."""

    def __init__(self, compared: Position, axis: int, labels: torch.Tensor) -> None:
        self.put = compared.put
        self._axis, self._labels = axis, labels

    def take(self, x: torch.Tensor) -> torch.Tensor:
        return x.gather(self._axis, self._labels)


# Of tensors of one dtype there is nothing to promote, which takes array-api-compat as long as the operation. Its sign
# takes 15 times as long as torch's, to make that of nan nan.
_xp = SimpleNamespace(**{**vars(xp), "where": torch.where, "sign": torch.sign})


# x where the weight is not 0, and 0 elsewhere: the derivative of hardshrink does this in one operation, a mask in 5.
_where_not_zero = torch.ops.aten.hardshrink_backward.default


@lru_cache(maxsize=64)
def _zero_d(value: float, dtype: Any, device: Any) -> torch.Tensor:
    return torch.tensor(value, dtype=dtype, device=device)


class _InPlace(InPlace):
    def __init__(self, dtype: Any, out: torch.Tensor | None) -> None:
        super().__init__(_xp, dtype, out)
        # `_lowest` is the smallest x whose exp(x) is a normal number. x is raised to it, because torch takes 30 to 100
        # times as long for subnormal results; results up to `_least` come from that, and are set to 0.
        tiny = torch.finfo(dtype).smallest_normal
        step = -math.log(tiny) * torch.finfo(dtype).eps
        self._lowest, self._least = math.log(tiny) + step, tiny * (1 + 3 * step)

    def zero_d(self, value: float, device: Any) -> torch.Tensor:
        return _zero_d(value, self.dtype, device)

    def exp_below(self, x: torch.Tensor, top: torch.Tensor) -> torch.Tensor:
        d = torch.sub(x, top, out=self.claim_out(x))
        torch.exp(d.clamp_(self._lowest, 0.0), out=d)
        return torch.threshold_(d, self._least, 0.0)

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        return _sum(x, 1, adjacent=x.ndim == 2)

    def scale(self, x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        x *= factor
        if factor.ndim == 2 and x.is_cpu:
            # By the numbers of these rows, as a mask takes as long as a product where there are none.
            return x.index_fill_(0, (factor == 0)[:, 0].nonzero()[:, 0], 0.0)
        filled: torch.Tensor = x.masked_fill_(factor == 0, 0)
        return filled

    def multiply_zero_wins(self, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        some: torch.Tensor = _where_not_zero(x, weight, 0.0)
        return some.mul_(weight)


class _Apply(torch.autograd.Function):
    """A kernel with its own derivatives. Only the inputs are saved: the backward computes the rest again.

    No `jvp`: with one, torch.compile(fullgraph=True) fails.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(call: Call, *arrays: torch.Tensor | None) -> torch.Tensor:
        return backend.untaped(call, arrays)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        call, *arrays = inputs
        ctx.call = call
        ctx.save_for_backward(*arrays)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (None, *_vjps(ctx.call, g, ctx.saved_tensors, ctx.needs_input_grad[1:]))


def _vjps(call: Call, g: torch.Tensor, arrays: Arrays, needed: tuple[bool, ...]) -> tuple[torch.Tensor | None, ...]:
    """The cotangents of the inputs that it is `needed` for."""
    if _plain() and not _batched(g) and not taped(g, *arrays) and needed[0] and not any(needed[1:]):
        return backend.value_and_gradient(call, arrays, g)[1], *(None for _ in needed[1:])
    # A tape (create_graph=True) needs operations that it can differentiate.
    inputs = arrays if torch.compiler.is_compiling() else backend.differentiable(call, arrays)
    vjps = backend.forward(call, inputs).vjps
    g = backend.astype(g, call.dtype)
    return tuple(
        backend.astype(vjp(g), a.dtype) if need and vjp is not None else None
        for a, vjp, need in zip(arrays, vjps, needed, strict=True)
    )


def _batched(g: torch.Tensor) -> bool:
    """Whether a cotangent is that of several backward passes at once (`is_grads_batched=True`)."""
    # The second kind is that of `torch._vmap_internals`, which autograd itself uses; it has no other sign.
    return bool(torch._C._functorch.is_batchedtensor(g) or "Batched" in str(torch._C._dispatch_keys(g)))


def _same(x: torch.Tensor) -> torch.Tensor:
    return x


def _scaled(gradient: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """The gradient times a 0-d cotangent, in its place, unless a compiler records."""
    if torch.compiler.is_compiling():
        return torch.where(g == 0, 0, gradient * g)
    # 1 as a rule; to look would wait for an accelerator.
    return gradient if g.is_cpu and g.item() == 1 else gradient.mul_(g).masked_fill_(g == 0, 0)


class _Whole(NamedTuple):
    """A loss of logits that are there, with the two methods by which `_WithGradient` computes `_head.Blocks` too."""

    call: Call

    def run(
        self, backend: Torch, arrays: Arrays, g: Array, needed: tuple[bool, ...]
    ) -> tuple[Array, tuple[Array, ...]]:
        losses, gradient = backend.value_and_gradient(self.call, arrays, g, summed=True)
        return losses, (gradient,)

    def whole(self, backend: Torch, arrays: Arrays) -> Array:
        return backend.value(self.call, arrays)


class _WithGradient(torch.autograd.Function):
    """A loss of logits, or of a linear layer. If it is reduced, to one number, its gradient is made with the value.

    That one pass is 1.4 to 2.2 times as fast as two. `cotangent` is the derivative of the number by each loss; None if
    there are several. The backward hands the gradient over as it stands, or scales it there, so that nothing but the
    gradient itself takes memory; a second backward computes it again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        work: Any,
        reduce: Callable[[torch.Tensor], torch.Tensor],
        cotangent: torch.Tensor | None,
        *arrays: torch.Tensor | None,
    ) -> torch.Tensor:
        ctx.work, ctx.reduce, ctx.needed = work, reduce, ctx.needs_input_grad[3:]
        ctx.save_for_backward(cotangent, *arrays)
        losses, ctx.gradients = backend.run_blocks(work, arrays, cotangent, ctx.needed)
        return reduce(losses)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (cotangent, *arrays), (gradients, ctx.gradients) = ctx.saved_tensors, (ctx.gradients, None)
        taping = torch.is_grad_enabled()
        if not torch.compiler.is_compiling() and (taping or _batched(g) or not _plain()):
            # To be differentiated once more, or for several cotangents at once.
            with torch.enable_grad():
                value = ctx.reduce(ctx.work.whole(backend, arrays))
                wanted = [a for a, need in zip(arrays, ctx.needed, strict=True) if need]
                again = iter(torch.autograd.grad(value, wanted, g, create_graph=taping))
            return None, None, None, *(next(again) if need else None for need in ctx.needed)
        if gradients is None:
            one = g.to(ctx.work.call.dtype) if cotangent is None else cotangent
            gradients = backend.run_blocks(ctx.work, arrays, one, ctx.needed)[1]
        if cotangent is not None:
            gradients = tuple(d if d is None else _scaled(d, g) for d in gradients)
        own = (d if d is None else d.to(a.dtype) for d, a in zip(gradients, arrays, strict=False))
        return None, None, None, *own, *(None for _ in arrays[len(gradients) :])


class _Function(torch.autograd.Function):
    """A function of one plain tensor, whose exponentials are kept and become its gradient.

    That takes the memory that torch's own keep the result in. A second backward computes them again.
    """

    @staticmethod
    def forward(ctx: Any, call: Call, x: torch.Tensor) -> torch.Tensor:
        ctx.call = call
        ctx.save_for_backward(x)
        layout = backend.rows(call, x)
        rows = layout.of(x)
        forward = call.kernel.forward(_InPlace(call.dtype, torch.empty_like(rows)), rows)
        vjp: Any = forward.vjps[0]
        ctx.vjp = lambda g: layout.back(vjp(layout.of(g)), True)  # called once
        return layout.back(forward.value, True)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        vjp, ctx.vjp = ctx.vjp, None
        if vjp is None or torch.is_grad_enabled() or _batched(g) or not _plain():
            return None, *_vjps(ctx.call, g, ctx.saved_tensors, (True,))
        return None, vjp(g)


class Torch(InPlaceBackend):
    def context(self, x: Array) -> AbstractContextManager[Any]:
        return NO_CONTEXT

    def owns(self, x: Any) -> bool:
        return isinstance(x, torch.Tensor) and type(x).__name__ != "DTensor"

    def refusal(self, x: torch.Tensor) -> Exception | None:
        if x.is_nested:
            return TypeError("a nested tensor: pass a padded one, torch.nested.to_padded_tensor, and where=")
        if x.layout is not torch.strided:
            return TypeError(f"a tensor of layout {x.layout}: pass its to_dense()")
        if type(x) is not torch.Tensor and isinstance(x, torch.masked.MaskedTensor):
            return TypeError("a masked tensor: pass its get_data(), and where=get_mask() for the samples that count")
        if x.dtype.itemsize == 1 and x.dtype.is_floating_point:
            return TypeError(f"of {x.dtype}, of which torch has few operations: cast it first, for example to float32")
        return TypeError("a quantized tensor: pass its dequantize()") if x.is_quantized else None

    def result_dtype(self, x: torch.Tensor) -> Any:
        half = x.dtype in (torch.float16, torch.bfloat16)
        # As torch's own losses under torch.autocast.
        return torch.float32 if half and _autocasts(x.device.type) else x.dtype

    def index_dtype(self, x: Array) -> Any:
        return torch.int64  # the only one that torch indexes with

    def kind(self, dtype: Any) -> str | None:
        # What is asked most, without array-api-compat's detours.
        return _KINDS.get(dtype) or super().kind(dtype)

    def astype(self, x: torch.Tensor, dtype: Any) -> torch.Tensor:
        if x.dtype == dtype:
            return x
        return x.float() if dtype is torch.float32 else x.to(dtype=dtype)  # 1 us and 0.6 us less than `x.to(dtype)`

    def can_inspect(self, *arrays: Array | None) -> bool:
        return _plain() and _on_cpu(*arrays)

    def is_constant(self, x: torch.Tensor) -> bool:
        return self.can_inspect(x) and not self.on_tape(x)

    def on_tape(self, *arrays: Array | None) -> bool:
        return not _plain() or taped(*arrays) or torch.autograd.forward_ad._current_level >= 0

    def comparable(self, x: torch.Tensor) -> torch.Tensor:
        # torch 2.13 compares no integers of these dtypes; what is too large becomes negative: out of range as well.
        return x.to(torch.int64) if x.dtype in (torch.uint16, torch.uint32, torch.uint64) else x

    def span(self, x: torch.Tensor) -> tuple[float, float]:
        lowest, highest = torch.aminmax(x)
        return lowest.item(), highest.item()

    def integer(self, x: torch.Tensor) -> int:
        return int(x.numpy())  # torch converts no uint64 that is large

    def sum(self, x: torch.Tensor, axis: tuple[int, ...] | None = None) -> torch.Tensor:
        return x.sum(axis, dtype=torch.float64 if x.device.type != "mps" else x.dtype)

    # ---------------------------------------------------------------------------------------------------------------
    # Rows of plain tensors

    def row_ops(self, call: Call, out: Array | None) -> InPlace:
        return _InPlace(call.dtype, out)

    def strides(self, x: torch.Tensor) -> tuple[int, ...]:
        return x.stride()

    def contiguous(self, x: torch.Tensor) -> bool:
        return x.is_contiguous()

    def block_size(self, x: torch.Tensor, *, placed: bool) -> int:
        size = max(4, x.dtype.itemsize)
        if not x.is_cpu:
            return _DEVICE_BLOCK_BYTES // size
        if x.ndim == 1:
            return _FLAT_BYTES // size
        return (_GRADIENT_BLOCK_BYTES if placed else _BLOCK_BYTES) // size

    # ---------------------------------------------------------------------------------------------------------------
    # To run a kernel

    def ops(self, call: Call) -> Ops:
        return _Traced(xp, call.dtype, call.axis)

    def untaped(self, call: Call, arrays: Arrays, *, summed: bool = False) -> torch.Tensor:
        """The kernel's value, without its own derivatives."""
        if _plain():
            value: torch.Tensor = super().value(call, arrays, summed=summed)
            return value
        return self.forward(call, arrays).value  # type: ignore[no-any-return]

    def value(self, call: Call, arrays: Arrays, *, summed: bool = False) -> torch.Tensor:
        if _differentiates_operations() or not is_static(call.kernel):
            return self.forward(call, self.differentiable(call, arrays)).value  # type: ignore[no-any-return]
        # Nothing to differentiate: no autograd.Function, which torch.compile would call with one argument too many.
        if not taped(*arrays) and not torch._C._are_functorch_transforms_active():
            return self.untaped(call, arrays, summed=summed)
        if len(arrays) == 1 and call.kernel.keeps_classes and _plain() and arrays[0].dtype == call.dtype:
            return _Function.apply(call, *arrays)  # type: ignore[no-any-return, no-untyped-call]
        return _Apply.apply(call, *arrays)  # type: ignore[no-any-return, no-untyped-call]

    def value_and_gradient(
        self, call: Call, arrays: Arrays, cotangent: Array, *, summed: bool = False, overwrite: bool = False
    ) -> tuple[Array, Array]:
        if not _plain() or taped(cotangent, *arrays) or not is_static(call.kernel):
            return super(InPlaceBackend, self).value_and_gradient(call, arrays, cotangent)
        return super().value_and_gradient(call, arrays, cotangent, summed=summed, overwrite=overwrite)

    def product_dtype(self, x: torch.Tensor, weight: torch.Tensor) -> Any:
        dtype = torch.promote_types(x.dtype, weight.dtype)
        # Casts of the whole weight, where autocast would cast it for each block.
        cast = dtype != torch.float64 and _autocasts(x.device.type)
        return torch.get_autocast_dtype(x.device.type) if cast else dtype

    def runs_blocks(self, layer: Arrays, others: Arrays) -> bool:
        if torch.compiler.is_compiling():
            # Not if the program leaves the process, or has a transform of torch.func.
            leaves = torch.compiler.is_exporting() or torch._C._are_functorch_transforms_active()
            return not taped(*others) and not leaves
        return super().runs_blocks(layer, others)

    def run_blocks(
        self, blocks: Any, arrays: Arrays, g: Array | None, needed: tuple[bool, ...] = (True, True, True)
    ) -> tuple[Array, Any]:
        if torch.compiler.is_compiling() and not taped(*arrays):
            from arrayloss._backends import torch_op

            return torch_op.run(blocks, arrays, g, needed)
        return super().run_blocks(blocks, arrays, g, needed)

    def product(self, a: torch.Tensor, b: torch.Tensor, scratch: torch.Tensor | None) -> torch.Tensor:
        return super().product(a, b, None if taped(a, b) else scratch)  # type: ignore[no-any-return]

    def linear(self, blocks: Any, arrays: Arrays, *, summed: bool) -> torch.Tensor:
        if taped(*arrays[:3]):
            one = torch.ones((), dtype=blocks.call.dtype, device=arrays[0].device) if summed else None
            reduce = self.sum if summed else _same
            return _WithGradient.apply(blocks, reduce, one, *arrays)  # type: ignore[no-any-return, no-untyped-call]
        return super().linear(blocks, arrays, summed=summed)  # type: ignore[no-any-return]

    def add_product(self, total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if total.dtype == b.dtype:
            total.addmm_(a, b)
            return total
        return super().add_product(total, a, b)  # type: ignore[no-any-return]

    def reduced(
        self, call: Call, arrays: Arrays, reduce: Callable[[Array], Array], cotangent: Callable[[], Array]
    ) -> Array:
        x, *others = arrays
        alone = taped(x) and not taped(*others) and x.dtype == call.dtype
        if alone and _plain() and not _differentiates_operations() and is_static(call.kernel):
            g = cotangent()
            if not g.requires_grad:
                return _WithGradient.apply(_Whole(call), reduce, g, *arrays)  # type: ignore[no-untyped-call]
        return reduce(self.value(call, arrays, summed=True))


backend = Torch(xp)
