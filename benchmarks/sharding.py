"""What the losses send from device to device: `python -m benchmarks.sharding jax` and `torch`.

Every loss, on logits that are shared out in every way over a mesh of one or two axes. For JAX, the operations between
devices in the compiled programs for 8 virtual devices of this machine.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
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
        for option in ("label_smoothing", "class_weight", "sample_weight", "where", "reduction")
    ),
    *(
        Case(f"binary_cross_entropy_with_logits, {option}", "binary_cross_entropy_with_logits", (option,))
        for option in ("label_smoothing", "pos_weight", "sample_weight", "where", "ignore_index")
    ),
)


def chosen() -> Iterator[tuple[Case, Placement]]:
    """All losses and options on two axes at once, and four of them on every placement."""
    every = ("cross_entropy", "kl_divergence", "binary_cross_entropy_with_logits")
    for case in CASES:
        for placement in PLACEMENTS:
            if (case.has_axis or placement.axis == -1) and (case.name in every or "S and V" in placement.name):
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
    plain: dict[str, Any] = {"label_smoothing": 0.1, "reduction": al.Mean(over="all"), "ignore_index": -1}
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
        How many numbers a device has from them, all together.
    kept
        Whether the gradient is shared out as the logits are.
    error
        How far value and gradient are from NumPy's in float64, in parts of the largest number.
    """

    case: str
    placement: str
    way: str
    sent: dict[str, int]
    numbers: int
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


def main(library: str) -> None:
    """One line of JSON for each case."""
    if library == "jax":
        # JAX reads it when it is imported.
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={DEVICES}"
    measured: dict[str, Callable[[], Iterator[Found]]] = {"jax": on_jax}
    for found in measured[library]():
        print(json.dumps(asdict(found)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
