"""PyTorch: one autograd function for every kernel; plain tensors in blocks, in place."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch
from array_api_compat import torch as xp

from arrayloss._kernels import Evaluated, LabelLoss, leaves_label_out
from arrayloss._libraries.generic import Library, remembered, summing
from arrayloss._modes import Array, ComparedLabels, Eager, IndexedLabels, Traced
from arrayloss._rows import Arrays, Work, in_blocks, whole

_CPU_BLOCK_BYTES = 2 * 1024 * 1024
# Of rows of one number, and where the exponentials are written to their place: an operation on two threads takes 10 us
# before it starts, and a gather or a scatter of less than 32768 rows takes one thread.
_CPU_LARGE_BYTES = 2 * _CPU_BLOCK_BYTES
_CPU_PLACED_BYTES = 4 * _CPU_BLOCK_BYTES
# Up to here, they are written in one block.
_CPU_WHOLE_BYTES = 16 * _CPU_BLOCK_BYTES
_DEVICE_BLOCK_BYTES = 256 * 1024 * 1024
# Elements up to which what starts sooner is done sooner: `max`, 0.5 us before `amax`.
_FEW = 1 << 12
# Elements from which a sum in float64 is folded first.
_FOLDED = 1 << 19
# The integers that have the order of positive numbers, and one half among them.
_INTEGERS: dict[torch.dtype, tuple[torch.dtype, int]] = {
    dtype: (integer, int(torch.tensor(0.5, dtype=dtype).view(integer)))
    for dtype, integer in (
        (torch.float16, torch.int16),
        (torch.bfloat16, torch.int16),
        (torch.float32, torch.int32),
        (torch.float64, torch.int64),
    )
}


def _plain() -> bool:
    """Whether tensors are just tensors: no compiler traces, and no torch.func transform wraps them.

    The flag is private, and the one that `torch.autograd.Function.apply` itself asks (torch/autograd/function.py).
    """
    return not torch.compiler.is_compiling() and not torch._C._are_functorch_transforms_active()


# Loops in both, where a generator takes 1 us.


def _taped(*arrays: Array | None) -> bool:
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


class _Traced(Traced):
    def take(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        # array-api-compat's take_along_axis fixes the batch size of a program with dynamic shapes.
        return x.gather(1, labels)


class _Taped(_Traced):
    def take(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = _Taken.apply(x, labels)  # type: ignore[no-untyped-call]
        return made


class _Taken(torch.autograd.Function):
    """`gather` of one element a row, of which the tape keeps the shape alone.

    For `log_softmax` its gradient says where it is not 0: that takes two passes over all of it less.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        ctx.shape = x.shape
        # Nobody else is to find an attribute on a gradient.
        ctx.says = x.grad_fn is not None and x.grad_fn.name() == f"{_Prepared.__name__}Backward"
        ctx.save_for_backward(labels)
        return x.gather(1, labels)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, None]:
        (labels,) = ctx.saved_tensors
        zeros = g.new_zeros(ctx.shape)
        if torch.is_grad_enabled():
            return zeros.scatter(1, labels, g), None
        zeros.scatter_(1, labels, g)
        if ctx.says:
            zeros.taken = labels, zeros._version  # type: ignore[attr-defined]
        return zeros, None


def _taken(g: torch.Tensor) -> torch.Tensor | None:
    """The labels that `g` is 0 but at, where it is known to be: such a gradient, which nothing has been added to."""
    labels, version = getattr(g, "taken", (None, -1))
    return labels if version == g._version else None


