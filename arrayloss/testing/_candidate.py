"""From any function to an `Implementation`: find out which options, library and targets it takes."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

import numpy as np

from arrayloss.testing._backends import Backend, Implementation, Loss, backends, no_warnings
from arrayloss.testing._cases import Case, Reduce
from arrayloss.testing._formats import Floats
from arrayloss.testing._vectors import judged_functions, vectors

DEFAULTS: Mapping[str, Any] = {
    "axis": -1,
    "keepdims": False,
    "gamma": 2.0,
    "epsilon": 2.0,
    "gamma_positive": 1.0,
    "gamma_negative": 4.0,
    "margin": 0.05,
    "alpha": None,
    "label_smoothing": 0.0,
    "class_weight": None,
    "sample_weight": None,
    "pos_weight": None,
    "where": None,
    "reduction": "mean",
    "dtype": None,
}
"""The value of an option that a case doesn't give. A function without the option has to behave as with this value."""

DEFAULTS_OF: Mapping[str, Mapping[str, Any]] = {
    "generalized_cross_entropy": {"q": 0.7},
    "symmetric_cross_entropy": {"alpha": 0.1, "beta": 1.0, "log_zero": math.log(1e-4)},
}
"""The same for single functions, whose options may have the names of other functions' options."""

IGNORED = -100
"""The label that doesn't count, if a case doesn't give another."""

WEIGHTS = ("sample_weight", "class_weight")


@dataclass(frozen=True)
class Parameters:
    """The options that a function takes by name, with their defaults; `every` where it takes any name."""

    defaults: Mapping[str, Any]
    every: bool

    def take(self, name: str) -> bool:
        """Whether it takes an option of that name."""
        return self.every or name in self.defaults


def parameters(f: Loss, leading: int) -> Parameters:
    """What a function takes besides its first `leading` arguments; for a class, what its constructor takes."""
    f, leading = (f, 0) if isinstance(f, type) else (getattr(f, "forward", f), leading)  # torch's modules have forward
    try:
        # A decorated function takes what it wraps takes, and what the wrapper names besides (`cotangent`, say).
        inner, outer = (inspect.signature(f, follow_wrapped=follow).parameters.values() for follow in (True, False))
    except (TypeError, ValueError):  # written in C, and doesn't say
        return Parameters({}, False)
    named = [
        p
        for found in (inner, outer)
        for i, p in enumerate(found)
        if p.kind is p.KEYWORD_ONLY or (i >= leading and p.kind is p.POSITIONAL_OR_KEYWORD)
    ]
    return Parameters({p.name: p.default for p in named}, any(p.kind is p.VAR_KEYWORD for p in inner))


@dataclass(frozen=True)
class Trial:
    """What came of calling a function with a case on a library: the value, and in which mode; or what it raised."""

    value: Any = None
    mode: str = "eager"
    refused: str = ""
    raised: Exception | None = None


def judged_as(f: Loss, as_: str | None) -> str:
    """The name that a function is judged as: the one given, or its own."""
    name = as_ or getattr(f, "__name__", "")
    if name not in judged_functions():
        said = "is no function that can be judged" if as_ else "says nothing of what it is judged as: give as_, one of"
        raise ValueError(f"{name or repr(f)} {said}{';' if as_ else ''} {', '.join(judged_functions())}")
    return name


