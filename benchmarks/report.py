"""The figures, as a table and as data."""

from __future__ import annotations

import importlib
import math
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import arrayloss
from benchmarks.rows import Row


@dataclass(frozen=True)
class Measured:
    """The result of a row, in seconds, or in bytes for memory; `reason` says why there is none."""

    row: Row
    reason: str | None
    ours: float = 0.0
    theirs: float = 0.0
    before: float = 0.0
    before_theirs: float = 0.0
    passing: float = 0.0
    bytes: int = 0
    kernels: int = 0

    @property
    def verdict(self) -> str:
        """Whether the bound is kept; empty where there is none."""
        found = self.ours if self.row.memory else self.ours / self.theirs
        return "" if self.row.bound is None else "kept" if found <= self.row.bound else "MISSED"


def about(against: str | None = None, libraries: Iterable[str] = ()) -> dict[str, Any]:
    """When the figures were made, on which processor and devices, with which versions."""
    names = ("numpy", "scipy", "torch", "jax", "jaxlib", "optax", "cupy", "cupy-cuda12x", "cupy-cuda13x")
    found = {"arrayloss": arrayloss.__version__}
    for name in (*names, "array-api-compat"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "schema": 2,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "devices": sorted(filter(None, map(_device, set(libraries)))),
        "versions": found,
        "commit": _commit(Path(__file__).parent),
        "before": _commit(Path(against)) if against else None,
    }


def _commit(directory: Path) -> str:
    command = ["git", "-C", str(directory), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor() -> str:
    """The processor's name and numbers: a virtual one's name says little."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return platform.processor()
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
    widest = next((v for v in ("avx512f", "avx2") if v in told.get("flags", "").split()), "")
    numbers = [f"{key} {told[key]}" for key in ("cpu family", "model") if key in told]
    return ", ".join(part for part in (told.get("model name", platform.processor()), *numbers, widest) if part)


def _device(library: str) -> str:
    """The name of the device that a library computes on; empty for a CPU."""
    if library == "torch:cuda":
        return str(importlib.import_module("torch").cuda.get_device_name(0))
    if library == "jax:cuda":
        return str(importlib.import_module("jax").devices("cuda")[0].device_kind)
    if library == "cupy":
        return str(importlib.import_module("cupy").cuda.runtime.getDeviceProperties(0)["name"].decode())
    return ""


def as_json(found: Sequence[Measured], about: dict[str, Any]) -> dict[str, Any]:
    """The same figures as data, in seconds and bytes."""
    return {
        "about": about,
        "rows": [
            {
                "work": m.row.work,
                "peer": m.row.peer.name,
                "shape": list(m.row.shape),
                "std": m.row.std,
                "unit": "bytes" if m.row.memory else "seconds",
                "bound": m.row.bound,
                "not run": m.reason,
                "ours": m.ours,
                "theirs": m.theirs,
                "before": m.before,
                "passing": m.passing,
                "bytes": m.bytes,
                "dtype": m.row.dtype,
                "of a copy": _of_a_copy(m),
                "kernels": m.kernels or None,
            }
            for m in found
        ],
    }


def text(found: Sequence[Measured], about: dict[str, Any]) -> str:
    """Markdown: the times, then the memory, then what was not run."""
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    before = about["before"]
    commits = f"commit {about['commit']}" + (f"; before: commit {before}" if before else "")
    machine = ", ".join([about["machine"], about["processor"], f"{about['cores']} cores", *about["devices"]])
    lines = [
        "# Benchmarks",
        "",
        f"{about['date']}; Python {about['python']}; {machine}; {versions}; {commits}",
        "",
        LEGEND,
        "",
    ]
    run = [m for m in found if m.reason is None]
    times, memory = ([m for m in run if m.row.memory is wanted] for wanted in (False, True))
    if times:
        lines += _table([_times(m, bool(before)) for m in times])
    if memory:
        lines += ["", "Peak memory beyond the inputs, with the result, in MiB:", ""]
        lines += _table([_memory(m, bool(before)) for m in memory])
    absent = dict.fromkeys(f"{m.row.library}: not run here: {m.reason}" for m in found if m.reason is not None)
    lines += ["", *absent] if absent else []
    return "\n".join(lines) + "\n"


def _times(m: Measured, before: bool) -> dict[str, str]:
    ours, ratio = ("after, ms", "after / theirs") if before else ("ours, ms", "ratio")
    return (
        _row(m)
        | ({"before, ms": f"{m.before * 1e3:.3f}"} if before else {})
        | {ours: f"{m.ours * 1e3:.3f}", "theirs, ms": f"{m.theirs * 1e3:.3f}"}
        | ({"before / theirs": f"{m.before / (m.before_theirs or m.theirs):.2f}"} if before else {})
        | {ratio: f"{m.ours / m.theirs:.2f}", "at most": "" if m.row.bound is None else f"{m.row.bound:g}"}
        | {"": m.verdict, "passes": f"{m.ours / m.passing:.1f}", "GB/s": f"{m.bytes / m.ours / 1e9:.1f}"}
        | ({"of a copy": f"{share:.2f}"} if (share := _of_a_copy(m)) else {})
        | ({"kernels": str(m.kernels)} if m.kernels else {})
    )


def _of_a_copy(m: Measured) -> float | None:
    """The bytes moved a second, over those of a copy on the same device; None on a CPU, and for memory."""
    if not m.row.device or m.row.memory or m.reason is not None:
        return None
    copied = 2 * math.prod(m.row.shape) * {"float32": 4, "bfloat16": 2}[m.row.dtype]
    return (m.bytes / m.ours) / (copied / m.passing)


def _memory(m: Measured, before: bool) -> dict[str, str]:
    bound = {} if m.row.bound is None else {"at most": m.row.bound}
    sizes = ({"before": m.before, "after": m.ours} if before else {"ours": m.ours}) | {"theirs": m.theirs} | bound
    return _row(m) | {head: f"{size / 2**20:.1f}" for head, size in sizes.items()} | {"": m.verdict}


def _row(m: Measured) -> dict[str, str]:
    return {"work": m.row.work, "shape": "x".join(map(str, m.row.shape)), "std": m.row.std, "peer": m.row.peer.name}


def _table(body: list[dict[str, str]]) -> list[str]:
    heads = list(dict.fromkeys(head for row in body for head in row))
    widths = {head: max(len(head), *(len(row.get(head, "")) for row in body)) for head in heads}
    lines = [dict(zip(heads, heads, strict=True)), {h: "-" * widths[h] for h in heads}, *body]
    return ["| " + " | ".join(line.get(h, "").ljust(widths[h]) for h in heads) + " |" for line in lines]


LEGEND = (
    "Each figure is a median. The calls of a row take turns in one process, which keeps the memory that it frees; "
    "where NumPy is measured beside torch, each call first waits 10 ms. The reduction is the mean, and the dtype is "
    "float32 unless a row says otherwise. `std`: the logits are N(0, std); 3+60 is std 3 with one logit of 60. "
    "`ratio`: ours / theirs; `at most`: its bound. `passes`: our time over the time of one pass over as many logits "
    "of std 1 in the same library (an exponential of each on a CPU, a copy on a device). `GB/s`: the bytes that must "
    "be moved at least, divided by our time; `of a copy`: this, divided by the same number for a copy. `kernels`: how "
    "many kernels one call of ours starts on the device."
)
