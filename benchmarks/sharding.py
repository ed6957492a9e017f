"""What the losses send from device to device: `python -m benchmarks.sharding jax` and `torch`.

Every loss, on logits that are shared out in every way over a mesh of one or two axes. For JAX, the operations between
devices in the compiled programs for 8 virtual devices of this machine. For PyTorch, what CommDebugMode counts in 4
processes (or as many as the second argument says) that speak by gloo, and torch's own losses beside it.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import arrayloss as al

DEVICES = 8
CLASSES = 128
Along = tuple[int | None, ...]


@dataclass(frozen=True)
class Placement:
    """Logits of a shape, and for each of their axes the axis of the mesh that it is shared out along, or None."""

    name: str
    shape: tuple[int, ...]
    along: Along
    axis: int = -1

    def samples(self, along: Any) -> tuple[Any, ...]:
        """What belongs to the samples' axes, without the class axis."""
        at = self.axis % len(self.shape)
        return (*along[:at], *along[at + 1 :])

    @property
    def classes(self) -> bool:
        """Whether the classes are shared out."""
        return self.along[self.axis] is not None

    @property
    def mesh_axes(self) -> int:
        return 1 + max(a for a in self.along if a is not None)


_N, _BSV, _BVS = (64, CLASSES), (8, 16, CLASSES), (8, CLASSES, 16)
PLACEMENTS = (
    Placement("(N, C) by N", _N, (0, None)),
    Placement("(N, C) by C", _N, (None, 0)),
    Placement("(N, C) by N and C", _N, (0, 1)),
    Placement("(B, S, V) by B", _BSV, (0, None, None)),
    Placement("(B, S, V) by S", _BSV, (None, 0, None)),
    Placement("(B, S, V) by V", _BSV, (None, None, 0)),
    Placement("(B, S, V) by B and S", _BSV, (0, 1, None)),
    Placement("(B, S, V) by B and V", _BSV, (0, None, 1)),
    Placement("(B, S, V) by S and V", _BSV, (None, 0, 1)),
    Placement("(B, V, S), axis=1, by S", _BVS, (None, None, 0), 1),
    Placement("(B, V, S), axis=1, by V and S", _BVS, (None, 0, 1), 1),
)


@dataclass(frozen=True)
class Case:
    """A loss with options, and the arrays among these: like the target ("samples") or one for each class."""

    name: str
    loss: str
    options: tuple[str, ...] = ()
    target: str = ""

    @property
    def has_axis(self) -> bool:
        return "axis" in inspect.signature(getattr(al, self.loss)).parameters


def _losses() -> tuple[str, ...]:
    """Those of a first array and a target; `linear_cross_entropy` has a weight between them."""
    public = {name: inspect.signature(getattr(al, name)).parameters for name in al.__all__ if name[0].islower()}
    return tuple(name for name, has in public.items() if "reduction" in has and "weight" not in has)


CASES = (
    *(Case(name, name) for name in _losses()),
    Case("cross_entropy, probabilities", "cross_entropy", target="probabilities"),
    *(
        Case(f"cross_entropy, {option}", "cross_entropy", (option,))
        for option in ("label_smoothing", "z_loss", "class_weight", "sample_weight", "where", "reduction")
    ),
    *(
        Case(f"binary_cross_entropy_with_logits, {option}", "binary_cross_entropy_with_logits", (option,))
        for option in ("label_smoothing", "pos_weight", "sample_weight", "where", "ignore_index")
    ),
)


# Where what is beside the logits gets a gradient, too.
EVERY_INPUT = (
    "kl_divergence",
    "cross_entropy, probabilities",
    "cross_entropy, class_weight",
    "cross_entropy, sample_weight",
)


def chosen() -> Iterator[tuple[Case, Placement]]:
    """All losses and options on two axes at once; one loss on every placement, and some that differ on more."""
    more: dict[str, set[tuple[int, ...]]] = {
        "cross_entropy": {_N, _BSV, _BVS},
        "cross_entropy, probabilities": {_N},
        "kl_divergence": {_N},
        "binary_cross_entropy_with_logits": {_BSV},
    }
    for case in CASES:
        for placement in PLACEMENTS:
            if "S and V" in placement.name or placement.shape in more.get(case.name, ()):
                yield case, placement


