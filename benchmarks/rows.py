"""The rows of the table: what is measured, beside what, and the most that the ratio may be."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from operator import attrgetter
from typing import Any, NamedTuple, cast

import numpy as np

Call = Callable[[], object]
Loss = Callable[..., Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Contest:
    """Two calls that compute the same, and what their time is compared with.

    Attributes
    ----------
    ours, theirs
        The calls. They return when the work is done, also on a device.
    passing
        One pass over as many logits, of std 1: an exponential of each on a CPU, a copy on a device.
    bytes
        The fewest bytes that must be moved: the inputs are read once, the gradient is written once.
    pause
        Seconds to wait before each call.
    """

    ours: Call
    theirs: Call
    passing: Call
    bytes: int
    pause: float = 0.0


class Peer(NamedTuple):
    """Another library's loss: its name in the table, the module it needs, and a function that returns it."""

    name: str
    module: str
    make: Callable[[], Loss]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    work, peer, shape
        What is computed, beside what, and the shape of the logits. A peer without a module is a call of our own.
    library
        Where our call runs: "torch", or "torch:cuda" for a device.
    bounds
        For each `std` that the table has: the most that ours / theirs may be, or for memory, the most bytes.
    contest
        Makes the two calls, from the row and the package to measure.
    memory
        True where memory is measured, not time.
    dtype
        That of the logits.
    std
        The standard deviation of the logits, as `logits` reads it.
    """

    work: str
    library: str
    peer: Peer
    shape: Shape
    bounds: Mapping[str, float]
    contest: Callable[[Row, Any], Contest]
    memory: bool = False
    std: str = "1"
    dtype: str = "float32"

    @property
    def device(self) -> str:
        """The device that our call runs on, as its library calls it; empty for a CPU."""
        return "cuda" if self.library == "cupy" else self.library.partition(":")[2]

    @property
    def name(self) -> str:
        """The name to select the row by."""
        return f"{self.work} {'x'.join(map(str, self.shape))}"

    @property
    def bound(self) -> float | None:
        """The bound at this `std`, if there is one."""
        return self.bounds.get(self.std)

    def missing(self) -> str | None:
        """Why the row can't be measured here, or None."""
        name, device = self.library.partition(":")[0], self.device
        for module in filter(None, (name, self.peer.module)):
            if importlib.util.find_spec(module) is None:
                return f"{module} is not installed"
        if device != "cuda":
            return None
        library: Any = importlib.import_module(name)
        try:
            there = library.devices("cuda") if name == "jax" else library.cuda.is_available()
        except RuntimeError:
            there = False
        return None if there else "no CUDA device"


def dry(row: Row) -> Row:
    """The row of a device on the CPU, with few logits: the way that it takes, not what it measures."""
    return replace(
        row,
        work=row.work.replace(":cuda", ":cpu"),
        library=row.library.replace(":cuda", ":cpu"),
        shape=tuple(min(n, 40) for n in row.shape),
        bounds={},
    )


# ---------------------------------------------------------------------------------------------------------------
# Inputs


# From here on the same numbers come again: to draw them would take longer than to measure a device.
_DRAWN = 2**26


@lru_cache(maxsize=1)
def _normal(shape: Shape) -> Any:
    size = math.prod(shape)
    x = np.random.default_rng(0).standard_normal(min(size, _DRAWN), dtype=np.float32)
    return np.resize(x, shape) if size > _DRAWN else x.reshape(shape)


