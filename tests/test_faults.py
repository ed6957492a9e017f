"""The suite tests itself: every fault planted in every function that it applies to is caught, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest

from conformance.cases import FUNCTIONS
from conformance.faults import Fault, caught, faults

FAULTS = {function: [fault for fault in faults() if function in fault.functions] for function in FUNCTIONS}


def nothing(f: Any, *arrays: Any, **options: Any) -> Any:
    return f(*arrays, **options)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_planted_fault_is_caught(function: str) -> None:
    planted = [fault for fault in FAULTS[function] if fault.backend == "numpy"]
    assert {name for name, families in caught(planted, function).items() if not families} == set()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_fault_planted_in_a_tape_is_caught(function: str) -> None:
    pytest.importorskip("torch")
    planted = [fault for fault in FAULTS[function] if fault.backend != "numpy"]
    assert {name for name, families in caught(planted, function).items() if not families} == set()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_nothing_is_caught_where_nothing_is_planted(function: str) -> None:
    for dtype in ("float32", "float16"):
        assert caught([Fault("none", nothing, (function,), dtype=dtype)], function) == {"none": {}}


def test_a_fault_is_caught_by_the_family_made_for_it() -> None:
    found = caught(FAULTS["softmax_focal_loss"], "softmax_focal_loss")
    expected = {
        "naive formula": "margins",
        "probabilities clipped at 1e-7": "margins",
        "alpha swapped": "weights",
        "label_smoothing left out": "soft",
        "wrong axis": "options",
        "masked row leaks its NaN": "nonfinite",
        "float16 accumulation": "reductions",
    }
    assert {fault: family for fault, family in expected.items() if family in found[fault]} == expected


def test_each_fault_is_planted_once_in_a_function() -> None:
    for planted in FAULTS.values():
        assert len({fault.name for fault in planted}) == len(planted) >= 6
