"""What `help` shows of each public function and class: every parameter, in order, and nothing written twice."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import arrayloss
from arrayloss import extending
from arrayloss.extending import AnswerOptions, documented

LOSSES = Path(inspect.getsourcefile(arrayloss.losses) or "")
PRESETS = [f"arrayloss.compat.{name}" for name in importlib.import_module("arrayloss.compat").__all__]


def public(module: str) -> dict[str, Any]:
    """The functions and classes of a module that its users call, by name."""
    try:
        found = vars(importlib.import_module(module))
    except ModuleNotFoundError:
        return {}
    return {
        f"{module}.{name}": value
        for name, value in found.items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", None) == module
    }


def sections(doc: str) -> dict[str, str]:
    head, *found = re.split(r"(?:^|\n)(\w+)\n-+\n", inspect.cleandoc(doc))
    return {"": head, **dict(zip(found[::2], found[1::2], strict=True))}


NAMED = {f"arrayloss.{name}": getattr(arrayloss, name) for name in arrayloss.__all__ if name != "__version__"}
CALLABLES = NAMED | public("arrayloss.nn.torch")
for preset in PRESETS:
    CALLABLES |= public(preset)


@pytest.mark.parametrize("name", CALLABLES)
def test_every_parameter_is_described_in_the_order_of_the_signature(name: str) -> None:
    described = sections(CALLABLES[name].__doc__)
    assert described[""].strip()
    entries = re.findall(r"^\S.*", described.get("Parameters", ""), re.M)
    names = [name.lstrip("*") for entry in entries for name in entry.split(" : ")[0].split(", ")]
    parameters = list(inspect.signature(CALLABLES[name]).parameters)
    assert names == parameters
    assert "Examples" in described
    assert ">>>" in described["Examples"]
    # What is filled in has no place left open.
    assert "$" not in CALLABLES[name].__doc__
    assert max(map(len, CALLABLES[name].__doc__.splitlines())) <= 120


@pytest.mark.parametrize("name", [name for name in NAMED if not inspect.isclass(NAMED[name])])
def test_functions_say_what_they_return_and_raise(name: str) -> None:
    described = sections(NAMED[name].__doc__)
    assert list(described)[1:4] == ["Parameters", "Returns", "Raises"]
    assert all(described[section].strip() for section in described)


def test_no_sentence_is_written_twice() -> None:
    """In the file; what `help` shows of two losses may well be the same. Sources and examples may be shared."""
    written = LOSSES.read_text(encoding="utf-8")
    counted: Counter[str] = Counter()
    for doc in re.findall(r'"""(.*?)"""', written, re.S):
        for section, text in sections("\n" + textwrap.dedent("    " + doc)).items():
            if section not in ("References", "Examples"):
                counted.update(re.sub(r"\s+", " ", s).strip() for s in re.split(r"(?<=[.:])\s|\n(?=\S)", text))
    twice = {sentence for sentence, n in counted.items() if n > 1 and len(sentence.split()) > 3}
    assert len(counted) > 20
    assert not twice


def test_a_description_must_fit_the_signature() -> None:
    def missing(logits: Any, sharpness: Any) -> None:
        """A loss."""

    def other(logits: Any) -> None:
        """A loss.

        Parameters
        ----------
        gama : scalar
            A slip.
        """

    def section(logits: Any) -> None:
        """A loss.

        Remarks
        -------
        None.
        """

    for function, word in ((missing, "sharpness"), (other, "gama"), (section, "Remarks")):
        with pytest.raises(TypeError, match=rf"{function.__name__} does not fit its signature: {word}$"):
            documented(AnswerOptions)(function)


def test_a_table_of_ones_own() -> None:
    @documented(
        """
    scores : array
        What $array are.
    sharpness : float
        How sharp.
    Returns
        array
            One number.
    """.replace("\n    ", "\n")
    )
    def own(scores: Any, sharpness: float) -> None:
        """A loss."""

    described = sections(own.__doc__ or "")
    assert list(described) == ["", "Parameters", "Returns"]
    assert described["Parameters"] == "scores : array\n    What scores are.\nsharpness : float\n    How sharp.\n"
    assert described["Returns"] == "array\n    One number."


def test_own_words_go_before_the_tables() -> None:
    @documented(AnswerOptions)
    def own(scores: Any, target: Any, *, gamma: float = 2.0, reduction: str = "mean") -> None:
        """A loss.

        Parameters
        ----------
        gamma : float
            Mine.
        scores : array
            Mine, too.

        Returns
        -------
        None
            Nothing.
        """

    described = sections(own.__doc__ or "")
    assert list(described) == ["", "Parameters", "Returns", "Raises"]
    assert re.findall(r"^\w+", described["Parameters"], re.M) == ["scores", "target", "gamma", "reduction"]
    assert "gamma : float\n    Mine." in described["Parameters"]
    assert "in the shape of `scores`" in described["Parameters"]
    assert described["Returns"].strip() == "None\n    Nothing."


def test_without_docstrings() -> None:
    code = "import arrayloss; from arrayloss import extending; print(arrayloss.cross_entropy.__doc__)"
    done = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None"


def test_the_defaults_in_a_signature_are_those_that_are_computed_with() -> None:
    """`LossOptions` and its like say them to a reader, `categorical` and its like compute with them."""
    for builder, loss in (
        (extending.categorical, arrayloss.softmax_focal_loss),
        (extending.binary, arrayloss.sigmoid_focal_loss),
        (extending.paired, arrayloss.kl_divergence_with_logits),
    ):
        computed = inspect.signature(builder).parameters
        said = inspect.signature(loss).parameters
        shared = computed.keys() & said.keys() - {"logits", "target"}
        assert {"reduction", "where", "dtype"} <= shared
        for name in shared:
            assert said[name].default == computed[name].default, name
