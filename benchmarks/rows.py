"""The table, as data: what is measured, against what, and what it has to be."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import arrayloss as al
from benchmarks import memory

Call = Callable[[], object]
Shape = tuple[int, ...]

CLASSES: tuple[Shape, ...] = ((4096, 1000), (2048, 32000), (65536, 100))
ELEMENTS: tuple[Shape, ...] = ((1_000_000,), (10_000_000,))


@dataclass(frozen=True)
class Contest:
    """Two calls that do the same, and a plain pass over the same memory.

    Attributes
    ----------
    ours, theirs
        The calls; they return once the work is done.
    passing
        On a CPU, one exponential of every element into a buffer; on a device, a copy.
    bytes
        The fewest that must be moved: the inputs read once, the results written once.
    pause
        Seconds to wait before each call.
    """

    ours: Call
    theirs: Call
    passing: Call
    bytes: int
    pause: float = 0.0


@dataclass(frozen=True)
class Row:
    """One line of the table; `bound` and `aim` are ours / theirs, at most."""

    work: str
    peer: str
    library: str
    shape: Shape
    bound: float
    aim: float
    contest: Callable[[Row], Contest]

    @property
    def name(self) -> str:
        """As it is selected by."""
        return f"{self.work} {'x'.join(map(str, self.shape))}"

    def missing(self) -> str | None:
        """Why it can't be run here, or None."""
        return missing(self.library, self.peer)


def missing(library: str, peer: str = "") -> str | None:
    """Why a library's rows can't be run here, or None."""
    name, _, device = library.partition(":")
    needed = [name, *(module for prefix, module in _PEERS.items() if peer.startswith(prefix))]
    for module in needed:
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed"
    if device == "cuda" or name == "cupy":
        present: Any = importlib.import_module({"torch": "torch", "jax": "jax", "cupy": "cupy"}[name])
        try:
            there = present.devices("cuda") if name == "jax" else present.cuda.is_available()
        except RuntimeError:
            there = False
        return None if there else "no CUDA device"
    return None


_PEERS = {"scipy": "scipy", "F.": "torch", "torch": "torch", "the tutorial": "torch", "optax": "optax", "jax": "jax"}
"""The module that a peer comes from, by how its name begins."""


# ---------------------------------------------------------------------------------------------------------------
# Inputs


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def logits(shape: Shape) -> Any:
    """N(0, 1), float32."""
    return _rng().standard_normal(shape, dtype=np.float32)


def labels(shape: Shape, axis: int = -1) -> Any:
    """A label for every row."""
    samples = tuple(n for i, n in enumerate(shape) if i != axis % len(shape))
    return _rng().integers(0, shape[axis], size=samples)


def answers(shape: Shape) -> Any:
    """0 and 1, as float32."""
    return _rng().integers(0, 2, size=shape).astype(np.float32)


def _passing(x: Any) -> Call:
    buffer = np.empty_like(x)
    return lambda: np.exp(x, out=buffer)


def _torch_passing(x: Any) -> Call:
    import torch

    x = x.detach()
    buffer = torch.empty_like(x)
    return (lambda: torch.exp(x, out=buffer)) if x.device.type == "cpu" else _waiting(lambda: buffer.copy_(x), x)


def _waiting(call: Call, x: Any) -> Call:
    """`call`, and wait for the device of the tensor."""
    import torch

    if x.device.type == "cpu":
        return call

    def waited() -> None:
        call()
        torch.cuda.synchronize()

    return waited


# ---------------------------------------------------------------------------------------------------------------
# NumPy

# Torch's OpenMP threads spin for 3 to 4 ms after a call, on the core that NumPy's second thread would have.
_SPINNING = 10e-3


def numpy_value(row: Row) -> Contest:
    from scipy.special import log_softmax

    x, t = logits(row.shape), labels(row.shape)
    rows = np.arange(len(t))
    return Contest(
        lambda: al.cross_entropy(x, t),
        lambda: -log_softmax(x, axis=-1)[rows, t].mean(),
        _passing(x),
        x.nbytes,
    )


