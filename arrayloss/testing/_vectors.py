"""The golden vectors: cases with their exact results, as written down in files (whose README has the format)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from decimal import Decimal
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from arrayloss.testing._cases import Case, Reduce
from arrayloss.testing._formats import Floats
from arrayloss.testing._measure import Due, Exact

SCHEMA = 1


def vectors(function: str, *, dtypes: Sequence[str] = (), families: Sequence[str] = ()) -> list[Case]:
    """The golden vectors of a function: cases whose `due` is filled in.

    Parameters
    ----------
    function
        The name of a function of `arrayloss`, such as "cross_entropy".
    dtypes, families
        Which of them; empty for all.

    Raises
    ------
    ValueError
        If there are no vectors of that name.
    ModuleNotFoundError
        If the vectors are not installed: they are in the package arrayloss-conformance.

    Examples
    --------
    >>> first = vectors("sigmoid", dtypes=["float32"])[0]
    >>> first.family, first.arrays["logits"].shape == first.due["value"].exact.high.shape
    ('margins', True)
    """
    return [
        case
        for case in _read(function)
        if (not dtypes or case.dtype in dtypes) and (not families or case.family in families)
    ]


def judged_functions() -> tuple[str, ...]:
    """The functions that there are golden vectors of."""
    return tuple(sorted(path.stem for path in _directory().glob("*.json")))


def _directory() -> Path:
    """Where the suite keeps them: in a checkout beside this package, or in the package `arrayloss_conformance`."""
    checkout = Path(__file__).parents[2] / "conformance" / "vectors"
    return checkout if checkout.is_dir() else _installed("arrayloss_conformance")


def _installed(package: str) -> Path:
    found = find_spec(package)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(
            "the golden vectors are not installed: they are in the package arrayloss-conformance, which "
            'pip install "arrayloss[conformance]" installs',
            name=package,
        )
    return Path(found.origin).parent / "vectors"


@cache
def _read(function: str) -> tuple[Case, ...]:
    path = _directory() / f"{function}.json"
    if function not in judged_functions():
        raise ValueError(f"no golden vectors of {function!r}; there are {', '.join(judged_functions())}")
    return parse(path.read_text(encoding="utf-8"))


def parse(text: str) -> tuple[Case, ...]:
    """The cases in the text of one file."""
    found = json.loads(text)
    if found["schema"] != SCHEMA:
        raise ValueError(f"vectors of schema {found['schema']}; this reads {SCHEMA}")
    return tuple(_case(found["function"], entry) for entry in found["cases"])


def _case(function: str, entry: dict[str, Any]) -> Case:
    options = dict(entry["options"])
    if isinstance(options.get("reduction"), dict):
        options["reduction"] = Reduce(**options["reduction"])
    arrays = {name: _array(array) for name, array in entry["arrays"].items()}
    kinds = {"int64": "index", "bool": "bool"}
    return Case(
        function,
        entry["family"],
        entry["name"],
        entry["dtype"],
        arrays,
        options,
        kinds.get(entry["arrays"]["target"]["dtype"], "float") if "target" in arrays else "none",
        _array(entry["cotangent"]) if "cotangent" in entry else None,
        tuple(name.removeprefix("d ") for name in entry["due"] if name != "value"),
        due={name: _due(due) for name, due in entry["due"].items()},
    )


def _array(entry: dict[str, Any]) -> Floats:
    read = float.fromhex if "float" in entry["dtype"] else float
    return _shaped([read(number) for number in entry["numbers"].split()], entry)


def _due(entry: dict[str, Any]) -> Due:
    high = [float.fromhex(number) for number in entry["exact"].split()]
    digits = entry["decimal"].split()
    low = [float(Decimal(d) - Decimal(h)) if math.isfinite(h) else 0.0 for d, h in zip(digits, high, strict=True)]
    scale = [float.fromhex(number) for number in entry["scale"].split()] if "scale" in entry else np.abs(high)
    k = [float(number) for number in entry["k"].split()] if "k" in entry else np.zeros(len(high))
    return Due(
        Exact(_shaped(high, entry), _shaped(low, entry), _shaped(scale, entry)),
        entry["dtype"],
        entry["budget"],
        _shaped(k, entry),
        entry["terms"],
        entry.get("magnified", 1.0),
        _shaped([float(number) for number in entry["flushable"].split()], entry)
        if "flushable" in entry
        else np.zeros(()),
    )


def _shaped(numbers: Any, entry: dict[str, Any]) -> Floats:
    return np.asarray(numbers, dtype=np.float64).reshape(entry["shape"])
