"""A seeded random search for calls that go wrong: any function, any options, any layout, against the exact answer.

Where `hunt` looks for the worst digits of ordinary calls, this one looks for the call that nobody thought of:
dimensions of 0 and none at all, arrays that run backwards, byte-swapped, read-only or expanded, every dtype of labels,
weights and masks that broadcast, special values. A call is its seed: `wrong(draw(seed))` has the same call again.
"""

from __future__ import annotations

import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from arrayloss.testing import (
    FORMATS,
    HALF,
    Backend,
    Case,
    Floats,
    Implementation,
    Loss,
    Reduce,
    backends,
    fault,
    measure,
    rounded,
)

from . import budget
from .cases import BINARY, CATEGORICAL, DIVERGENCES, ELEMENTWISE, FUNCTIONS, GIVEN, PAIRED, TRANSFORMS, variants
from .draws import Draws
from .oracle import exact

LAYOUTS: dict[str, tuple[str, ...]] = {
    "numpy": ("plain", "Fortran", "backwards", "strided", "byte-swapped", "read-only", "expanded", "unaligned"),
    "torch": ("plain", "Fortran", "strided", "expanded", "offset"),
}
"""How the numbers may lie in memory, by library; elsewhere that is the library's own affair."""

LABELS = ("int64", "int32", "int16", "int8", "uint8")
"""What integer labels may be passed as."""

SPECIAL = (math.inf, -math.inf, math.nan, 0.0)
MAGNITUDE = {"float16": 30.0, "bfloat16": 60.0, "float32": 100.0, "float64": 600.0}


@dataclass(frozen=True)
class Call:
    """One call: the case as the oracle knows it, the library it goes to, and how each array is passed.

    `labels` is the dtype of integer labels, `bad` the position (flat) of a label that is out of range.
    """

    seed: int
    case: Case
    backend: str
    layouts: Mapping[str, str] = field(default_factory=dict)
    labels: str = "int64"
    bad: int | None = None

    def __str__(self) -> str:
        c = self.case
        arrays = ", ".join(f"{k} {v.shape} {self.layouts.get(k, 'plain')}" for k, v in c.arrays.items())
        bad = f", label {self.bad} out of range" if self.bad is not None else ""
        kind = self.labels if c.target_kind == "index" else c.target_kind
        options = ", ".join(f"{k}={v}" for k, v in c.options.items())
        what = f"{c.function} {c.dtype} on {self.backend}, {arrays}"
        return f"draw({self.seed}): {what}, target {kind}, {options}{bad}"


@dataclass
class Tally:
    """What a search tried, and what it found wrong."""

    tried: Counter[tuple[str, str]] = field(default_factory=Counter)
    found: list[tuple[Call, str]] = field(default_factory=list)

    def __str__(self) -> str:
        by_backend: Counter[str] = Counter()
        by_function: Counter[str] = Counter()
        for (function, backend), count in self.tried.items():
            by_backend[backend] += count
            by_function[function] += count
        lines = [f"{sum(self.tried.values())} calls tried"]
        lines += [
            ", ".join(f"{name} {count}" for name, count in some.most_common()) for some in (by_function, by_backend)
        ]
        return "\n".join([*lines, *(f"WRONG {why}\n    {call}" for call, why in self.found)])


# ---------------------------------------------------------------- drawing


