"""The site builds without a warning, fetches nothing to be read, and has every public name."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import arrayloss

ROOT = Path(__file__).parents[1]


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
    api = "".join(page.read_text() for page in (tmp_path / "html/docs/api").glob("*.html"))
    missing = [name for name in arrayloss.__all__ if name != "__version__" and f'id="arrayloss.{name}"' not in api]
    assert not missing
    # The full text, with what the docstring is completed with.
    text = api.partition('id="arrayloss.cross_entropy"')[2].partition('id="arrayloss.nll_loss"')[0]
    parameters = list(inspect.signature(arrayloss.cross_entropy).parameters)
    assert re.findall(r"<strong>(\w+)</strong>", text)[: len(parameters)] == parameters
    for page in (tmp_path / "html").rglob("*.html"):
        fetched = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?://[^"]+"', page.read_text())
        assert not fetched, page.name