def logits(shape: Shape, std: str = "1") -> Any:
    """Logits N(0, std) in float32. "3+60" means std 3, and one logit in the whole array is 60."""
    width, _, outlier = std.partition("+")
    x = _normal(shape) * np.float32(width)
    if outlier:
        x.reshape(-1)[x.size // 2] = float(outlier)
    return x


def labels(shape: Shape, axis: int = -1) -> Any:
    """One class index for each sample."""
    samples = tuple(n for i, n in enumerate(shape) if i != axis % len(shape))
    return np.random.default_rng(0).integers(0, shape[axis], size=samples)


def answers(shape: Shape) -> Any:
    """Binary targets, 0 or 1, as float32."""
    return np.random.default_rng(0).integers(0, 2, size=shape).astype(np.float32)


# ---------------------------------------------------------------------------------------------------------------
# Ways to call a loss: each takes the loss, NumPy inputs and the device, and returns a call


def eager(f: Loss, x: Any, t: Any, device: str) -> Call:
    return lambda: f(x, t)


def torch_value(f: Loss, x: Any, t: Any, device: str) -> Call:
    a, b = _tensors(x, t, device=device)
    return lambda: f(a, b)


def torch_gradient(f: Loss, x: Any, t: Any, device: str) -> Call:
    import torch

    a, b = _tensors(x, t, device=device)
    a.requires_grad_(True)
    return _waiting(lambda: torch.autograd.grad(f(a, b), a), device, torch.cuda.synchronize)


def torch_compiled(f: Loss, x: Any, t: Any, device: str) -> Call:
    import torch

    return torch_gradient(torch.compile(f, fullgraph=True), x, t, device)


def jax_value(f: Loss, x: Any, t: Any, device: str) -> Call:
    import jax

    target = t.astype(np.int32) if t.dtype.kind == "i" else t
    a, b = jax.device_put((x, target), jax.devices(device)[0])
    jitted: Any = jax.jit(f)
    ready: Any = jax.block_until_ready
    return lambda: ready(jitted(a, b))


def jax_gradient(f: Loss, x: Any, t: Any, device: str) -> Call:
    import jax

    return jax_value(jax.value_and_grad(f), x, t, device)


def cupy_value(f: Loss, x: Any, t: Any, device: str) -> Call:
    import cupy

    a, b = cupy.asarray(x), cupy.asarray(t)
    return _waiting(lambda: f(a, b), "cuda", cupy.cuda.Device().synchronize)


def _passing(row: Row) -> Call:
    name, device = row.library.partition(":")[0], row.device
    if device:
        return _copying(row, name, device)
    x = logits(row.shape)  # at std 30, many exponentials overflow or are slow subnormals
    if name == "torch":
        import torch

        (a,) = _tensors(x)
        room = torch.empty_like(a)
        return lambda: torch.exp(a, out=room)
    if name == "jax":
        import jax.numpy as jnp

        return jax_value(lambda a, _: jnp.exp(a), x, x[:1], "cpu")
    buffer = np.empty_like(x)
    return lambda: np.exp(x, out=buffer)


def _copying(row: Row, name: str, device: str) -> Call:
    """A copy of as many numbers on the device, which made them itself."""
    if name == "torch":
        import torch

        a = torch.randn(row.shape, dtype=getattr(torch, row.dtype), device=device)
        room = torch.empty_like(a)
        return _waiting(lambda: room.copy_(a), device, torch.cuda.synchronize)
    if name == "jax":
        import jax

        place, ready = jax.devices(device)[0], cast(Any, jax.block_until_ready)
        b = jax.device_put(jax.random.normal(jax.random.key(0), row.shape, row.dtype), place)
        copied: Any = jax.jit(jax.numpy.copy)
        return lambda: ready(copied(b))
    import cupy

    source = cupy.random.standard_normal(row.shape, dtype=row.dtype)
    copy = cupy.empty_like(source)
    return _waiting(lambda: cupy.copyto(copy, source), "cuda", cupy.cuda.Device().synchronize)


def _rounded(x: Any, dtype: str) -> Any:
    """Numbers of float32 in another of JAX's and torch's dtypes."""
    if dtype == "float32":
        return x
    import ml_dtypes

    return x.astype(getattr(ml_dtypes, dtype))


def _tensors(*arrays: Any, device: str = "cpu") -> list[Any]:
    import torch

    def moved(a: Any) -> Any:
        if a.dtype.name == "bfloat16":  # unknown to torch
            return torch.from_numpy(a.view(np.int16)).to(device, copy=True).view(torch.bfloat16)
        return torch.from_numpy(np.ascontiguousarray(a)).to(device, copy=True)

    return [moved(a) for a in arrays]


def _waiting(call: Call, device: str, synchronize: Call) -> Call:
    """The call; on a device, it also waits until the work is done."""
    return (lambda: (call(), synchronize())) if device == "cuda" else call


# ---------------------------------------------------------------------------------------------------------------
# Our losses (from the package to measure), and the peers


def _value_and_grad(al: Any) -> Loss:
    loss: Loss = al.value_and_grad(al.cross_entropy)
    return loss


def _log_softmax_nll(al: Any) -> Loss:
    return lambda x, t: al.nll_loss(al.log_softmax(x), t)


def _scipy_cross_entropy() -> Loss:
    from scipy.special import log_softmax

    return lambda x, t: -log_softmax(x, axis=-1)[np.arange(len(t)), t].mean()


def _torch_log_softmax_nll() -> Loss:
    import torch.nn.functional as F

    return lambda x, t: F.nll_loss(F.log_softmax(x, -1), t)


def _tutorial_focal() -> Loss:
    """The tutorial's `focal` (shared/tutorial.txt), as it is written there."""
    import torch
    import torch.nn.functional as F

    def focal(s_logits: Any, y: Any, gamma: float = 2) -> Any:
        y = y.type(torch.float32)
        ones_loss = -F.logsigmoid(s_logits) * (torch.sigmoid(-s_logits) ** gamma) * y
        zeros_loss = -F.logsigmoid(-s_logits) * (torch.sigmoid(s_logits) ** gamma) * (1 - y)
        return (ones_loss + zeros_loss).mean()

    return focal


def _torchvision_focal() -> Loss:
    """torchvision.ops.sigmoid_focal_loss, copied: torchvision can't be imported beside every version of torch."""
    import torch
    import torch.nn.functional as F

    def focal(inputs: Any, targets: Any, alpha: float = -1, gamma: float = 2) -> Any:
        p = torch.sigmoid(inputs)
        ce_loss = F.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
        p_t = p * targets + (1 - p) * (1 - targets)
        return (ce_loss * ((1 - p_t) ** gamma)).mean()

    return focal


def _jax_log_softmax_nll() -> Loss:
    import jax
    import jax.numpy as jnp

    return lambda x, t: -jnp.take_along_axis(jax.nn.log_softmax(x), t[:, None], axis=-1).mean()


def _cupy_naive() -> Loss:
    import cupy as cp

    def naive(x: Any, t: Any) -> Any:
        z = x - x.max(axis=1, keepdims=True)
        return -(z - cp.log(cp.exp(z).sum(axis=1, keepdims=True)))[cp.arange(len(t)), t].mean()

    return naive


def _cupy_naive_gradient() -> Loss:
    import cupy as cp

    def naive(x: Any, t: Any) -> Any:
        e = cp.exp(x - x.max(axis=1, keepdims=True))
        p, at = e / e.sum(axis=1, keepdims=True), (cp.arange(len(t)), t)
        loss = -cp.log(p[at]).mean()
        p[at] -= 1
        return loss, p / len(t)

    return naive


def _functional(name: str) -> Peer:
    return Peer(f"F.{name}", "torch", lambda: getattr(importlib.import_module("torch.nn.functional"), name))


def _optax(name: str, function: str) -> Peer:
    def make() -> Loss:
        loss = getattr(importlib.import_module("optax.losses"), function)
        return lambda x, t: loss(x, t).mean()

    return Peer(name, "optax", make)


# ---------------------------------------------------------------------------------------------------------------
# The table

# After a call, torch's OpenMP threads keep a core busy for 3 to 4 ms. NumPy's second thread would have that core.
_UNTIL_TORCH_IS_IDLE = 10e-3
# Of the input of a language model's last layer.
_FEATURES = 1024


def rows(stds: Iterable[str] = ()) -> Iterator[Row]:
    """The table from top to bottom; with `stds`, each row once at each of these, also where it has no bound."""
    seen = list(stds)
    return (replace(row, std=std) for row in _rows() for std in seen or row.bounds)


def _rows() -> Iterator[Row]:
    few, many, short = (4096, 1000), (2048, 32000), (65536, 100)  # the classes of a row
    million, ten = (1_000_000,), (10_000_000,)
    ce, bce, focal = map(attrgetter, ("cross_entropy", "binary_cross_entropy_with_logits", "sigmoid_focal_loss"))
    f_ce, f_bce = _functional("cross_entropy"), _functional("binary_cross_entropy_with_logits")
    f_both = f_ce._replace(name="F.cross_entropy forward + backward")
    scipy = Peer("scipy log_softmax", "scipy", _scipy_cross_entropy)
    optax = _optax("optax integer labels", "softmax_cross_entropy_with_integer_labels")
    tutorial = Peer("the tutorial's focal (torch)", "torch", _tutorial_focal)
    vision = Peer("torchvision's formula", "torch", _torchvision_focal)
    both = "cross_entropy forward + backward"
    bounds: dict[Shape, Any]
    wide = {"1": 0.75, "5": 0.75, "15": 0.85, "30": 1.0, "3+60": 0.75}
    numpy_wide = {"1": 1.7, "5": 1.7, "15": 1.7, "30": 1.2, "3+60": 1.7}

    yield from _line("numpy cross_entropy", ce, eager, scipy, {few: 0.7, many: 0.5, short: 0.8})
    bounds = {few: numpy_wide, many: 0.9, short: numpy_wide}
    yield from _line("numpy cross_entropy value_and_grad", _value_and_grad, eager, f_both, bounds, torch_gradient)
    yield from _line(f"torch {both}", ce, torch_gradient, f_ce, {few: wide, many: 0.75, short: wide})
    yield from _line(f"torch.compile {both}", ce, torch_compiled, f_ce, {few: 1.1, many: 1.1, short: 1.1})
    bounds = {few: 1.3, many: 1.5, short: 1.3}
    yield from _line("jax.jit cross_entropy value + grad", ce, jax_gradient, optax, bounds)
    yield from _line("jax.jit cross_entropy value", ce, jax_value, optax, {few: 1.6, many: 1.6, short: 1.6})

    bounds = {million: 2.0, ten: 0.6}
    yield from _line("numpy sigmoid_focal_loss", focal, eager, tutorial, bounds, torch_value, inputs=answers)
    work = "torch sigmoid_focal_loss forward + backward"
    yield from _line(work, focal, torch_gradient, vision, {million: 1.0, ten: 0.6}, inputs=answers)
    bounds = {million: 2.0, ten: 2.0}
    yield from _line("numpy bce_with_logits", bce, eager, f_bce, bounds, torch_value, inputs=answers)
    work = "torch bce_with_logits forward + backward"
    yield from _line(work, bce, torch_gradient, f_bce, {million: 1.3, ten: 1.3}, inputs=answers)
    peer = _optax("optax", "sigmoid_binary_cross_entropy")
    bounds = {million: 1.0, ten: 1.0}
    yield from _line("jax.jit bce_with_logits value + grad", bce, jax_gradient, peer, bounds, inputs=answers)

    chain = "log_softmax + nll_loss"
    yield from _line(f"numpy {chain}", _log_softmax_nll, eager, scipy, {few: 1.3})
    peer = Peer("torch F.log_softmax + nll_loss", "torch", _torch_log_softmax_nll)
    yield from _line(f"torch {chain} forward + backward", _log_softmax_nll, torch_gradient, peer, {few: 1.3})
    peer = Peer("jax.nn.log_softmax", "jax", _jax_log_softmax_nll)
    yield from _line(f"jax.jit {chain} value + grad", _log_softmax_nll, jax_gradient, peer, {few: 1.3})

    yield from _line("torch small sigmoid_focal_loss", focal, torch_value, tutorial, {(5, 1): 6.0}, inputs=answers)
    yield from _line("numpy small cross_entropy", ce, eager, scipy, {(32, 10): 2.0})
    yield from _line("torch small cross_entropy", ce, torch_value, f_ce, {(32, 10): 6.0})
    same = Peer("the same, contiguous, class axis last", "", lambda: lambda: None)
    for work in ("numpy axis 1", "torch axis 1", "numpy axis 1, transposed", "torch axis 1, transposed"):
        yield Row(work, work[:5], same, (64, 1000, 32, 2), {"1": 1.5}, _layout)

    whole = Peer("the same of hidden @ weight.T, whole", "", lambda: lambda: None)
    chunked = Peer("F.linear_cross_entropy in chunks", "torch", lambda: lambda: None)
    for shape in (many, (2048, 128256)):
        for work in ("numpy linear_cross_entropy value_and_grad", "torch linear_cross_entropy forward + backward"):
            yield Row(work, work[:5], whole, shape, {"1": 1.1}, _vocabulary)
            yield Row(
                f"{work}, memory",
                work[:5],
                whole,
                shape,
                {"1": 4 * _FEATURES * sum(shape) + 64 * 2**20},
                _vocabulary,
                memory=True,
            )
        yield Row("jax.jit linear_cross_entropy grad", "jax", whole, shape, {"1": 1.1}, _vocabulary)
    # Few rows, as torch 2.13 takes 38 s for 2048 x 32000 (whole: 2 s).
    work = "torch linear_cross_entropy forward + backward, in chunks"
    yield Row(work, "torch", chunked, (256, 8000), {"1": 1.0}, _vocabulary)

    # On a device: the aim, as nothing has been measured yet. The memory is the gradient and a block.
    vast = (8192, 128256)
    bounds = {few: 1.0, many: 1.0, vast: 1.0}
    on_cuda = f"torch:cuda {both}"
    for dtype, of in (("float32", ""), ("bfloat16", ", bfloat16")):
        yield from _line(on_cuda + of, ce, torch_gradient, f_ce, bounds, dtype=dtype)
        compiled = f"torch:cuda torch.compile {both}{of}"
        yield from _line(compiled, ce, torch_compiled, f_ce, bounds, dtype=dtype)
        work = f"jax:cuda cross_entropy value + grad{of}"
        yield from _line(work, ce, jax_gradient, optax, bounds, dtype=dtype)
    naive = Peer("the naive formula", "cupy", _cupy_naive)
    yield from _line("cupy cross_entropy", ce, cupy_value, naive, bounds)
    naive = Peer("the naive formula and gradient", "cupy", _cupy_naive_gradient)
    yield from _line("cupy cross_entropy value_and_grad", _value_and_grad, cupy_value, naive, bounds)

    blocks, gradient = ({many: {"1": n, "15": n}} for n in (16 * 2**20, round(1.1 * 4 * many[0] * many[1])))
    yield from _line("numpy cross_entropy, memory", ce, eager, scipy, blocks, memory=True)
    yield from _line("torch cross_entropy, memory", ce, torch_value, f_ce, blocks, memory=True)
    yield from _line(f"torch {both}, memory", ce, torch_gradient, f_ce, gradient, memory=True)
    for dtype, of, bytes in (("float32", "", 4), ("bfloat16", ", bfloat16", 2)):
        room = {shape: round(bytes * shape[0] * shape[1] + 2**30) for shape in (many, vast)}
        yield from _line(f"{on_cuda}{of}, memory", ce, torch_gradient, f_ce, room, memory=True, dtype=dtype)
    room = {shape: round(4 * shape[0] * shape[1] + 2**30) for shape in (many, vast)}
    yield from _line("cupy cross_entropy value_and_grad, memory", _value_and_grad, cupy_value, naive, room, memory=True)


def _line(
    work: str,
    ours: Callable[[Any], Loss],
    way: Callable[[Loss, Any, Any, str], Call],
    peer: Peer,
    bounds: Mapping[Any, Any],
    peer_way: Callable[[Loss, Any, Any, str], Call] | None = None,
    *,
    inputs: Callable[[Shape], Any] = labels,
    memory: bool = False,
    dtype: str = "float32",
) -> Iterator[Row]:
    """One row for each shape in `bounds`, which has a bound, or one for each std; the library is in `work`."""

    def contest(row: Row, al: Any) -> Contest:
        device = row.device or "cpu"
        x, t = _rounded(logits(row.shape, row.std), row.dtype), inputs(row.shape)
        written = x.nbytes if "grad" in work or "backward" in work else 0
        return Contest(
            way(ours(al), x, t, device),
            (peer_way or way)(peer.make(), x, t, device),
            _passing(row),
            x.nbytes + t.nbytes + written,
            _UNTIL_TORCH_IS_IDLE if peer_way else 0.0,
        )

    library = work.split()[0].removesuffix(".compile").removesuffix(".jit")
    for shape, bound in bounds.items():
        bounds_of = bound if isinstance(bound, dict) else {"1": bound}
        yield Row(work, library, peer, shape, bounds_of, contest, memory, dtype=dtype)


def _vocabulary(row: Row, al: Any) -> Contest:
    """The last layer of a language model, whose output has the shape of the row; all three gradients' time."""
    n, classes = row.shape
    h, w, t = logits((n, _FEATURES), row.std), logits((classes, _FEATURES)) / np.float32(32), labels(row.shape)
    linear = al.linear_cross_entropy
    ours: Any = linear

    def theirs(h: Any, w: Any, t: Any) -> Any:
        return al.cross_entropy(h @ w.T, t)

    if row.library == "numpy":
        both, of_logits = al.value_and_grad(linear), al.value_and_grad(al.cross_entropy)

        def by_hand() -> Any:
            _, d = of_logits(h @ w.T, t)
            return d @ w, d.T @ h

        calls: tuple[Call, Call] = (lambda: both(h, w, t)[1][:2], by_hand)
    elif row.library == "torch":
        import torch

        if "chunks" in row.peer.name:
            options = torch.nn.LinearCrossEntropyOptions()
            theirs = partial(torch.nn.functional.linear_cross_entropy, options=options)
        a, b, c = _tensors(h, w, t)
        taped = (a.requires_grad_(), b.requires_grad_())
        grad: Any = torch.autograd.grad
        calls = (lambda: grad(ours(a, b, c), taped), lambda: grad(theirs(a, b, c), taped))
    else:
        import jax

        placed = jax.device_put((h, w, t.astype(np.int32)))
        ready: Any = jax.block_until_ready
        jitted: Any = jax.jit
        first, second = (jitted(jax.grad(f, (0, 1))) for f in (ours, theirs))
        calls = (lambda: ready(first(*placed)), lambda: ready(second(*placed)))
    return Contest(*calls, _passing(row), 2 * (h.nbytes + w.nbytes) + t.nbytes)


def _layout(row: Row, al: Any) -> Contest:
    """The class axis is 1; the peer is the same call on contiguous logits with the class axis last."""
    given, t = logits(row.shape, row.std), labels(row.shape, 1)
    x, last = given, np.ascontiguousarray(np.moveaxis(given, 1, -1))
    if row.library == "torch":
        x, last, t = _tensors(x, last, t)
    if "transposed" in row.work:
        x = x.mT.contiguous().mT if row.library == "torch" else np.ascontiguousarray(x.mT).mT
    return Contest(
        lambda: al.cross_entropy(x, t, axis=1),
        lambda: al.cross_entropy(last, t),
        _passing(row),
        given.nbytes + t.nbytes,
    )
