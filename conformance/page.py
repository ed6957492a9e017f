"""The report as one page that needs nothing else: the template with a run's data in it."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TEMPLATE = Path(__file__).with_name("page.html")

LEFT_TO_THE_FILE = ("records", "record_fields", "cases")
"""What only `results.json` holds."""


def render(found: Mapping[str, Any]) -> str:
    """The page of a results document (see `report.document`)."""
    shown = {name: value for name, value in found.items() if name not in LEFT_TO_THE_FILE}
    data = json.dumps(shown, separators=(",", ":"), allow_nan=False)
    # Within a script element nothing but this could end it, or open a comment.
    data = data.replace("<", "\\u003c")
    text = TEMPLATE.read_text()
    return text.replace("{{title}}", html.escape(found["about"]["title"])).replace("{{data}}", data)
