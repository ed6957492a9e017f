"""The cases as items of pytest, for the CI of an array library or of a loss; known failures are named in a file.

    pytest -p arrayloss_conformance.items --pyargs arrayloss_conformance.items \\
        --judge="--backend my_library" --xfails-file=xfails.txt

`--judge` takes the options of the command `arrayloss-conformance` that select cases. The name of an item is made of
function, dtype, library and case, and stays. A line of the file is such a name; `*` stands for anything, and a reason
may come after ` # `.
"""

from __future__ import annotations

import argparse
import itertools
import shlex
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from arrayloss.testing import Backend, Case, Implementation

from . import failures, named, runner
from .__main__ import add_selection, selected
from .runner import Selection


class Judged(NamedTuple):
    """One case, and what it is put to."""

    implementation: Implementation
    case: Case
    backend: Backend
    mode: str

    @property
    def name(self) -> str:
        """The same in every run, whatever else is selected."""
        place = self.backend.name if self.mode == "eager" else f"{self.backend.name} {self.mode}"
        return f"{self.case.function}-{self.case.dtype}-{place}-{self.case.label}"


def test_case(judged: Judged) -> None:
    one, selection = judged.implementation, Selection(modes=(judged.mode,))
    found = list(runner.run([one], [judged.case], selection, places=[judged.backend]))
    if failed := failures.gather(found, [one], shrunk=0):
        pytest.fail(failures.told(failed), pytrace=False)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("arrayloss_conformance")
    group.addoption("--judge", default="", metavar="OPTIONS", help="those of arrayloss-conformance that select cases")
    group.addoption("--xfails-file", type=Path, metavar="FILE", help="the names of items that are known to fail")


def pytest_configure(config: pytest.Config) -> None:
    # Not hooks of this module: pytest would call them twice, because the test is in it too.
    config.pluginmanager.register(_Items(config))


class _Items:
    def __init__(self, config: pytest.Config) -> None:
        parser = argparse.ArgumentParser("--judge", add_help=False)
        add_selection(parser)
        try:
            self.work, self.selection = selected(parser.parse_args(shlex.split(config.getoption("--judge"))))
        except ValueError as error:
            raise pytest.UsageError(str(error)) from error
        file = config.getoption("--xfails-file")
        self.known = _known(file.read_text(encoding="utf-8")) if file else {}

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if metafunc.function is test_case:
            metafunc.parametrize("judged", list(self.items()))

    def items(self) -> Iterator[Any]:
        """Every case that is selected, on every library that is here."""
        present = named.chosen(self.selection.backends)
        for backend in present:
            backend.dynamic = not self.selection.quick
            if reason := backend.missing():
                yield pytest.param(None, id=backend.name, marks=pytest.mark.skip(reason=reason))
        usable = [backend for backend in present if backend.missing() is None]
        implementations = self.work.implementations()
        for case, implementation in itertools.product(self.work.cases(self.selection), implementations):
            if case.function in implementation.functions:
                for backend, mode in runner.places_of(implementation, case, usable, self.selection):
                    one = Judged(implementation, case, backend, mode)
                    yield pytest.param(one, id=one.name, marks=self.marks(one))

    def marks(self, judged: Judged) -> list[pytest.MarkDecorator]:
        if reason := judged.implementation.not_covered(judged.case):
            return [pytest.mark.skip(reason=reason)]
        reasons = [reason for name, reason in self.known.items() if fnmatchcase(judged.name, name)]
        return [pytest.mark.xfail(reason=reason) for reason in reasons]


def _known(text: str) -> dict[str, str]:
    """The names in a file, with the reasons."""
    lines = (line.partition(" # ") for line in text.splitlines() if line.strip() and not line.startswith("#"))
    return {name.strip(): reason.strip() for name, _, reason in lines}