def candidate(
    f: Loss,
    as_: str,
    among: Sequence[Backend] = (),
    *,
    value_and_grad: Loss | None = None,
    gradient: bool = True,
) -> Implementation:
    """Make a function into an implementation, by calling it once with every kind of target on a library it may take.

    Parameters
    ----------
    f
        Called as `f(logits, target, **options)`, or `f(logits, **options)`, with those options that its signature has.
        A class (of torch's modules, say) is called as `f(**options)(logits, target)`. If it takes no labels but
        one-hot targets, it is given these in place of labels; if it takes no samples along one axis, a second axis.
    as_
        What it is judged as.
    among
        The libraries that it takes; empty to find the first whose arrays it takes and returns, among those that have
        been imported (whoever defined the function has imported its library).
    value_and_grad
        Called as `f` is, with `cotangent` too if its signature has that. Returns the value and the gradient with
        respect to the logits.
    gradient
        Whether it has to be differentiable where the library has autodiff.

    Raises
    ------
    ValueError
        If it takes no library's arrays, with the reason for each (what it raised is the cause); or if it takes the
        target first.
    """
    cases = vectors(as_)
    leading = 1 if cases[0].target_kind == "none" else 2
    takes = parameters(f, leading)
    # If there is a class axis, labels have one axis fewer than the logits.
    rows = any(case.target_kind == "index" and "axis" in case.options for case in cases)
    defaults = {**DEFAULTS, **DEFAULTS_OF.get(as_, {}), "ignore_index": IGNORED if rows else None}
    pulled = parameters(value_and_grad or f, leading)
    pulls = value_and_grad is None or pulled.take("cotangent")
    both = None if value_and_grad is None else _with_defaults(value_and_grad, pulled, defaults)
    probes: dict[str, Case] = {}
    for case in sorted(cases, key=lambda c: (c.dtype != "float32", c.options.get("reduction") != "none")):
        if not _untaken(case, takes):
            probes.setdefault(case.target_kind, case)
    assert probes  # each function has vectors that need no option

    gradient = gradient and value_and_grad is None
    # Its own defaults where the contract has None, such as an alpha of 0.25: kept if it refuses None.
    stay = {name: value for name, value in takes.defaults.items() if name in defaults and defaults[name] is None}
    stay = {name: value for name, value in stay.items() if value not in (None, inspect.Parameter.empty)}
    attempts: list[dict[str, Any]] = [{}, stay] if stay else [{}]
    for fixed in attempts:
        call = _with_defaults(f, takes, {name: value for name, value in defaults.items() if name not in fixed})
        try:
            found, trials = take_library(call, probes, among, gradient)
            break
        except ValueError:
            if fixed is attempts[-1]:
                _refuse_other_order(f, call, probes, among, {})
                raise
    columns = False
    flat = {kind: _as_column(probes[kind]) for kind, trial in trials.items() if trial.refused and not rows}
    if any(probe is not probes[kind] for kind, probe in flat.items()):
        # kornia and MONAI take one number for each sample as a row of one class.
        more = {kind: _try(call, probe, found, gradient) for kind, probe in flat.items()}
        columns = not all(trial.refused for trial in more.values())
        if columns:
            trials, probes = {**trials, **more}, {**probes, **flat}
    _refuse_other_order(f, call, probes, (found,), trials)
    reduces = "" if takes.take("reduction") else _reduces(probes, trials)
    refused_kinds = {kind: trial.refused for kind, trial in trials.items() if trial.refused}
    one_hot = rows and "index" in refused_kinds and "float" in trials and "float" not in refused_kinds
    if one_hot:
        del refused_kinds["index"]

    def not_covered(case: Case) -> str | None:
        if untaken := _untaken(case, takes):
            return f"takes no {', '.join(untaken)}"
        if left := [name for name in fixed if name not in case.options and name not in case.arrays]:
            return ", ".join(f"{name} is {fixed[name]!r} unless given, and can't be None" for name in left)
        if case.target_kind in refused_kinds:
            return f"takes no target of kind {case.target_kind} ({refused_kinds[case.target_kind]})"
        if one_hot and case.target_kind == "index" and np.any(case.arrays["target"] < 0):
            return "takes one-hot targets, which have no label to ignore"
        if not pulls and case.cotangent is not None and np.any(case.cotangent != 1):
            return "value_and_grad takes no cotangent"
        if case.target_kind != "none" and reduces:
            return _reduced_otherwise(case, reduces)
        return None

    return Implementation(
        getattr(f, "__name__", type(f).__name__),
        {as_: call},
        None if both is None else lambda loss: both,
        backends=tuple(one.name for one in among) or (found.name,),
        not_covered=not_covered,
        single=reduces in ("mean", "sum"),
        adapted=_as_one_hot if one_hot else _as_column if columns else lambda case: case,
        fixed=fixed,
        mode="eager" if any(trial.mode == "eager" and not trial.refused for trial in trials.values()) else "jax.jit",
    )


