"""The site builds without a warning, fetches nothing to be read, and has every public name."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import arrayloss

ROOT = Path(__file__).parents[1]
PARTS = ("Start", "How to", "Reference", "Why it can be trusted")


def test_site(tmp_path: Path) -> None:
    for needed in ("sphinx", "furo", "myst_nb", "latex2mathml", "torch"):
        pytest.importorskip(needed, reason=f"{needed}, which the site is built with, is not installed")
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "-q", "-d", tmp_path / "trees", "-c", "docs", ".", tmp_path / "html"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert built.returncode == 0, built.stderr
    html = tmp_path / "html"
    for name in arrayloss.__all__:
        if name == "__version__":
            continue
        page = (html / f"docs/_api/arrayloss.{name}.html").read_text()
        assert f'id="arrayloss.{name}"' in page
        # The table comes first, and the full text, with what the docstring is completed with, after it.
        table, _, text = page.partition(f'id="arrayloss.{name}"')
        parameters = list(inspect.signature(getattr(arrayloss, name)).parameters)
        assert re.findall(r"<tr[^>]*><td><p><code[^>]*><span class=\"pre\">\**(\w+)</span>", table) == parameters
        assert re.findall(r"<strong>\**(\w+)</strong>", text)[: len(parameters)] == parameters
    # Every page that is not generated is in one of the four parts, under a title of its own.
    start = (html / "index.html").read_text()
    assert re.findall(r'<p class="caption"[^>]*><span class="caption-text">([^<]+)', start) == list(PARTS)
    for page in html.rglob("*.html"):
        fetched = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?://[^"]+"', page.read_text())
        assert not fetched, page.name
