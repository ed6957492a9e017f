"""The suite tests itself: every fault planted in every function that it applies to is caught, and nothing else is."""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import pytest

from conformance.cases import FUNCTIONS
from conformance.faults import Fault, caught, faults

FAULTS = {function: [fault for fault in faults() if function in fault.functions] for function in FUNCTIONS}


def nothing(f: Any, *arrays: Any, **options: Any) -> Any:
    return f(*arrays, **options)


@functools.cache
def found(function: str) -> dict[str, dict[str, int]]:
    """What catches each fault, and "nothing": in one run, so that each exact answer is computed once.

    Every case of a quick run is among them; `exact` raises where it can't prove an answer. In float16 it is about one
    option, `dtype`.
    """
    here = [fault for fault in FAULTS[function] if fault.backend == "numpy" or importlib.util.find_spec("torch")]
    here += [Fault(f"nothing in {dtype}", nothing, (function,), dtype=dtype) for dtype in ("float32", "float16")]
    wide, half = ([fault for fault in here if fault.dtype == dtype] for dtype in ("float32", "float16"))
    return caught(wide, function) | caught(half, function, ["options"])


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_is_planted_is_caught_and_nothing_else(function: str) -> None:
    assert {fault for fault, families in found(function).items() if not families} == {
        "nothing in float32",
        "nothing in float16",
    }


def test_a_fault_is_caught_by_the_family_made_for_it() -> None:
    expected = {
        "naive formula": "margins",
        "probabilities clipped at 1e-7": "margins",
        "alpha swapped": "weights",
        "label_smoothing left out": "soft",
        "wrong axis": "options",
        "masked row leaks its NaN": "nonfinite",
        "float16 accumulation": "reductions",
    }
    by_fault = found("softmax_focal_loss")
    assert {fault: family for fault, family in expected.items() if family in by_fault[fault]} == expected


def test_each_fault_is_planted_once_in_a_function() -> None:
    for planted in FAULTS.values():
        assert len({fault.name for fault in planted}) == len(planted) >= 6