def _as_one_hot(case: Case) -> Case:
    """The case with one-hot targets in place of labels."""
    if case.target_kind != "index":
        return case
    axis = case.axis % case.arrays["logits"].ndim
    classes = np.arange(case.arrays["logits"].shape[axis])
    hot = np.moveaxis(case.arrays["target"][..., None] == classes, -1, axis).astype(np.float64)
    return replace(case, arrays={**case.arrays, "target": hot}, target_kind="float")


def _as_column(case: Case) -> Case:
    """The case with an axis of length 1 after that of the samples, if there is no other."""
    shape = case.arrays["logits"].shape
    if len(shape) != 1 or case.target_kind == "none":
        return case
    arrays = {name: a[:, None] if a.shape == shape else a for name, a in case.arrays.items()}
    pulled = case.cotangent
    pulled = pulled if pulled is None or pulled.shape != shape else pulled[:, None]
    return replace(case, arrays=arrays, cotangent=pulled)


def _refuse_other_order(
    f: Loss, call: Loss, probes: Mapping[str, Case], among: Sequence[Backend], trials: Mapping[str, Trial]
) -> None:
    """Raise if it takes the target first: its first parameter is y_true, or only that order gives the right numbers."""
    due = {kind: one.due["value"].exact.high for kind, one in probes.items()}
    if "none" in probes or any(_near(trial.value, due[kind]) for kind, trial in trials.items()):
        return

    def swapped(logits: Any, target: Any, **options: Any) -> Any:
        return call(target, logits, **options)

    if _first_parameter(f) != "y_true":
        try:
            _, others = take_library(swapped, probes, among, False)
        except ValueError:
            return
        if not any(_near(trial.value, due[kind]) for kind, trial in others.items()):
            return
    name = getattr(f, "__name__", type(f).__name__)
    raise ValueError(
        f"{name} takes the target first; it is called with the logits first: judge a function with its arguments in "
        f"that order, such as def judged(logits, target): return {name}(target, logits)"
    )


def _first_parameter(f: Loss) -> str:
    try:
        return next(iter(inspect.signature(getattr(f, "forward", f)).parameters), "")
    except (TypeError, ValueError):
        return ""


def _near(value: Any, losses: Floats) -> bool:
    """Whether `value` is about the losses, or their mean or sum."""
    if value is None:
        return False
    due: list[Any] = [losses.ravel()] if value.size == losses.size else []
    due += [np.mean(losses), np.sum(losses)] if value.shape == () else []
    with np.errstate(invalid="ignore"):
        return any(float(np.mean(np.abs(value.ravel() - one) <= 0.01 * np.abs(one))) > 0.5 for one in due)


def take_library(
    f: Loss, probes: Mapping[str, Case], among: Sequence[Backend], gradient: bool
) -> tuple[Backend, dict[str, Trial]]:
    """The first library (see `candidate`) on which a function answers any of the probes, and what it answered."""
    refusals: dict[str, Trial] = {}
    # A function may import its library as it is called: look again after every round.
    while waiting := [one for one in _trials(among, gradient) if one.name not in refusals]:
        for backend in waiting:
            trials = {kind: _try(f, probe, backend, gradient) for kind, probe in probes.items()}
            if not all(trial.refused for trial in trials.values()):
                return backend, trials
            refusals[backend.name] = next(iter(trials.values()))
    said = "; ".join(f"{name}: {trial.refused}" for name, trial in refusals.items())
    raised = [trial.raised for trial in refusals.values() if trial.raised is not None]
    cause = ExceptionGroup("what was raised", raised) if raised else None
    raise ValueError(f"no library's arrays are taken: {said or 'none is installed'}") from cause