@dataclass(frozen=True)
class Given:
    """The arguments of a call in NumPy, each with what its axes are shared out along."""

    logits: np.ndarray
    along: Along
    target: np.ndarray
    target_along: Along
    arrays: dict[str, tuple[np.ndarray, Along]]
    plain: dict[str, Any]

    def all(self) -> tuple[tuple[np.ndarray, Along], ...]:
        return (self.logits, self.along), (self.target, self.target_along), *self.arrays.values()


def given(case: Case, at: Placement) -> Given:
    rng = np.random.default_rng(0)
    parameters = list(inspect.signature(getattr(al, case.loss)).parameters)
    x: Any = rng.normal(size=at.shape).astype(np.float32)
    target: Any
    like_logits = not case.has_axis or case.target or parameters[1] != "target"
    samples, along = (at.samples(at.shape), at.samples(at.along)) if case.has_axis else (at.shape, at.along)
    if not case.has_axis:
        target = rng.random(at.shape) > 0.5
    elif not like_logits:
        target = rng.integers(0, at.shape[at.axis], samples).astype(np.int32)
    else:
        e = np.exp(rng.normal(size=at.shape))
        target = (e / e.sum(at.axis, keepdims=True)).astype(np.float32)
    if parameters[0] == "probs":
        x = 1 / (1 + np.exp(-x))
    arrays: dict[str, tuple[np.ndarray, Along]] = {
        "class_weight": (rng.uniform(0.5, 2, at.shape[at.axis]).astype(np.float32), (None,)),
        "pos_weight": (rng.uniform(0.5, 2, at.shape[-1]).astype(np.float32), (None,)),
        "sample_weight": (rng.uniform(0.5, 2, samples).astype(np.float32), along),
        "where": (rng.random(samples) > 0.2, along),
    }
    plain: dict[str, Any] = {"label_smoothing": 0.1, "z_loss": 0.1, "reduction": al.Mean(over="all")}
    plain["ignore_index"] = -1
    if "ignore_index" in case.options:
        target = target.astype(np.int32) - (rng.random(at.shape) > 0.8)
    options = {k: v for k, v in plain.items() if k in case.options}
    if case.has_axis:
        options["axis"] = at.axis
    return Given(
        x,
        at.along,
        target,
        at.along if like_logits else along,
        {k: v for k, v in arrays.items() if k in case.options},
        options,
    )


@dataclass
class Found:
    """What a case sends for its value and gradient, and whether it is right.

    Attributes
    ----------
    sent
        How many operations between devices there are, of each kind.
    numbers
        How many numbers a device has from them, all together; None where that is not counted.
    kept
        Whether the gradient is shared out as the logits are.
    error
        How far value and gradient are from NumPy's in float64, in parts of the largest number.
    """

    case: str
    placement: str
    way: str
    sent: dict[str, int]
    numbers: int | None
    kept: bool
    error: float


_SENT = re.compile(r"= (.*?) (all-gather|all-reduce|collective-permute|all-to-all|reduce-scatter)(?:-start)?\(")


def sent(program: str) -> tuple[dict[str, int], int]:
    """The operations between devices in a compiled program of XLA, and the size of their results."""
    operations = _SENT.findall(program)
    shapes = (shape for result, _ in operations for shape in re.findall(r"\w+\[([\d,]*)\]", result))
    return dict(Counter(name for _, name in operations)), sum(
        math.prod(map(int, filter(None, s.split(",")))) for s in shapes
    )


def _error(found: Any, right: Any) -> float:
    found, right = np.asarray(found, np.float64), np.asarray(right, np.float64)
    return float(np.abs(found - right).max() / np.abs(right).max())