def draw(seed: int, only: tuple[str, ...] = (), functions: tuple[str, ...] = ()) -> Call:
    """The call of that seed, to one of the backends found here (or of those named)."""
    rng = Draws(0xF022, seed)
    present = [b for b in backends() if (not only or b.name in only) and b.missing() is None]
    backend = _one(rng, present)
    function = _one(rng, functions or FUNCTIONS)
    dtype = _one(rng, [d for d in FORMATS if d in backend.dtypes])
    case = _transform(rng, function, dtype) if function in TRANSFORMS else _loss(rng, function, dtype)
    labels = "int64"
    bad = None
    if case.target_kind == "index":
        least = min((*case.arrays["target"].ravel(), *np.ravel(case.options.get("ignore_index", 0))), default=0)
        labels = _one(rng, LABELS[:4] if least < 0 else LABELS)
        taking = np.ones(case.arrays["target"].shape) if "where" not in case.arrays else np.zeros(())
        one_each = not _axes(case) and "sample_weight" not in case.arrays
        if taking.size and taking.ndim and one_each and _chance(rng, 0.08):
            bad = int(rng.integers(taking.size, ()))
    layouts = {name: _one(rng, LAYOUTS.get(backend.name.split(":")[0], ("plain",))) for name in case.arrays}
    arrays = dict(case.arrays)
    for name, how in layouts.items():
        if how == "expanded" and arrays[name].ndim and arrays[name].size:
            axis = int(rng.integers(arrays[name].ndim, ()))
            shares = name == "target" and case.target_kind == "float" and function in CATEGORICAL
            if shares and axis == case.axis % arrays[name].ndim:
                continue  # along the classes those of a one-hot row might all be 0
            arrays[name] = np.repeat(np.take(arrays[name], [0], axis=axis), arrays[name].shape[axis], axis=axis)
    if function in TRANSFORMS and "where" in arrays:
        arrays["where"] = _some_class(arrays["where"], case.axis)
    return Call(seed, replace(case, arrays=arrays), backend.name, layouts, labels, bad)


def _one(rng: Draws, options: Any) -> Any:
    return options[int(rng.integers(len(options), ()))]


def _chance(rng: Draws, probability: float) -> bool:
    return bool(rng.uniform(()) < probability)


def _shape(rng: Draws, least: int) -> tuple[int, ...]:
    """Up to four dimensions of up to six, a few of none."""
    ndim = least + int(rng.integers(4 - least, ()))
    return tuple(0 if _chance(rng, 0.04) else int(_one(rng, (1, 1, 2, 2, 3, 4, 6))) for _ in range(ndim))


def _logits(rng: Draws, shape: tuple[int, ...], dtype: str, special: bool) -> Floats:
    spread = rng.between(1e-3, MAGNITUDE[dtype] / 6, ())
    x = rng.normal(shape or 1).reshape(shape) * spread
    if special and x.size:
        for _ in range(1 + int(rng.integers(3, ()))):
            x.ravel()[int(rng.integers(x.size, ()))] = _one(rng, SPECIAL)
    return rounded(x, dtype)