def _trials(among: Sequence[Backend], gradient: bool) -> list[Backend]:
    """The libraries to try. Those with autodiff are first: a function not meant for one isn't differentiable there."""
    imported = [one for one in backends() if one.module in sys.modules]
    found = among or sorted(imported, key=lambda one: gradient and not one.differentiates)
    return [one for one in found if one.missing() is None]


def _try(call: Loss, probe: Case, backend: Backend, gradient: bool) -> Trial:
    asked = Implementation("", {probe.function: call})
    wanted = replace(probe, cotangent=None, wrt=probe.wrt if gradient else ())
    if "jax.jit" in backend.modes:
        # Compiled whole, it takes a tenth of the time that its operations take, one by one.
        with suppress(Exception):
            return Trial(backend.evaluate(asked, wanted, "jax.jit")["value"], "jax.jit")
    try:
        with backend.setting(probe.dtype), no_warnings(strict=False):
            arrays, options = backend.arguments(asked, probe)
            leading = [arrays.pop(name) for name in ("logits", "target") if name in arrays]
            value = call(*leading, **arrays, **options)
            if not backend.owns(value):
                return Trial(refused=f"gave {type(value).__module__}.{type(value).__name__}")
            if gradient and backend.differentiates:
                backend.evaluate(asked, wanted, "eager")
            return Trial(backend.numpy(value))
    except Exception as error:  # whatever it raises says that it doesn't take this
        said = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]
        return Trial(refused=said, raised=error)


def _reduces(probes: Mapping[str, Case], trials: Mapping[str, Trial]) -> str:
    """The reduction of a function that has no such option: "none", "mean" or "sum"."""
    for kind, probe in probes.items():
        value, losses = trials[kind].value, probe.due["value"].exact.high
        if value is not None and value.shape:
            return "none"
        if value is not None and losses.ndim:
            return "mean" if abs(value - np.mean(losses)) <= abs(value - np.sum(losses)) else "sum"
    return "mean"


def _reduced_otherwise(case: Case, reduces: str) -> str | None:
    """Why a function that has no such option can't be asked for the reduction of a case."""
    asked = case.reduction
    if asked == reduces:
        return None
    if reduces == "none":
        return f"reduction {asked}: it doesn't reduce"
    if asked != "none":
        return f"reduction {asked}: it reduces to its {reduces}"
    if any(name in case.arrays for name in WEIGHTS):
        return f"weighted losses of single samples: it reduces to its {reduces}"
    if case.arrays["logits"].size == 0:
        return f"losses of no samples: it reduces to its {reduces}"
    return None


def _untaken(case: Case, takes: Parameters) -> list[str]:
    """The options that a case needs and the function hasn't."""
    needed = [name for name in case.arrays if name not in ("logits", "target")]
    needed += [name for name, value in case.options.items() if name not in DEFAULTS or value != DEFAULTS[name]]
    if case.target_kind == "index" and np.any(case.arrays["target"] == IGNORED):
        needed.append("ignore_index")
    asked = case.options.get("reduction")
    objects = [f"reduction {asked}"] if isinstance(asked, Reduce) else []
    # Which of the named reductions it has is found out by calling it.
    return [name for name in dict.fromkeys(needed) if name != "reduction" and not takes.take(name)] + objects


def _with_defaults(f: Loss, takes: Parameters, defaults: Mapping[str, Any]) -> Loss:
    """The function, without the options that it hasn't, and with the contract's defaults where its own are others."""
    own = {
        name: defaults[name]
        for name, default in takes.defaults.items()
        if name in defaults and (default is inspect.Parameter.empty or default != defaults[name])
    }

    def call(*arrays: Any, **options: Any) -> Any:
        given = {**own, **{name: value for name, value in options.items() if takes.take(name)}}
        return f(**given)(*arrays) if isinstance(f, type) else f(*arrays, **given)

    # `wraps`: a program that reproduces a failure calls the function itself, if no default is changed.
    return call if own else wraps(f)(call)