def called(
    loss: str,
    names: tuple[str, ...],
    plain: dict[str, Any],
    x: Any,
    target: Any,
    *arrays: Any,
    of: Any = None,
    **more: Any,
) -> Any:
    """A loss of logits; `nll_loss` with the log_softmax from which its gradient gets its place."""
    f = getattr(al, loss)
    if loss == "nll_loss":
        x = al.log_softmax(x, axis=plain["axis"])
    return (f if of is None else of(f))(x, target, **plain, **more, **dict(zip(names, arrays, strict=True)))


def right(case: Case, of: Given) -> tuple[np.ndarray, np.ndarray]:
    """Value and gradient on NumPy, in float64."""
    x, target, *arrays = (a.astype(np.float64) if a.dtype.kind == "f" else a for a, _ in of.all())
    options = {**of.plain, **dict(zip(of.arrays, arrays, strict=True))}
    # The same loss as log_softmax and nll_loss together.
    loss = al.cross_entropy if case.loss == "nll_loss" else getattr(al, case.loss)
    return al.value_and_grad(loss)(x, target, **options)


def on_jax() -> Iterator[Found]:
    """Compiled with JAX's own derivative; one loss in other ways too."""
    import jax
    from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

    devices = np.array(jax.devices()[:DEVICES])

    def run(case: Case, at: Placement, way: str) -> Found:
        arguments = given(case, at)
        two = at.mesh_axes == 2
        kind = AxisType.Explicit if way == "explicit axes" else AxisType.Auto
        mesh = Mesh(devices.reshape(-1, 2) if two else devices, ("0", "1")[: 1 + two], axis_types=(kind,) * (1 + two))

        def put(x: np.ndarray, along: Along) -> Any:
            spec = PartitionSpec(*(None if a is None else str(a) for a in along))  # type: ignore[no-untyped-call]
            return jax.device_put(x, NamedSharding(mesh, spec))

        arrays = [put(*one) for one in arguments.all()]
        f: Any = partial(called, case.loss, tuple(arguments.arrays), arguments.plain)
        if way == "closed form" or way == "eager":
            f = partial(f, of=al.value_and_grad)
        elif way == "shard_map":
            # The samples by hand, and the classes by the compiler.
            whole, samples = PartitionSpec(), PartitionSpec("0")  # type: ignore[no-untyped-call]
            f = jax.shard_map(
                partial(_within, f), mesh=mesh, in_specs=samples, out_specs=(whole, samples), axis_names={"0"}
            )
        else:
            f = jax.value_and_grad(f)
        if way == "eager":
            counted: tuple[dict[str, int], int] = {}, 0
        else:
            f = jax.jit(f).lower(*arrays).compile()
            counted = sent(f.as_text())
        value, slope = f(*arrays)
        kept = slope.sharding.is_equivalent_to(arrays[0].sharding, slope.ndim)
        return Found(case.name, at.name, way, *counted, kept, max(map(_error, (value, slope), right(case, arguments))))

    def _within(f: Any, x: Any, target: Any) -> Any:
        number = jax.lax.psum(target.size, "0")  # type: ignore[no-untyped-call]
        value, slope = jax.value_and_grad(partial(f, reduction=al.Mean(over=number)))(x, target)
        return jax.lax.psum(value, "0"), slope  # type: ignore[no-untyped-call]

    for case, at in chosen():
        yield run(case, at, "jit")
    for case, at in chosen():
        if case.name == "cross_entropy" and "B and V" in at.name:
            for way in ("closed form", "eager", "explicit axes", "shard_map"):
                yield run(case, at, way)
        if case.name.endswith("class_weight"):
            yield run(case, at, "explicit axes")


def on_torch(processes: int) -> Iterator[Found]:
    """The lines that the first of several processes prints."""
    from torch.multiprocessing.spawn import spawn

    with tempfile.TemporaryDirectory() as room:
        arguments = (processes, f"file://{room}/rendezvous", f"{room}/found")
        spawn(_process, arguments, nprocs=processes)  # type: ignore[no-untyped-call]
        for line in Path(room, "found").read_text().splitlines():
            yield Found(**json.loads(line))


