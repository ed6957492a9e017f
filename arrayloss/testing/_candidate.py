"""Somebody's function as something that can be judged: which options, library and targets it takes is found out."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

import numpy as np

from arrayloss.testing._backends import Backend, Implementation, Loss, backends, no_warnings
from arrayloss.testing._cases import Case, Reduce
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
"""What an option is where a case doesn't say: a function that hasn't the option has to do the same."""

IGNORED = -100
"""The label that doesn't count, where a case doesn't say."""

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
    """What a function takes besides its first `leading` arguments."""
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
    """What came of calling a function with one case on one library."""

    value: Any = None
    refused: str = ""


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
    as_
        What it is judged as.
    among
        The libraries that it takes; empty to find the first that it answers in kind, among those that have been
        imported (whoever defined the function has imported its library).
    value_and_grad
        Called as `f` is, with `cotangent` too if its signature has that. Returns the value and the gradient with
        respect to the logits.
    gradient
        Whether it has to be differentiable where the library has autodiff.

    Raises
    ------
    ValueError
        If it works with the arrays of no library. The message has the error for each library.
    """
    cases = vectors(as_)
    leading = 1 if cases[0].target_kind == "none" else 2
    takes = parameters(f, leading)
    # Labels have an axis fewer than the logits of a row of classes.
    rows = any(case.target_kind == "index" and "axis" in case.options for case in cases)
    defaults = {**DEFAULTS, "ignore_index": IGNORED if rows else None}
    call = _with_defaults(f, takes, defaults)
    pulled = parameters(value_and_grad or f, leading)
    pulls = value_and_grad is None or pulled.take("cotangent")
    both = None if value_and_grad is None else _with_defaults(value_and_grad, pulled, defaults)
    probes: dict[str, Case] = {}
    for case in sorted(cases, key=lambda c: (c.dtype != "float32", c.options.get("reduction") != "none")):
        if not _untaken(case, takes):
            probes.setdefault(case.target_kind, case)
    assert probes  # each function has vectors that need no option

    gradient = gradient and value_and_grad is None
    found, trials = take_library(call, probes, among, gradient)
    reduces = "" if takes.take("reduction") else _reduces(probes, trials)
    refused = {kind: trial.refused for kind, trial in trials.items() if trial.refused}

    def not_covered(case: Case) -> str | None:
        if untaken := _untaken(case, takes):
            return f"takes no {', '.join(untaken)}"
        if case.target_kind in refused:
            return f"takes no target of kind {case.target_kind} ({refused[case.target_kind]})"
        if not pulls and case.cotangent is not None and np.any(case.cotangent != 1):
            return "value_and_grad takes no cotangent"
        if case.target_kind != "none" and reduces:
            return _reduced_otherwise(case, reduces)
        return None

    return Implementation(
        str(getattr(f, "__name__", f)),
        {as_: call},
        None if both is None else lambda loss: both,
        backends=tuple(one.name for one in among) or (found.name,),
        not_covered=not_covered,
        single=reduces in ("mean", "sum"),
    )


def take_library(
    f: Loss, probes: Mapping[str, Case], among: Sequence[Backend], gradient: bool
) -> tuple[Backend, dict[str, Trial]]:
    """The first library (see `candidate`) on which a function answers any of the probes, and what it answered."""
    refusals: dict[str, str] = {}
    # A function may import its library as it is called: look again after every round.
    while waiting := [one for one in _trials(among, gradient) if one.name not in refusals]:
        for backend in waiting:
            trials = {kind: _try(f, probe, backend, gradient) for kind, probe in probes.items()}
            if not all(trial.refused for trial in trials.values()):
                return backend, trials
            refusals[backend.name] = next(iter(trials.values())).refused
    said = "; ".join(f"{name}: {refused}" for name, refused in refusals.items())
    raise ValueError(f"no library's arrays are taken: {said or 'none is installed'}")


def _trials(among: Sequence[Backend], gradient: bool) -> list[Backend]:
    """Where to try: what isn't differentiable there is not meant for a library with autodiff, so these come first."""
    imported = [one for one in backends() if one.module in sys.modules]
    found = among or sorted(imported, key=lambda one: gradient and not one.differentiates)
    return [one for one in found if one.missing() is None]


def _try(call: Loss, probe: Case, backend: Backend, gradient: bool) -> Trial:
    asked = Implementation("", {probe.function: call})
    try:
        with backend.setting(probe.dtype), no_warnings(strict=False):
            arrays, options = backend.arguments(asked, probe)
            leading = [arrays.pop(name) for name in ("logits", "target") if name in arrays]
            value = call(*leading, **arrays, **options)
            if not backend.owns(value):
                return Trial(refused=f"gave {type(value).__module__}.{type(value).__name__}")
            if gradient and backend.differentiates:
                backend.evaluate(asked, replace(probe, cotangent=None), "eager")
            return Trial(backend.numpy(value))
    except Exception as error:  # whatever it raises says that it doesn't take this
        return Trial(refused=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200])


def _reduces(probes: Mapping[str, Case], trials: Mapping[str, Trial]) -> str:
    """The reduction of a function that has no such option: "none", "mean" or "sum"."""
    for kind, probe in probes.items():
        value, losses = trials[kind].value, probe.due["value"].exact.high
        if value is not None and losses.ndim:
            if value.shape:
                return "none"
            return "mean" if abs(value - np.mean(losses)) <= abs(value - np.sum(losses)) else "sum"
    return "mean"


def _reduced_otherwise(case: Case, reduces: str) -> str | None:
    """Why a function that has no such option can't be asked for the reduction of a case."""
    asked = case.options.get("reduction", "mean")
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
    # Which of the other reductions it has is found out.
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
        return f(*arrays, **given)

    # A program that reproduces a failure calls the function itself, where that is the same call.
    return call if own else wraps(f)(call)