def _numpy_gradient(row: Row) -> Contest:
    x, t = logits(row.shape), labels(row.shape)
    both = al.value_and_grad(al.cross_entropy)
    peer = _torch_fwd_bwd(_torch_peer("cross_entropy"), x, t)
    return Contest(lambda: both(x, t), peer, _passing(x), 2 * x.nbytes, _SPINNING)


def _numpy_focal(row: Row) -> Contest:
    x, y = logits(row.shape), answers(row.shape)
    focal, a, b = _tutorial_focal(), *_tensors(x, y)
    return Contest(
        lambda: al.sigmoid_focal_loss(x, y), lambda: focal(a, b), _passing(x), x.nbytes + y.nbytes, _SPINNING
    )


def _numpy_bce(row: Row) -> Contest:
    x, y = logits(row.shape), answers(row.shape)
    peer, a, b = _torch_peer("binary_cross_entropy_with_logits"), *_tensors(x, y)
    return Contest(
        lambda: al.binary_cross_entropy_with_logits(x, y),
        lambda: peer(a, b),
        _passing(x),
        x.nbytes + y.nbytes,
        _SPINNING,
    )


def _numpy_log_softmax_nll(row: Row) -> Contest:
    from scipy.special import log_softmax

    x, t = logits(row.shape), labels(row.shape)
    rows = np.arange(len(t))
    return Contest(
        lambda: al.nll_loss(al.log_softmax(x), t),
        lambda: -log_softmax(x, axis=-1)[rows, t].mean(),
        _passing(x),
        2 * x.nbytes,
    )


# ---------------------------------------------------------------------------------------------------------------
# torch


def _tensors(*arrays: Any, device: str = "cpu") -> list[Any]:
    import torch

    return [torch.tensor(a, device=device) for a in arrays]


def _torch_peer(name: str) -> Any:
    import torch.nn.functional

    return getattr(torch.nn.functional, name)


def _tutorial_focal() -> Any:
    """The tutorial's `focal` (shared/tutorial.txt), as it stands there."""
    import torch
    import torch.nn.functional as F

    def focal(s_logits: Any, y: Any, gamma: float = 2) -> Any:
        y = y.type(torch.float32)
        ones_loss = -F.logsigmoid(s_logits) * (torch.sigmoid(-s_logits) ** gamma) * y
        zeros_loss = -F.logsigmoid(-s_logits) * (torch.sigmoid(s_logits) ** gamma) * (1 - y)
        return (ones_loss + zeros_loss).mean()

    return focal


def _torchvision_focal() -> Any:
    """torchvision.ops.sigmoid_focal_loss, written out: the package doesn't import beside every torch."""
    import torch
    import torch.nn.functional as F

    def focal(inputs: Any, targets: Any, alpha: float = -1, gamma: float = 2) -> Any:
        p = torch.sigmoid(inputs)
        ce_loss = F.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
        p_t = p * targets + (1 - p) * (1 - targets)
        return (ce_loss * ((1 - p_t) ** gamma)).mean()

    return focal


def _torch_fwd_bwd(loss: Any, x: Any, t: Any, device: str = "cpu") -> Call:
    import torch

    x, t = _tensors(x, t, device=device)
    x.requires_grad_(True)
    return _waiting(lambda: torch.autograd.grad(loss(x, t), x), x)


def _torch_contest(row: Row, ours: Any, theirs: Any, x: Any, t: Any, compiled: bool = False) -> Contest:
    import torch

    device = "cuda" if row.library.endswith("cuda") else "cpu"
    if compiled:
        ours, theirs = torch.compile(ours, fullgraph=True), torch.compile(theirs, fullgraph=True)
    return Contest(
        _torch_fwd_bwd(ours, x, t, device),
        _torch_fwd_bwd(theirs, x, t, device),
        _torch_passing(_tensors(x, device=device)[0]),
        2 * x.nbytes,
    )


def torch_cross_entropy(row: Row) -> Contest:
    x, t = logits(row.shape), labels(row.shape)
    return _torch_contest(row, al.cross_entropy, _torch_peer("cross_entropy"), x, t, "compile" in row.work)


