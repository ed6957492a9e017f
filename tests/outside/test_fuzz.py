"""The fuzzer: the calls of some hundred fixed seeds, and that it notices what it is there for.

`python -m conformance --hunt SECONDS` goes on from there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import arrayloss as al

pytest.importorskip("flint")

from conformance import fuzz
from conformance.backends import arrayloss

CALLS = {"numpy": 400, "torch:cpu": 250, "array-api-strict": 150, "dask": 15}
"""As many as take a second or two each. JAX compiles every operation for every shape: it is left to the hunt."""


@pytest.mark.parametrize("place", CALLS)
def test_no_call_goes_wrong(place: str) -> None:
    if place not in {one.name for one in fuzz.backends() if one.missing() is None}:
        pytest.skip(f"{place} is not here")
    tally = fuzz.search(arrayloss(), seeds=iter(range(CALLS[place])), only=(place,))
    assert sum(tally.tried.values()) == CALLS[place] or tally.found
    assert not tally.found, f"\n{tally}"


def test_the_same_seed_is_the_same_call() -> None:
    for seed in range(20):
        one, other = fuzz.draw(seed, ("numpy",)), fuzz.draw(seed, ("numpy",))
        assert str(one) == str(other)
        for name, values in one.case.arrays.items():
            np.testing.assert_array_equal(values, other.case.arrays[name])


def test_everything_is_drawn() -> None:
    calls = [fuzz.draw(seed, ("numpy",)) for seed in range(1500)]
    assert {call.case.function for call in calls} == set(fuzz.FUNCTIONS)
    assert {how for call in calls for how in call.layouts.values()} == set(fuzz.LAYOUTS["numpy"])
    assert {call.labels for call in calls} == set(fuzz.LABELS)
    assert {call.case.dtype for call in calls} == {"float16", "float32", "float64"}
    assert any(call.case.arrays["logits"].shape == () for call in calls)
    assert any(call.case.arrays["logits"].size == 0 for call in calls)
    assert any(call.bad is not None for call in calls)
    names = {name for call in calls for name in (*call.case.arrays, *call.case.options)}
    options = {"axis", "reduction", "label_smoothing", "ignore_index", "dtype", "gamma", "epsilon", "margin", "alpha"}
    options |= {"class_weight", "sample_weight", "where", "pos_weight", "keepdims", "temperature", "z_loss"}
    assert names >= options
    arrays = {name for call in calls for name, values in call.case.arrays.items() if values.ndim}
    assert arrays >= {"gamma", "alpha", "pos_weight"}
    reductions = [call.case.options.get("reduction") for call in calls]
    assert {name for one in reductions for name in getattr(one, "arguments", ())} >= {"axis", "threshold"}
    assert any(isinstance(call.case.options.get("ignore_index"), tuple) for call in calls)
    labelled = [call for call in calls if call.case.target_kind in ("index", "bool", "float")]
    assert len({call.case.target_kind for call in labelled}) == 3


def rounds_badly(loss: Any) -> Any:
    return lambda *a, **k: loss(*a, **k) * np.float64(1 + 1e-6)


def writes(loss: Any) -> Any:
    def wrong(x: Any, *rest: Any, **options: Any) -> Any:
        value = loss(x, *rest, **options)
        if x.flags.writeable and x.size:
            x += 1
        return value

    return wrong


def warns(loss: Any) -> Any:
    def wrong(x: Any, *rest: Any, **options: Any) -> Any:
        np.log(np.zeros(1))
        return loss(x, *rest, **options)

    return wrong


def forgets_the_layout(loss: Any) -> Any:
    def wrong(x: Any, *rest: Any, **options: Any) -> Any:
        return loss(np.ravel(x, order="K").reshape(x.shape), *rest, **options)

    return wrong


def widens(loss: Any) -> Any:
    return lambda x, *rest, **options: np.asarray(loss(x, *rest, **options)).astype(np.longdouble)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (rounds_badly, "ULP"),
        (writes, "written to"),
        (warns, "RuntimeWarning"),
        (forgets_the_layout, "value"),
        (widens, "is of"),
    ],
    ids=lambda a: getattr(a, "__name__", ""),
)
def test_a_fault_is_found(fault: Any, said: str) -> None:
    functions = {"log_sigmoid": fault(al.log_sigmoid)}
    broken = replace(arrayloss(), functions=functions, value_and_grad=None)
    tally = fuzz.search(broken, seeds=iter(range(200)), only=("numpy",), functions=("log_sigmoid",))
    assert any(said in why for _, why in tally.found), tally
