"""The suite tests itself: it passes what is right, and a fault planted in a kernel makes the command fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

import arrayloss
from arrayloss import _kernels
from arrayloss._engine import Problem, categorical
from arrayloss._gradients import loss
from arrayloss._modes import Array, Traced
from conformance.__main__ import main

ARGUMENTS = ["--backend", "numpy", "--dtype", "float32", "--function", "cross_entropy"]
CORRECT = _kernels.CrossEntropy()
FAMILIES = {"margins", "soft", "weights"}


def planted(
    cost: Any = CORRECT,
    link: Any = _kernels.softmax,
    label: Callable[[Any, int], Any] = lambda t, classes: t,
    dropped: tuple[str, ...] = (),
) -> Any:
    """cross_entropy, but for one thing."""

    @loss
    def cross_entropy(logits: Any, target: Any, /, *, label_smoothing: float = 0.0, **options: Any) -> Problem[Any]:
        given = {
            "axis": -1,
            "class_weight": None,
            "sample_weight": None,
            "where": None,
            "ignore_index": -100,
            "reduction": "mean",
            "dtype": None,
            **{k: v for k, v in options.items() if k not in dropped},
        }
        target = label(target, logits.shape[given["axis"]])
        return categorical(link, cost, logits, target, label_smoothing=label_smoothing, **given)

    return cross_entropy


@dataclass(frozen=True)
class WrongSign(_kernels.CrossEntropy):
    def slope(self, mode: Traced, at: _kernels.Chance) -> Array:
        return -super().slope(mode, at)


def naive(mode: Traced, x: Array, target: Array, near: float) -> tuple[_kernels.Chance, _kernels.Pull]:
    """Softmax, then its logarithm: what the tutorial asks about."""
    xp = mode.xp
    labels = mode.labels(x, target)
    p = labels.take(xp.exp(x) / xp.sum(xp.exp(x), axis=1, keepdims=True))
    _, pull = _kernels.softmax.label(mode, x, target, near)
    return _kernels.Chance(-xp.log(p), lambda: (p, 1 - p)), pull


def shifted(target: Any, classes: int) -> Any:
    return (target + 1) % classes if target.dtype.kind == "i" else target


FAULTS = {
    "sign": planted(WrongSign()),
    "missing weight": planted(dropped=("class_weight",)),
    "naive": planted(link=_kernels.RowLink(naive, _kernels.softmax.rows)),
    "shifted label": planted(label=shifted),
}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_what_is_right_passes(family: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ARGUMENTS, "--family", family]) == 0
    assert "FAIL" not in capsys.readouterr().out


def test_the_fault_is_all_that_is_planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrayloss, "cross_entropy", planted())
    assert main([*ARGUMENTS, "--family", "margins"]) == 0


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_fails_the_command(
    fault: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(arrayloss, "cross_entropy", FAULTS[fault])
    family = "weights" if fault == "missing weight" else "margins"
    assert main([*ARGUMENTS, "--family", family]) == 1
    assert "FAIL" in capsys.readouterr().out


def test_nothing_run_is_a_failure() -> None:
    assert main([*ARGUMENTS, "--family", "probabilities"]) == 1