def _torch_log_softmax_nll(row: Row) -> Contest:
    x, t = logits(row.shape), labels(row.shape)
    log_softmax, nll = _torch_peer("log_softmax"), _torch_peer("nll_loss")
    return _torch_contest(
        row, lambda x, t: al.nll_loss(al.log_softmax(x), t), lambda x, t: nll(log_softmax(x, -1), t), x, t
    )


def _torch_focal(row: Row) -> Contest:
    x, y = logits(row.shape), answers(row.shape)
    return _torch_contest(row, al.sigmoid_focal_loss, _torchvision_focal(), x, y)


def _torch_bce(row: Row) -> Contest:
    x, y = logits(row.shape), answers(row.shape)
    peer = _torch_peer("binary_cross_entropy_with_logits")
    return _torch_contest(row, al.binary_cross_entropy_with_logits, peer, x, y)


# ---------------------------------------------------------------------------------------------------------------
# JAX


def _jax_contest(row: Row, ours: Any, theirs: Any, x: Any, t: Any, gradient: bool) -> Contest:
    import jax
    import jax.numpy as jnp

    device = jax.devices("cuda" if row.library.endswith("cuda") else "cpu")[0]
    a, b = jax.device_put(jnp.asarray(x), device), jax.device_put(jnp.asarray(t), device)
    ready: Any = jax.block_until_ready
    mine, peer = (jax.jit(jax.value_and_grad(f) if gradient else f) for f in (ours, theirs))
    passing = jax.jit(jnp.exp if device.platform == "cpu" else jnp.copy)
    return Contest(
        lambda: ready(mine(a, b)),
        lambda: ready(peer(a, b)),
        lambda: ready(passing(a)),
        (2 if gradient else 1) * x.nbytes,
    )


def jax_cross_entropy(row: Row) -> Contest:
    import optax

    peer = optax.losses.softmax_cross_entropy_with_integer_labels
    x, t = logits(row.shape), labels(row.shape).astype(np.int32)
    return _jax_contest(row, al.cross_entropy, lambda x, t: peer(x, t).mean(), x, t, "value +" in row.work)


def _jax_bce(row: Row) -> Contest:
    import optax

    peer = optax.losses.sigmoid_binary_cross_entropy
    x, y = logits(row.shape), answers(row.shape)
    return _jax_contest(row, al.binary_cross_entropy_with_logits, lambda x, y: peer(x, y).mean(), x, y, True)


def _jax_log_softmax_nll(row: Row) -> Contest:
    import jax
    import jax.numpy as jnp

    x, t = logits(row.shape), labels(row.shape).astype(np.int32)

    def theirs(x: Any, t: Any) -> Any:
        return -jnp.take_along_axis(jax.nn.log_softmax(x), t[:, None], axis=-1).mean()

    return _jax_contest(row, lambda x, t: al.nll_loss(al.log_softmax(x), t), theirs, x, t, True)


# ---------------------------------------------------------------------------------------------------------------
# CuPy


def _cupy_cross_entropy(row: Row) -> Contest:
    import cupy as cp

    x, t = cp.asarray(logits(row.shape)), cp.asarray(labels(row.shape))
    rows, buffer = cp.arange(len(t)), cp.empty_like(x)

    def naive() -> Any:
        z = x - x.max(axis=1, keepdims=True)
        return -(z - cp.log(cp.exp(z).sum(axis=1, keepdims=True)))[rows, t].mean()

    def waited(call: Call) -> Call:
        def wait() -> None:
            call()
            cp.cuda.Device().synchronize()

        return wait

    return Contest(
        waited(lambda: al.cross_entropy(x, t)),
        waited(naive),
        waited(lambda: cp.copyto(buffer, x)),
        x.nbytes,
    )


# ---------------------------------------------------------------------------------------------------------------
# Small calls, and layouts


def _small_focal(row: Row) -> Contest:
    x, y = _tensors(logits(row.shape), answers(row.shape))
    focal = _tutorial_focal()
    return Contest(lambda: al.sigmoid_focal_loss(x, y), lambda: focal(x, y), _torch_passing(x), 0)


def _small_torch(row: Row) -> Contest:
    x, t = _tensors(logits(row.shape), labels(row.shape))
    peer = _torch_peer("cross_entropy")
    return Contest(lambda: al.cross_entropy(x, t), lambda: peer(x, t), _torch_passing(x), 0)


