"""The figures, as a table and as data."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.rows import Memory, Row


@dataclass(frozen=True)
class Measured:
    """What came of a row: seconds, or bytes for `Memory`; `reason` says why nothing did."""

    row: Row | Memory
    reason: str | None
    ours: float = 0.0
    theirs: float = 0.0
    passing: float = 0.0
    bytes: int = 0

    @property
    def ratio(self) -> float:
        """Ours over theirs; for memory, over the bound."""
        return self.ours / (self.row.bound if isinstance(self.row, Memory) else self.theirs)

    @property
    def verdict(self) -> str:
        """Whether the bound is kept, and the aim."""
        if isinstance(self.row, Memory):
            return "kept" if self.ratio <= 1 else "MISSED"
        return "aim" if self.ratio <= self.row.aim else "kept" if self.ratio <= self.row.bound else "MISSED"


def about() -> dict[str, Any]:
    """When, and on what."""
    names = ("arrayloss", "numpy", "scipy", "torch", "jax", "jaxlib", "optax", "cupy", "array-api-compat")
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "schema": 1,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "versions": found,
    }


def _processor() -> str:
    """What the processor is called; a virtual one is told by its numbers more than by its name."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return platform.processor()
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
    widest = next((v for v in ("avx512f", "avx2") if v in told.get("flags", "").split()), "")
    numbers = [f"{key} {told[key]}" for key in ("cpu family", "model") if key in told]
    return ", ".join(part for part in (told.get("model name", platform.processor()), *numbers, widest) if part)


def as_json(found: Sequence[Measured], about: dict[str, Any]) -> dict[str, Any]:
    """The same figures as data, in seconds and bytes."""
    return {
        "about": about,
        "rows": [
            {
                "work": m.row.work,
                "peer": m.row.peer if isinstance(m.row, Row) else "",
                "shape": list(m.row.shape),
                "unit": "bytes" if isinstance(m.row, Memory) else "seconds",
                "bound": m.row.bound,
                "aim": m.row.aim if isinstance(m.row, Row) else None,
                "not run": m.reason,
                "ours": m.ours,
                "theirs": m.theirs,
                "passing": m.passing,
                "bytes": m.bytes,
            }
            for m in found
        ],
    }


def text(found: Sequence[Measured], about: dict[str, Any]) -> str:
    """Markdown: the times, then the memory, then what was not run."""
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    lines = [
        "# Benchmarks",
        "",
        f"{about['date']}; Python {about['python']}; {about['machine']}, {about['processor']}, {about['cores']} cores; "
        f"{versions}",
        "",
        LEGEND,
        "",
    ]
    times = [m for m in found if isinstance(m.row, Row) and m.reason is None]
    if times:
        lines += _table(
            ["work", "shape", "peer", "ours, ms", "theirs, ms", "ratio", "at most", "aim", "", "passes", "GB/s"],
            [
                [
                    m.row.work,
                    "x".join(map(str, m.row.shape)),
                    m.row.peer,
                    f"{m.ours * 1e3:.3f}",
                    f"{m.theirs * 1e3:.3f}",
                    f"{m.ratio:.2f}",
                    f"{m.row.bound:g}",
                    f"{m.row.aim:g}",
                    m.verdict,
                    f"{m.ours / m.passing:.1f}",
                    f"{m.bytes / m.ours / 1e9:.1f}" if m.bytes else "",
                ]
                for m in times
                if isinstance(m.row, Row)
            ],
        )
    memory = [m for m in found if isinstance(m.row, Memory) and m.reason is None]
    if memory:
        lines += ["", "Peak memory beyond the inputs, the result included:", ""]
        lines += _table(
            ["work", "shape", "ours, MiB", "at most, MiB", "", "the library's own, MiB"],
            [
                [
                    m.row.work,
                    "x".join(map(str, m.row.shape)),
                    f"{m.ours / 2**20:.1f}",
                    f"{m.row.bound / 2**20:.1f}",
                    m.verdict,
                    f"{m.theirs / 2**20:.1f}",
                ]
                for m in memory
            ],
        )
    absent = dict.fromkeys(f"{m.row.library}: not run here: {m.reason}" for m in found if m.reason is not None)
    lines += ["", *absent] if absent else []
    return "\n".join(lines) + "\n"


def _table(head: list[str], body: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in (head, *body)) for i in range(len(head))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in (head, *body)]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return lines


LEGEND = (
    "Medians of interleaved runs in one process that keeps the memory it frees, those of NumPy beside torch 10 ms "
    "apart; float32, mean reduction, logits N(0, 1). `ratio` is ours / theirs, `at most` what it has to be. `passes` "
    "is our time over that of one pass over the logits in the same library (on a CPU an exponential of each, on a "
    "device a copy); `GB/s` the bytes that must be moved at least, over our time."
)