def _part_of(rng: Draws, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that broadcasts to it."""
    kept = shape[int(rng.integers(len(shape) + 1, ())) :]
    return tuple(1 if _chance(rng, 0.25) else n for n in kept)


def _weights(rng: Draws, shape: tuple[int, ...], dtype: str) -> Floats:
    return rounded(rng.between(0.25, 2, shape or 1).reshape(shape), dtype)


def _mask(rng: Draws, shape: tuple[int, ...]) -> Floats:
    return np.asarray(rng.uniform(shape or 1).reshape(shape) < 0.75).astype(np.float64)


def _some_class(where: Floats, axis: int) -> Floats:
    """A row of no class at all has no answer: its first one takes part."""
    if where.ndim == 0 or where.size == 0:
        return np.ones_like(where)
    filled = np.moveaxis(where.copy(), axis, -1)
    filled[..., 0] = 1
    return np.moveaxis(filled, -1, axis)


def _transform(rng: Draws, function: str, dtype: str) -> Case:
    elementwise = function in ELEMENTWISE
    shape = _shape(rng, 0 if elementwise else 1)
    options: dict[str, Any] = {}
    arrays: dict[str, Floats] = {}
    due = shape
    if not elementwise:
        axis = int(rng.integers(2 * len(shape), ())) - len(shape)
        shape = tuple(max(n, 1) if i == axis % len(shape) else n for i, n in enumerate(shape))
        options["axis"] = axis
        due = shape
        if function == "logsumexp":
            options["keepdims"] = _chance(rng, 0.5)
            due = tuple(n for i, n in enumerate(shape) if i != axis % len(shape))
            if options["keepdims"]:
                due = tuple(1 if i == axis % len(shape) else n for i, n in enumerate(shape))
    arrays["logits"] = _logits(rng, shape, dtype, _chance(rng, 0.2) and function != "logsumexp")
    # What a class that takes no part has in a row without an answer is left open.
    if not elementwise and np.isfinite(arrays["logits"]).all() and _chance(rng, 0.3):
        arrays["where"] = _some_class(_mask(rng, shape), options["axis"])
    g = rounded(rng.normal(due or 1).reshape(due), dtype)
    return Case(function, "fuzz", "", dtype, arrays, options, cotangent=g)


REDUCTIONS = (
    "none",
    "none",
    "mean",
    "sum",
    Reduce("Mean", {"over": "valid"}),
    Reduce("Mean", {"over": "all", "empty": "zero"}),
    Reduce("Mean", {"empty": "zero"}),
    Reduce("Mean", {"over": 3}),
    Reduce("Sum"),
    Reduce("Hardest", {"k": 2}),
    Reduce("Hardest", {"fraction": 0.5}),
    Reduce("Hardest", {"threshold": 0.7109375}),
    Reduce("Hardest", {"threshold": 0.7109375, "k": 2}),
    Reduce("Mean", {"axis": ()}),
    Reduce("Mean", {"axis": (), "empty": "zero"}),
    Reduce("Sum", {"axis": ()}),
)
"""Where `axis` is empty, axes are drawn."""


def _axes(case: Case) -> bool:
    """Whether there are several results, each of some samples."""
    reduction = case.options.get("reduction")
    return isinstance(reduction, Reduce) and "axis" in reduction.arguments


def _along(rng: Draws, reduction: Any, lead: tuple[int, ...]) -> tuple[Any, tuple[int, ...]]:
    """The reduction, with axes for an empty `axis`, and the shape of its result."""
    if not isinstance(reduction, Reduce) or "axis" not in reduction.arguments:
        return reduction, lead if reduction == "none" else ()
    axes = tuple(i for i in range(len(lead)) if _chance(rng, 0.5)) or tuple(range(len(lead)))[:1]
    arguments = {name: value for name, value in reduction.arguments.items() if name != "axis"}
    if not axes:
        return Reduce(reduction.kind, arguments), ()
    left = tuple(n for i, n in enumerate(lead) if i not in axes)
    named = axes[0] - len(lead) if len(axes) == 1 else axes
    return Reduce(reduction.kind, {**arguments, "axis": named}), left


def _loss(rng: Draws, function: str, dtype: str) -> Case:
    elementwise = function in ELEMENTWISE
    shape = _shape(rng, 0 if elementwise else 1)
    options: dict[str, Any] = {"reduction": _one(rng, REDUCTIONS), **_one(rng, variants(function))}
    axis = -1
    if not elementwise:
        axis = int(rng.integers(2 * len(shape), ())) - len(shape)
        shape = tuple(max(n, 1) if i == axis % len(shape) else n for i, n in enumerate(shape))
        options["axis"] = axis
    lead = shape if elementwise else tuple(n for i, n in enumerate(shape) if i != axis % len(shape))
    options["reduction"], due = _along(rng, options["reduction"], lead)
    hardest = isinstance(options["reduction"], Reduce) and options["reduction"].kind == "Hardest"
    if dtype in HALF and "threshold" in getattr(options["reduction"], "arguments", ()):  # losses may round to it
        options["reduction"] = Reduce("Hardest", {"k": 2})
    special = function not in ("nll_loss", *DIVERGENCES)
    x = _logits(rng, shape, dtype, _chance(rng, 0.2) and not hardest and special)
    if function in ("nll_loss", *GIVEN):
        x = -np.abs(x)
    if function == "binary_cross_entropy":
        x = rounded(rng.between(2.0**-7, 1 - 2.0**-7, shape or 1).reshape(shape), dtype)
    arrays: dict[str, Floats] = {"logits": x}
    kind = "float"
    if function in PAIRED:
        arrays["target"] = _logits(rng, shape, dtype, False)
    elif function in GIVEN:
        arrays["target"] = _target(rng, kind, shape, lead, axis, elementwise, dtype, options)
    else:
        kind = _one(rng, ("index", "index", "float", "bool") if elementwise else ("index", "index", "float"))
        arrays["target"] = _target(rng, kind, shape, lead, axis, elementwise, dtype, options)
    if _chance(rng, 0.3):
        arrays["sample_weight"] = _weights(rng, _part_of(rng, lead), dtype)
    if _chance(rng, 0.3):
        arrays["where"] = _mask(rng, _part_of(rng, lead))
    if function in CATEGORICAL and _chance(rng, 0.3):
        arrays["class_weight"] = _weights(rng, (shape[axis],), dtype)
    if "focal" in function:
        if _chance(rng, 0.2):
            options["alpha"] = 0.25
        elif _chance(rng, 0.3):
            part = _part_of(rng, shape) if elementwise else (shape[axis],)
            arrays["alpha"] = rounded(rng.uniform(part or 1).reshape(part), dtype)
        if _chance(rng, 0.4):
            part = _part_of(rng, shape)
            part = (shape[axis],) if len(part) == 1 and not elementwise else part
            gammas = np.asarray([0.0, 0.5, 1.0, 2.0, 3.0, 5.0])
            arrays["gamma"] = gammas[rng.integers(len(gammas), part or 1).astype(np.int64)].reshape(part)
            del options["gamma"]
    if function in ("cross_entropy", "kl_divergence_with_logits") and _chance(rng, 0.3):
        options["temperature"] = _one(rng, (0.75, 2.0, 5.5))
    if function in BINARY and _chance(rng, 0.3):
        arrays["pos_weight"] = _weights(rng, _part_of(rng, shape), dtype)
    if function not in ("nll_loss", *DIVERGENCES) and _chance(rng, 0.25):
        options["label_smoothing"] = _one(rng, (0.125, 0.5, 1.0))
    if function == "cross_entropy" and np.all(np.isfinite(x)) and _chance(rng, 0.25):
        options["z_loss"] = _one(rng, (0.0, 2.0**-10, 1.0))
    if dtype in HALF and _chance(rng, 0.2):
        options["dtype"] = "float32"
    cotangent = None
    if options["reduction"] == "none" or due:  # one number takes no cotangent
        cotangent = rounded(rng.between(0.5, 2, due or 1).reshape(due), str(options.get("dtype", dtype)))
    return Case(function, "fuzz", "", dtype, arrays, options, kind, cotangent)


def _target(
    rng: Draws,
    kind: str,
    shape: tuple[int, ...],
    lead: tuple[int, ...],
    axis: int,
    elementwise: bool,
    dtype: str,
    options: dict[str, Any],
) -> Floats:
    if elementwise:
        bits = rng.integers(2, lead or 1).reshape(lead)
        if kind == "float":
            return rounded(
                np.where(rng.uniform(lead or 1).reshape(lead) < 0.5, bits, rng.uniform(lead or 1).reshape(lead)), dtype
            )
        if kind == "index" and _chance(rng, 0.3):
            options["ignore_index"] = _one(rng, (-1, 7, (-1, 7)))
            return np.where(_mask(rng, lead) == 0, float(np.ravel(options["ignore_index"])[0]), bits)
        return bits
    if kind == "index":
        labels = rng.integers(shape[axis], lead or 1).reshape(lead)
        if _chance(rng, 0.3):
            options["ignore_index"] = _one(rng, (-100, -1, 0, (-1, 0)))
            labels = np.where(_mask(rng, lead) == 0, float(np.ravel(options["ignore_index"])[0]), labels)
        return labels
    shares = rng.shares((*lead, shape[axis]))
    if _chance(rng, 0.5) and shares.size:
        shares = np.where(shares == np.max(shares, axis=-1, keepdims=True), 1.0, 0.0)
        shares /= np.sum(shares, axis=-1, keepdims=True)
    return rounded(np.moveaxis(shares, -1, axis), dtype)


# ---------------------------------------------------------------- calling


def _laid(values: Any, how: str, library: str) -> Any:
    """The same numbers, another place for them."""
    if how == "plain" or (values.ndim == 0 and how not in ("byte-swapped", "read-only")):
        return values
    if library == "torch":
        return _laid_of_torch(values, how)
    if how == "Fortran":
        return np.asfortranarray(values)
    if how == "backwards":
        return np.ascontiguousarray(values[::-1])[::-1]
    if how == "strided":
        wide = np.full((*values.shape[:-1], 2 * values.shape[-1]), 1, dtype=values.dtype)
        wide[..., ::2] = values
        return wide[..., ::2]
    if how == "byte-swapped":
        return values.astype(values.dtype.newbyteorder())
    if how == "read-only":
        values = values.copy()
        values.flags.writeable = False
        return values
    if how == "unaligned":
        room = np.zeros(values.nbytes + 1, dtype=np.uint8)[1:].view(values.dtype).reshape(values.shape)
        room[...] = values
        return room
    return np.broadcast_to(values[_constant(values)], values.shape)


def _laid_of_torch(values: Any, how: str) -> Any:
    if how == "Fortran":
        return values.permute(*range(values.ndim)[::-1]).contiguous().permute(*range(values.ndim)[::-1])
    if how == "strided":
        return values.repeat_interleave(2, dim=-1)[..., ::2]
    if how == "offset":
        room = values.new_zeros(values.numel() + 1)[1:].reshape(values.shape)
        return room.copy_(values)
    return values[_constant(values)].expand(values.shape)


def _constant(values: Any) -> tuple[slice, ...]:
    """The first of each axis along which all numbers are the same."""
    plain = np.asarray(values if isinstance(values, np.ndarray) else values.double().numpy())
    found = []
    for axis, n in enumerate(plain.shape):
        first = np.take(plain, [0], axis=axis) if n else plain
        same = n > 0 and bool(np.all((plain == first) | (np.isnan(plain) & np.isnan(first))))
        found.append(slice(0, 1) if same else slice(None))
    return tuple(found)


def wrong(call: Call, implementation: Implementation) -> str:
    """What is wrong with what comes back, in words; nothing where nothing is."""
    backend = next(b for b in backends() if b.name == call.backend)
    case = call.case
    if call.bad is not None:
        target = case.arrays["target"].copy()
        target.ravel()[call.bad] = 99
        case = replace(case, arrays={**case.arrays, "target": target})
    with backend.setting(case.dtype, case.result_dtype):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                # array-api-strict has no way of asking NumPy not to warn.
                with np.errstate(all="ignore") if call.backend == "array-api-strict" else np.errstate():
                    found = _answers(call, case, implementation, backend)
        except Exception as error:  # whatever is raised is a finding
            if call.bad is not None and isinstance(error, ValueError) and "out of range" in str(error):
                return ""
            return f"{type(error).__name__}: {error}"[:400]
        with np.errstate(all="ignore"):
            return next(filter(None, _complaints(call, case, backend, *found)), "")


def _answers(
    call: Call, case: Case, implementation: Implementation, backend: Backend
) -> tuple[dict[str, Any], dict[str, Floats], dict[str, Any]]:
    """The arrays that were passed, their numbers before, and what came back; lazy arrays computed."""
    library = backend.name.split(":")[0]
    arrays, options = backend.arguments(implementation, case)
    if case.target_kind == "index":
        arrays["target"] = backend.array(case.arrays["target"], call.labels)
    arrays = {name: _laid(values, call.layouts.get(name, "plain"), library) for name, values in arrays.items()}
    pull = backend.pull(case)
    before = {name: backend.numpy(values) for name, values in arrays.items()}
    loss = implementation.functions[case.function]

    def apply(f: Callable[..., Any], given: Mapping[str, Any], **more: Any) -> Any:
        leading = [given[name] for name in ("logits", "target") if name in given]
        return f(*leading, **{k: v for k, v in given.items() if k not in ("logits", "target")}, **options, **more)

    results = {"value": apply(loss, arrays)}
    if "target" in arrays and implementation.value_and_grad is not None:
        both = apply(implementation.value_and_grad(loss), arrays, **pull)
        results["closed value"], results["closed d logits"] = both
    linear = implementation.functions.get("linear_cross_entropy")
    if case.function == "cross_entropy" and linear is not None and implementation.value_and_grad is not None:
        x = case.arrays["logits"]
        if np.isfinite(x).all() and "temperature" not in options:
            # The logits are those of a layer that changes nothing.
            weight = backend.array(np.eye(x.shape[case.axis]), case.dtype)
            results["linear value"] = apply(partial(_through_layer, linear, weight), arrays)
            both = apply(partial(_through_layer, implementation.value_and_grad(linear), weight), arrays, **pull)
            results["linear closed value"], results["linear d logits"] = both[0], both[1].hidden
    if backend.differentiates:
        rest = {name: values for name, values in arrays.items() if name != "logits"}
        value, gradients = backend.differentiate(
            lambda some: apply(loss, {**some, **rest}), {"logits": arrays["logits"]}, pull.get("cotangent")
        )
        results |= {"auto value": value, "auto d logits": gradients["logits"]}
    for values in results.values():
        backend.numpy(values)
    return arrays, before, results


def _through_layer(f: Loss, weight: Any, hidden: Any, target: Any, /, **options: Any) -> Any:
    return f(hidden, weight, target, **options)


def _complaints(
    call: Call,
    case: Case,
    backend: Backend,
    arrays: Mapping[str, Any],
    before: Mapping[str, Floats],
    results: Mapping[str, Any],
) -> Iterator[str]:
    for name, values in arrays.items():
        if not np.array_equal(backend.numpy(values), before[name], equal_nan=True):
            yield f"{name} was written to"
    for name, values in results.items():
        due = case.result_dtype if "value" in name else case.dtype
        if not backend.owns(values):
            yield f"{name} is a {type(values).__name__}"
        if due not in (str(values.dtype).split(".")[-1], getattr(values.dtype, "name", "")):  # of either byte order
            yield f"{name} is of {values.dtype}, not {due}"
    got = {name: backend.numpy(values) for name, values in results.items()}
    if call.bad is not None:
        for name, numbers in got.items():
            one = numbers.ravel()[call.bad] if "value" in name and numbers.ndim else numbers
            if "value" in name and not np.isnan(one).all():
                yield f"{name}: a label out of range gives {one}"
        return
    answer = budget.due(case, exact(case))
    for name, numbers in got.items():
        plain = name.removeprefix("linear ").removeprefix("closed ").removeprefix("auto ")
        if plain != "value" and _open(case, answer["value"].exact.high):
            continue
        one = answer[plain]
        if numbers.shape != one.exact.high.shape:
            yield f"{name} has shape {numbers.shape}, not {one.exact.high.shape}"
            continue
        rest = (one.dtype, one.budget, one.allowance, one.terms, one.magnified, one.flushable)
        found = measure(numbers, one.exact, *rest)
        said = fault(found, one.budget)
        if said:
            at = np.unravel_index(found.worst_at, numbers.shape)
            yield f"{name}: {said}; at {tuple(map(int, at))} {numbers[at]!r} for {one.exact.high[at]!r}"


def _open(case: Case, value: Floats) -> bool:
    """Whether the contract leaves the gradient open: a mean of nothing, losses that tie for a place."""
    reduction = case.reduction
    hardest = isinstance(reduction, Reduce) and reduction.kind == "Hardest"
    mean_of_nothing = case.function not in TRANSFORMS and reduction != "none" and bool(np.isnan(value).any())
    return hardest or mean_of_nothing


# ---------------------------------------------------------------- searching


def search(
    implementation: Implementation,
    seconds: float = math.inf,
    *,
    seeds: Iterator[int],
    only: tuple[str, ...] = (),
    functions: tuple[str, ...] = (),
    most: int = 40,
) -> Tally:
    """Try the calls of these seeds until the time is up, or so many went wrong; those alike are kept once."""
    tally = Tally()
    known: set[tuple[str, str, str]] = set()
    end = time.monotonic() + seconds
    for seed in seeds:
        call = draw(seed, only, functions)
        why = wrong(call, implementation)
        tally.tried[call.case.function, call.backend] += 1
        alike = (call.case.function, call.backend, why.split(";")[0].split(" over ")[-1][:80])
        if why and alike not in known:
            known.add(alike)
            tally.found.append((call, why))
        if time.monotonic() > end or len(tally.found) >= most:
            break
    return tally