def _layout(row: Row) -> Contest:
    """The class axis is 1; the peer is the same call on contiguous data with it last."""
    x, t = logits(row.shape), labels(row.shape, 1)
    last = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    if "torch" in row.work:
        x, last, t = _tensors(x, last, t)
    if "transposed" in row.work:
        x = x.mT.contiguous().mT if "torch" in row.work else np.ascontiguousarray(x.mT).mT
    return Contest(
        lambda: al.cross_entropy(x, t, axis=1), lambda: al.cross_entropy(last, t), _passing(logits(row.shape)), 0
    )


def rows() -> Iterator[Row]:
    """The table, from top to bottom."""

    def each(
        work: str, peer: str, library: str, shapes: tuple[Shape, ...], bounds: Any, aims: Any, contest: Any
    ) -> Iterator[Row]:
        for shape, bound, aim in zip(shapes, bounds, aims, strict=True):
            yield Row(work, peer, library, shape, bound, aim, contest)

    scipy, ce, bce = "scipy log_softmax", "F.cross_entropy", "F.binary_cross_entropy_with_logits"
    optax = "optax integer labels"
    yield from each("numpy cross_entropy", scipy, "numpy", CLASSES, (0.7, 0.5, 0.8), (0.5, 0.3, 0.6), numpy_value)
    yield from each(
        "numpy cross_entropy value_and_grad",
        f"{ce} forward + backward",
        "numpy",
        CLASSES,
        (1.0, 0.9, 1.6),
        (0.8, 0.6, 1.0),
        _numpy_gradient,
    )
    bounds = (1.15, 0.75, 1.15), (0.9, 0.55, 0.9)
    yield from each("torch cross_entropy forward + backward", ce, "torch", CLASSES, *bounds, torch_cross_entropy)
    bounds = (1.1,) * 3, (0.8,) * 3
    yield from each(
        "torch.compile cross_entropy forward + backward", ce, "torch", CLASSES, *bounds, torch_cross_entropy
    )
    bounds = (1.3, 1.5, 1.3), (0.9, 1.0, 0.9)
    yield from each("jax.jit cross_entropy value + grad", optax, "jax", CLASSES, *bounds, jax_cross_entropy)
    yield from each(
        "jax.jit cross_entropy value", optax, "jax", CLASSES, (1.5, 2.0, 1.2), (1.0,) * 3, jax_cross_entropy
    )
    tutorial = "the tutorial's focal (torch)"
    yield from each("numpy sigmoid_focal_loss", tutorial, "numpy", ELEMENTS, (2.0, 0.6), (0.6, 0.4), _numpy_focal)
    vision = "torchvision's formula"
    focal = "torch sigmoid_focal_loss forward + backward"
    yield from each(focal, vision, "torch", ELEMENTS, (1.0, 0.6), (0.6, 0.4), _torch_focal)
    yield from each("numpy bce_with_logits", bce, "numpy", ELEMENTS, (2.0, 2.0), (1.0, 1.0), _numpy_bce)
    yield from each(
        "torch bce_with_logits forward + backward", bce, "torch", ELEMENTS, (1.3, 1.3), (1.0, 1.0), _torch_bce
    )
    yield from each("jax.jit bce_with_logits value + grad", "optax", "jax", ELEMENTS, (1.0, 1.0), (0.8, 0.8), _jax_bce)
    one = CLASSES[:1]
    yield from each("numpy log_softmax + nll_loss", scipy, "numpy", one, (1.3,), (1.0,), _numpy_log_softmax_nll)
    chain = "log_softmax + nll_loss forward + backward"
    yield from each(
        f"torch {chain}", "torch F.log_softmax + nll_loss", "torch", one, (1.3,), (1.0,), _torch_log_softmax_nll
    )
    yield from each(
        "jax.jit log_softmax + nll_loss value + grad",
        "jax.nn.log_softmax",
        "jax",
        one,
        (1.3,),
        (1.0,),
        _jax_log_softmax_nll,
    )
    small = ((32, 10),)
    yield from each("torch small sigmoid_focal_loss", tutorial, "torch", ((5, 1),), (2.0,), (1.0,), _small_focal)
    yield from each("numpy small cross_entropy", scipy, "numpy", small, (2.0,), (1.2,), numpy_value)
    yield from each("torch small cross_entropy", ce, "torch", small, (3.0,), (1.5,), _small_torch)
    images, same = ((64, 1000, 32, 2),), "the same, contiguous, class axis last"
    yield from each("numpy axis 1", same, "numpy", images, (1.5,), (1.15,), _layout)
    yield from each("torch axis 1", same, "torch", images, (1.5,), (1.15,), _layout)
    yield from each("numpy axis 1, transposed", same, "numpy", images, (1.5,), (1.15,), _layout)
    yield from each("torch axis 1, transposed", same, "torch", images, (1.5,), (1.15,), _layout)
    # No bounds of their own on a device: the same as on the CPU.
    cuda = "torch:cuda cross_entropy forward + backward", "torch:cuda torch.compile cross_entropy forward + backward"
    for work, top in zip(cuda, ((1.15, 0.75, 1.15), (1.1,) * 3), strict=True):
        yield from each(work, ce, "torch:cuda", CLASSES, top, (0.9, 0.55, 0.9), torch_cross_entropy)
    yield from each(
        "jax:cuda cross_entropy value + grad",
        optax,
        "jax:cuda",
        CLASSES,
        (1.3, 1.5, 1.3),
        (0.9,) * 3,
        jax_cross_entropy,
    )
    yield from each(
        "cupy cross_entropy", "the naive formula", "cupy", CLASSES, (1.0,) * 3, (0.5,) * 3, _cupy_cross_entropy
    )


