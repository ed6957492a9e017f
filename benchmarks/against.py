"""Loads the package of another checkout beside this one, so that both are measured in one process."""

from __future__ import annotations

import importlib
import re
import shutil
import sys
from pathlib import Path
from typing import Any


def load(checkout: Path, room: Path, name: str = "arrayloss_before") -> Any:
    """The arrayloss of `checkout`, imported as `name` from a copy in `room`.

    The copy's own imports, and what it registers with torch, say `name` too, so that neither package gets the
    other's modules.
    """
    shutil.copytree(checkout / "arrayloss", room / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in (room / name).rglob("*.py"):
        file.write_text(re.sub(r"\barrayloss\b", name, file.read_text()))
    sys.path.insert(0, str(room))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(room))