def _process(rank: int, processes: int, rendezvous: str, file: str) -> None:
    import torch
    from torch import distributed

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    limit = timedelta(seconds=60)
    distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=processes, timeout=limit)
    try:
        lines = [json.dumps(asdict(found)) for found in _on_torch(processes)]
    finally:
        distributed.destroy_process_group()
    if not rank:
        Path(file).write_text("\n".join(lines))


def _on_torch(processes: int) -> Iterator[Found]:
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
    from torch.distributed.tensor.debug import CommDebugMode
    from torch.distributed.tensor.parallel import loss_parallel

    meshes = {1: init_device_mesh("cpu", (processes,)), 2: init_device_mesh("cpu", (processes // 2, 2))}

    def run(case: Case, at: Placement, f: Any, way: str = "autograd") -> Found:
        arguments = given(case, at)
        mesh = meshes[at.mesh_axes]
        others_error = 0.0

        def put(x: np.ndarray, along: Along) -> Any:
            x = x.astype(np.int64) if x.dtype == np.int32 else x
            placements = [Shard(along.index(m)) if m in along else Replicate() for m in range(at.mesh_axes)]
            return distribute_tensor(torch.tensor(x), mesh, placements)

        x, *others = (put(*one) for one in arguments.all())
        count: Any = CommDebugMode()  # type: ignore[no-untyped-call]
        with loss_parallel() if way == "loss_parallel" else nullcontext(), count:
            if way == "closed form":
                value, slope = f(x, *others, of=al.value_and_grad)
            else:
                floats = [a.requires_grad_() for a in (x, *others) if a.is_floating_point() and way == "every input"]
                value = f(x.requires_grad_(), *others)
                value.backward()
                slope = x.grad
            # F's is unfinished in places: it is sent when it is read.
            value = value.full_tensor()
        if way == "every input":
            whole = [a.detach().full_tensor().requires_grad_(a.requires_grad) for a in (x, *others)]
            slopes = torch.autograd.grad(f(*whole), [a for a in whole if a.requires_grad])
            others_error = max(_error(a.grad.full_tensor(), g) for a, g in zip(floats, slopes, strict=True))
        kinds = {str(kind).rpartition(".")[2]: n for kind, n in count.get_comm_counts().items()}
        kept = isinstance(slope, DTensor) and slope.placements == x.placements
        found = (value.detach(), slope.full_tensor())
        error = max(map(_error, found, right(case, arguments)))
        names = {"all_gather_into_tensor": "all-gather", "all_reduce": "all-reduce"}
        sent = {names.get(kind, kind): n for kind, n in kinds.items() if n}
        return Found(case.name, at.name, way, sent, None, kept, max(error, others_error))

    for case, at in chosen():
        arguments = given(case, at)
        f: Any = partial(called, case.loss, tuple(arguments.arrays), arguments.plain)
        yield run(case, at, f)
        if case.name == "cross_entropy" and "B and V" in at.name:
            yield run(case, at, f, "closed form")
        if case.name in EVERY_INPUT and "S and V" in at.name:
            yield run(case, at, f, "every input")
    theirs, at_name = torch.nn.functional, {at.name: at for at in PLACEMENTS}
    binary = "binary_cross_entropy_with_logits"
    for name, placement, way in (
        ("cross_entropy", "(N, C) by N", "F"),
        ("cross_entropy", "(N, C) by C", "loss_parallel"),
        # Under loss_parallel, its gradient by probabilities is wrong (torch 2.13).
        ("cross_entropy, probabilities", "(N, C) by N", "F"),
        (binary, "(B, S, V) by S", "F"),
        (binary, "(B, S, V) by V", "F"),
    ):
        f = _binary_of(theirs) if name == binary else theirs.cross_entropy
        (case,) = (case for case in CASES if case.name == name)
        yield run(case, at_name[placement], f, way)


def _binary_of(theirs: Any) -> Any:
    return lambda x, target: theirs.binary_cross_entropy_with_logits(x, target.to(x.dtype))


def main(library: str, processes: int = 4) -> None:
    """One line of JSON for each case."""
    if library == "jax":
        # JAX reads it when it is imported.
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={DEVICES}"
    for found in on_jax() if library == "jax" else on_torch(processes):
        print(json.dumps(asdict(found)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