# ---------------------------------------------------------------------------------------------------------------
# Memory


@dataclass(frozen=True)
class Memory:
    """The most that a call may hold beyond its inputs, in bytes; `call` is made anew for each measurement."""

    work: str
    library: str
    shape: Shape
    bound: int
    call: Callable[[Shape], Call]
    theirs: Callable[[Shape], Call]
    measure: Callable[[Call], int]

    @property
    def name(self) -> str:
        """As it is selected by."""
        return f"{self.work} {'x'.join(map(str, self.shape))}"


def _numpy_call(shape: Shape) -> Call:
    x, t = logits(shape), labels(shape)
    return lambda: al.cross_entropy(x, t)


def _scipy_call(shape: Shape) -> Call:
    from scipy.special import log_softmax

    x, t = logits(shape), labels(shape)
    rows = np.arange(len(t))
    return lambda: -log_softmax(x, axis=-1)[rows, t].mean()


def _torch_call(loss: Callable[[], Any], device: str = "cpu") -> Callable[[Shape], Call]:
    def made(shape: Shape) -> Call:
        x, t = _tensors(logits(shape), labels(shape), device=device)
        f = loss()
        return lambda: f(x, t)

    return made


def _torch_both(loss: Callable[[], Any], device: str = "cpu") -> Callable[[Shape], Call]:
    return lambda shape: _torch_fwd_bwd(loss(), logits(shape), labels(shape), device)


def memories() -> Iterator[Memory]:
    """The rows that are about memory."""
    shape = (2048, 32000)
    gradient = 4 * shape[0] * shape[1]
    few = 16 * 2**20

    def ours() -> Any:
        return al.cross_entropy

    def theirs() -> Any:
        return _torch_peer("cross_entropy")

    yield Memory("numpy cross_entropy, memory", "numpy", shape, few, _numpy_call, _scipy_call, memory.of_numpy)
    yield Memory(
        "torch cross_entropy, memory", "torch", shape, few, _torch_call(ours), _torch_call(theirs), memory.of_torch
    )
    both = "torch cross_entropy forward + backward, memory"
    most = round(1.1 * gradient)
    yield Memory(both, "torch", shape, most, _torch_both(ours), _torch_both(theirs), memory.of_torch)
    yield Memory(
        both.replace("torch", "torch:cuda"),
        "torch:cuda",
        shape,
        most,
        _torch_both(ours, "cuda"),
        _torch_both(theirs, "cuda"),
        memory.of_cuda,
    )
