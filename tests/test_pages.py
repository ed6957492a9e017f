"""Every block of Python in the pages runs, in order and in one namespace a page; what it prints is what is written."""

import inspect
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest
from sybil import Document, Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

import arrayloss

ROOT = Path(__file__).parents[1]
SYBIL = Sybil(parsers=[PythonCodeBlockParser(), SkipParser()])
FILES = [path for folder in ("", "docs", "examples") for path in sorted(ROOT.joinpath(folder).glob("*.md"))]
# What a page may import that is no requirement of the package.
LIBRARIES = ("torch", "jax", "optax", "keras", "sklearn", "dask", "matplotlib", "lightgbm", "xgboost")
PAGES = [page for page in (SYBIL.parse(file) for file in FILES) if list(page.examples())]


def name(page: Document) -> str:
    return Path(page.path).relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_page(page: Document, subtests: pytest.Subtests) -> None:
    os.environ.setdefault("KERAS_BACKEND", "jax")  # without it, keras imports TensorFlow
    for library in LIBRARIES:
        imported = rf"^(>>> )?(import|from) (?!arrayloss).*\b{library}\b|docs import figures"
        if re.search(imported, page.text, re.MULTILINE):
            pytest.importorskip(library, reason=f"{library}, which the page shows, is not installed")
    for block in page.examples():
        with subtests.test(line=block.line):
            block.evaluate()


@pytest.mark.parametrize("page", ["porting.md", "boosting.md"])
def test_the_tests_that_a_page_names_are_there(page: str) -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / page).read_text(encoding="utf-8")))
    written = {n for file in (ROOT / "tests").rglob("*.py") for n in re.findall(r"def (test_\w+)", file.read_text())}
    assert named
    assert named <= written


def test_the_readme_has_every_function_with_its_options() -> None:
    """And their defaults. A row "all have" names what the rows after it have in common, unless a row says "only"."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(page.splitlines()) <= 150
    table = page.partition("## Functions and options")[2].partition("\n##")[0]
    shared: dict[str, Any] = {}
    seen: set[str] = set()
    for functions, described in re.findall(r"^\| (.+) \| (.*)\|$", table, re.M):
        found = re.findall(r"`(\w+)(?:=([^`]+))?`", described)
        options = {name: eval(default, vars(math)) if default else None for name, default in found}
        if functions.endswith(": all have"):
            shared = options
        for name, arguments in re.findall(r"`(\w+)\(([\w, ]*)\)`", functions):
            seen.add(name)
            signature = inspect.signature(getattr(arrayloss, name)).parameters
            parameters = list(signature)
            given = arguments.split(", ")
            assert parameters[: len(given)] == given, name
            if given != ["loss"]:  # which has the options of the loss
                expected = options if described.startswith("only") else options | shared
                assert {option: signature[option].default for option in parameters[len(given) :]} == expected, name
    assert seen == {name for name in arrayloss.__all__ if name[0].islower()}