class _Compiled(_Traced):
    """For torch.compile, whose C++ reads what a reduction or a foreign operation wrote, and computes all else anew.

    A number of a row is computed for every 16 of its elements, and the backward computes those of the forward again.
    """

    # On a CPU it adds one vector after another to 16 sums: 1000 equal terms lose 10 units in the last place, 32000 180.
    _TERMS = 256

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        n = x.shape[1]
        if x.device.type != "cpu" or n <= self._TERMS:
            return torch.sum(x, 1, keepdim=True)
        if x.dtype != torch.float64:
            # In the loop that makes the terms, which pieces of a row would not be.
            return torch.sum(x, 1, keepdim=True, dtype=torch.float64).to(x.dtype)
        whole = n // self._TERMS * self._TERMS
        pieces = torch.reshape(x[:, :whole], (x.shape[0], n // self._TERMS, self._TERMS))
        return self.sum(torch.sum(pieces, 2)) + torch.sum(x[:, whole:], 1, keepdim=True)

    def positions(self, classes: int, labels: torch.Tensor) -> torch.Tensor:
        # Int32, of which twice as many fit a vector. An arange is put together element by element, for every vector
        # anew; a cummax, on a CPU, is not the compiler's work, and is read.
        positions = torch.arange(classes, dtype=torch.int32, device=labels.device)
        return positions.cummax(0).values if labels.device.type == "cpu" else positions

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

    def log_ratio(
        self, others: Array, e: Array, x: Array, base: Array, more: Array, coefficient: Array | None
    ) -> Array:
        return super().log_ratio(others, e, x, self.at_most(base), more, coefficient)


class _ScatteredLabels(ComparedLabels):
    """The label's number is written over what is there."""

    def put(self, e: torch.Tensor, at_label: torch.Tensor) -> torch.Tensor:
        """`e` with `at_label` at the label."""
        return torch.scatter(e, 1, self._labels, at_label)


class _Keeping(_Compiled):
    """For a gradient that a compiled backward makes of the exponentials of the forward.

    What the forward keeps is the compiler's choice (torch/_functorch/partitioners.py). It would rather make the
    exponentials once more of the logits, which is most of the time that the loss takes; but what it does not know how
    to fuse, as a scatter, it doesn't do again. What that keeps lacks one number a row of the gradient, which is written
    over it.
    """

    def labels(self, x: torch.Tensor, labels: torch.Tensor) -> ComparedLabels:
        return _ScatteredLabels(self, x, labels)

    def pull_label(
        self, labels: Any, e: torch.Tensor, total: torch.Tensor, others: torch.Tensor, g: torch.Tensor
    ) -> torch.Tensor:
        # Times -g / total, as the exponentials are, this is g others / total.
        shares, factor = self.shares(labels.put(e, -others), total, -g)
        made: torch.Tensor = shares * factor
        return made


class _Labels(IndexedLabels):
    """torch's own gather and scatter, 3 times faster than indexing."""

    def __init__(self, labels: torch.Tensor) -> None:
        self._column = labels

    def take(self, x: torch.Tensor) -> torch.Tensor:
        return x.gather(1, self._column)

    def drop(self, e: torch.Tensor) -> torch.Tensor:
        return e.scatter_(1, self._column, 0)

    def spread(self, e: torch.Tensor, others: torch.Tensor, at_label: torch.Tensor) -> torch.Tensor:
        return self.put(e.mul_(others), at_label)

    def put(self, e: torch.Tensor, at_label: torch.Tensor) -> torch.Tensor:
        return e.scatter_(1, self._column, at_label)


class _Eager(Eager):
    def __init__(self, *, dtype: Any, looks: bool) -> None:
        super().__init__(xp, dtype, looks=looks)
        self.one = torch.ones((), dtype=dtype, device="cpu")
        self._zero = torch.zeros((), dtype=dtype, device="cpu")

    def least(self, x: torch.Tensor) -> float:
        return (x.min() if x.numel() <= _FEW else x.amin()).item()

    def most(self, x: torch.Tensor) -> float:
        return (x.max() if x.numel() <= _FEW else x.amax()).item()

    def span(self, x: torch.Tensor) -> tuple[float, float]:
        return library.span(x)

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(1, True)

    def total(self, x: torch.Tensor) -> torch.Tensor:
        return library.sum(x)

    def labels(self, x: torch.Tensor, labels: torch.Tensor) -> _Labels:
        return _Labels(labels)

    def part(self, e: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        # One number times e, which is not out of range for it, takes no operation of its own.
        if not self.looks or g.numel() != 1 or not abs(factor := g.item()) <= 1:
            made: torch.Tensor = super().part(e, g)
            return made
        for some in torch.split(e, 2 * self._CACHED) if e.numel() > 2 * self._CACHED else (e,):
            torch.addcdiv(self._zero, some, some + 1, value=factor, out=some)
        return e

    def joint(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        c = a + b
        c.addcmul_(a, b)
        return c

    # x - 2 x y, one operation for what takes two; without an error where x is finite.

    def turned(self, x: torch.Tensor, answers: torch.Tensor, room: torch.Tensor | None = None) -> torch.Tensor:
        return torch.addcmul(x, x, answers, value=-2, out=room)

    def turn(self, x: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
        x.addcmul_(x, answers, value=-2)
        return x

    def alone(self, labels: Any, x: torch.Tensor, at_label: torch.Tensor) -> torch.Tensor:
        # A third of the time that `e[...] = 0` takes.
        room = self._room(x)
        e = torch.zeros(x.shape, dtype=x.dtype, device=x.device) if room is None else room.zero_()
        made: torch.Tensor = labels.put(e, at_label)
        return made

    def scaled(self, e: torch.Tensor, factor: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        return torch.addcmul(g, e, factor, out=e)

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


def _pulled(kernel: Any, g: torch.Tensor, arrays: Arrays, needed: tuple[bool, ...]) -> tuple[torch.Tensor | None, ...]:
    """What the kernel pulls the cotangent `g` back to, for each input that it is needed for."""
    # A tape (create_graph=True) needs operations that it can differentiate: out of place, on whole arrays.
    mode = library.mode(kernel.dtype, g, *arrays)
    if isinstance(mode, _Compiled) and _keeps_exponentials(kernel, arrays[0]):
        mode = _Keeping(library.xp, kernel.dtype)
    # A compiled backward has no second one, and shares what it computes with the forward if that reads the same.
    twice = not isinstance(mode, Eager) and not torch.compiler.is_compiling()

    room = library.room(arrays[0], arrays[0].dtype) if needed[0] and isinstance(mode, Eager) else None

    def work(x: Array, g: Array, room: Array | None, *others: Array | None) -> tuple[Array | None, ...]:
        coefficient = others[0] if others else None
        if coefficient is not None and twice:
            # What counts for nothing must not reach the second derivative either: 0 * nan there is out of sight.
            nothing = (coefficient == 0) & ~torch.isfinite(x.amax(1, keepdim=True))
            x = torch.where(nothing, torch.zeros_like(x), x)
        rows = (x, *others)
        pulls = kernel(mode.into(gradient=room), *rows).pulls
        g = mode.real(g)
        # The pull of the logits may write over what the others read: it comes last.
        gradients = [pulls[i](g).to(rows[i].dtype) if needed[i] else None for i in reversed(range(len(needed)))]
        if room is not None:
            gradients[-1] = library.placed(gradients[-1], room)
        return tuple(reversed(gradients))

    x, *others = arrays
    gradient, *rest = library.run(mode, work, (x, g, room, *others), placed=room is not None)
    return gradient if room is None else room, *rest


def _linear(kernel: Any) -> bool:
    """Whether a kernel has to do with one element of each row alone: torch's tape has its derivatives right."""
    return isinstance(kernel, LabelLoss) and kernel.linear


def _keeps_exponentials(kernel: Any, x: Array) -> bool:
    """Whether a compiled forward keeps exponentials for its backward: of what has one number a row, and shares."""
    # Of half the bytes, the logits are less to keep; an accelerator moves memory for longer than it computes.
    return x.device.type == "cpu" and x.dtype == kernel.dtype and leaves_label_out(kernel)


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
        losses, ctx.gradient = library.gradient(kernel, arrays, cotangent, summed=True)
        ctx.save_for_backward(cotangent, *arrays)
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
        if not library.looks(g) or g.item() != 1:
            gradient = library.mode(ctx.kernel.dtype, g).still(g, gradient.mul_(g))
        return None, None, None, gradient, *kept


class _Prepared(torch.autograd.Function):
    """A kernel of one plain tensor whose pull writes over its exponentials: they are kept, and become the gradient.

    That is the memory that torch's own keep the result in. A second backward computes them again.
    """

    @staticmethod
    def forward(ctx: Any, kernel: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.kernel = kernel
        ctx.save_for_backward(x)
        value: torch.Tensor
        value, ctx.pull = library.prepared(kernel, x)
        return value

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        arrays = ctx.saved_tensors
        pull, ctx.pull = ctx.pull, None
        if pull is None or torch.is_grad_enabled():
            return None, *_pulled(ctx.kernel, g, arrays, (True,))
        return None, pull(g)


_QUIET = nullcontext()


@lru_cache(maxsize=16)
def _eager(dtype: Any, looks: bool) -> Traced:
    return _Eager(dtype=dtype, looks=looks)


class Torch(Library):
    def quiet(self) -> AbstractContextManager[Any]:
        return _QUIET

    def owns(self, x: Any) -> bool:
        return isinstance(x, torch.Tensor)

    def compute_dtype(self, *dtypes: Any) -> Any:
        # torch.compile doesn't trace result_type of dtypes.
        return torch.float64 if torch.float64 in dtypes else torch.float32

    def index_dtype(self, x: Array) -> Any:
        return torch.int64  # the only one that torch indexes with

    def isdtype(self, dtype: Any, kind: str | tuple[str, ...]) -> bool:
        # What is asked most, without array-api-compat's detours.
        if kind == "real floating":
            return bool(dtype.is_floating_point)
        return bool(xp.isdtype(dtype, kind))

    def kept(self, f: Callable[..., Any], *signature: Any) -> Any:
        # torch.compile warns of a cache.
        return f(*signature) if torch.compiler.is_compiling() else remembered(f, *signature)

    def astype(self, x: torch.Tensor, dtype: Any) -> torch.Tensor:
        if x.dtype == dtype:
            return x
        return x.float() if dtype is torch.float32 else x.to(dtype=dtype)  # 1 us and 0.6 us less than `x.to(dtype)`

    def span(self, x: torch.Tensor) -> tuple[float, float]:
        lowest, highest = torch.aminmax(x)
        return lowest.item(), highest.item()

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_compiling():
            return x.to(torch.float64).sum()
        if x.numel() > _FOLDED and _plain() and not _taped(x):
            # torch makes a copy in float64 to sum that; of sums of four, rounded twice, the copy is a quarter.
            flat = x.reshape(-1)
            n = flat.shape[0] // 4
            first, second, third, fourth = (flat[i * n : (i + 1) * n] for i in range(4))
            x = torch.cat(((first + second) + (third + fourth), flat[4 * n :]))
        return x.sum(dtype=torch.float64)

    def looks(self, *arrays: Array | None) -> bool:
        return _plain() and _on_cpu(*arrays)

    def answers(self, y: torch.Tensor) -> tuple[bool, bool]:
        if not y.is_floating_point():
            lowest, highest = self.span(y)
            inside = lowest >= 0 and highest <= 1
            return inside, inside
        # The step of y is y for 0 and 1 alone. (A comparison of many tensors takes one thread, and longer.)
        if y.numel() <= _FEW and torch.equal(torch.heaviside(y, y), y):
            return True, True
        # Not comparisons, which take 6 times as long. Negative outside of [0, 1], and 0 at its ends alone, however
        # small y is; and as integers, of which the extremes take half the time. A nan is larger than any number.
        integer, half = _INTEGERS[y.dtype]
        inside = labels = True
        for some in torch.split(y, _CPU_LARGE_BYTES // 4) if y.nbytes > _CPU_LARGE_BYTES else (y,):
            past = torch.addcmul(some, some, some, value=-1)
            lowest, highest = self.span(past.view(integer))
            if lowest < 0:
                # Of -0.0, which is 0, the integer is the least.
                lowest, highest = self.span((past + 0).view(integer))
            inside = inside and lowest >= 0 and highest <= half
            labels = labels and highest == 0
        return inside, inside and labels

    def differentiates(self, *arrays: Array | None) -> bool:
        return not _plain() or _taped(*arrays)

    def mode(self, dtype: Any, *arrays: Array | None) -> Traced:
        if _plain():
            return _Taped(self.xp, dtype) if _taped(*arrays) else _eager(dtype, _on_cpu(*arrays))
        return (_Compiled if torch.compiler.is_compiling() else _Traced)(self.xp, dtype)

    def run(self, mode: Traced, work: Work, arrays: Arrays, *, placed: bool = False) -> tuple[Array | None, ...]:
        if not isinstance(mode, Eager):
            return whole(self.xp, work, arrays)
        x = arrays[0]
        if x.numel() <= _FEW or (placed and x.is_cpu and x.nbytes <= _CPU_WHOLE_BYTES):
            return work(*arrays)
        size = _DEVICE_BLOCK_BYTES
        if x.is_cpu:
            size = _CPU_LARGE_BYTES if x.shape[1] == 1 else _CPU_PLACED_BYTES if placed else _CPU_BLOCK_BYTES
        return in_blocks(self.xp, work, arrays, size)

    def order(self, x: torch.Tensor) -> tuple[int, ...] | None:
        if torch.compiler.is_compiling() or not _plain() or x.is_contiguous():
            return None
        order = tuple(sorted(range(x.ndim), key=lambda d: x.stride(d), reverse=True))
        return order if x.permute(order).is_contiguous() else None

    def room(self, x: Array, dtype: Any) -> Array | None:
        if not _plain() or _taped(x) or x.device.type != "cpu" or x.nbytes <= _CPU_LARGE_BYTES:
            return None
        return torch.empty(x.shape, dtype=dtype)

    def summing(self, mode: Traced, arrays: Arrays) -> Traced:
        return summing(mode, arrays) if mode.looks else mode

    def value(self, kernel: Any, arrays: Arrays, *, summed: bool = False) -> torch.Tensor:
        """The kernel's value, without a tape."""
        value: torch.Tensor = super().apply(kernel, arrays, summed=summed)
        return value

    def apply(self, kernel: Any, arrays: Arrays, *, summed: bool = False) -> Array:
        # Nothing to differentiate: no function either, which torch.compile calls with one argument too many then.
        plain = not _taped(*arrays) and not torch._C._are_functorch_transforms_active()
        if plain or (_linear(kernel) and not torch.compiler.is_compiling()):
            return self.value(kernel, arrays, summed=summed)
        x, *others = arrays
        if not others and kernel.keeps_exponentials and self.looks(x) and x.dtype == kernel.dtype:
            return _Prepared.apply(kernel, x)  # type: ignore[no-untyped-call]
        return _Apply.apply(kernel, *arrays)  # type: ignore[no-untyped-call]

    def cross_entropy(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor | None:
        # Of a handful of numbers our own dozen operations take ten times as long as torch's one. In float64 that is
        # right to the last bit of a float32, unless next to nothing is left of the loss.
        if (
            not self.looks(logits)
            or type(logits) is not torch.Tensor
            or type(target) is not torch.Tensor
            or logits.dtype != torch.float32
            or target.dtype != torch.int64
            or logits.ndim != 2
            or target.shape != logits.shape[:1]
            or not 0 < logits.numel() <= _FEW
            or not target.is_cpu
            or _taped(logits)
        ):
            return None
        try:
            value = torch.nn.functional.cross_entropy(logits.double(), target)
        except IndexError:
            return None  # a label that is out of range: the engine says which
        return value.float() if 1e-6 < value.item() < math.inf else None

    def prepared(self, kernel: Any, x: Array) -> tuple[Array, Callable[[Array], Array]]:
        """The kernel's value, and what pulls a cotangent back, once."""
        mode = self.mode(kernel.dtype, x)
        value, gradient = self.room(x, kernel.dtype), self.room(x, x.dtype)
        blocks: list[Evaluated] = []

        def work(x: Array, value: Array | None, gradient: Array | None) -> tuple[Array | None]:
            evaluated = kernel(mode.into(value=value, gradient=gradient), x)
            blocks.append(evaluated)
            return (self.placed(evaluated.value, value),)

        def pull(g: Array) -> Array:
            # The blocks are those of `x`.
            left = iter(blocks)

            def work(g: Array, gradient: Array | None, labels: Array | None) -> tuple[Array | None]:
                evaluated = next(left)
                if labels is None or evaluated.pull_label is None:
                    (pull,) = evaluated.pulls
                    assert pull is not None  # every kernel has the derivative by its first input
                    return (self.placed(pull(g), gradient),)
                return (self.placed(evaluated.pull_label(mode.labels(g, labels), g.gather(1, labels)), gradient),)

            (made,) = self.run(mode, work, (g, gradient, _taken(g)), placed=gradient is not None)
            return made if gradient is None else gradient

        (made,) = self.run(mode, work, (x, value, gradient), placed=value is not None)
        return made if value is None else value, pull

    def apply_reduced(
        self, kernel: Any, arrays: Arrays, reduced: Callable[[Array], Array], cotangent: Callable[[], Array]
    ) -> Array:
        x, *others = arrays
        alone = _taped(x) and _plain() and not _taped(*others)
        if alone and x.dtype == kernel.dtype and not _linear(kernel):
            g = cotangent()
            if not g.requires_grad:
                return _Prepaid.apply(kernel, reduced, g, *arrays)  # type: ignore[no-untyped-call]
        return reduced(self.apply(kernel, arrays, summed=True))


library = Torch(xp)
