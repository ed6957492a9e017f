"""What other tools do with a function: pickle and copy it, bind its arguments, read its signature, import its home."""

from __future__ import annotations

import copy
import functools
import inspect
import io
import pickle
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arrayloss as al
from arrayloss import grad, objective, value_and_grad
from outside.common import arguments, close, over_losses

PUBLIC = [name for name in al.__all__ if callable(getattr(al, name))]


@over_losses
def test_what_is_made_of_a_loss_can_be_pickled_and_copied(loss: Any) -> None:
    x, t = arguments(loss)
    for make in (lambda loss: loss, value_and_grad, grad):
        made = make(loss)
        for again in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made), copy.copy(made)):
            same(again(x, t), made(x, t))
        bound = functools.partial(made, reduction="sum")
        same(pickle.loads(pickle.dumps(bound))(x, t), bound(x, t))


def same(got: Any, due: Any) -> None:
    pairs = zip(got, due, strict=True) if isinstance(due, tuple) else [(got, due)]
    for one, other in pairs:
        np.testing.assert_array_equal(one, other)


def test_an_objective_can_be_pickled() -> None:
    made = objective(al.binary_cross_entropy_with_logits)
    y, x = np.asarray([0, 1, 1]), np.asarray([0.5, -1.0, 2.0])
    for again in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):
        for got, due in zip(again(y, x), made(y, x), strict=True):
            np.testing.assert_array_equal(got, due)


@pytest.mark.parametrize("reduction", [al.Mean(), al.Mean(over=3, empty="zero"), al.Sum(), al.Hardest(k=2)], ids=repr)
def test_a_reduction_can_be_pickled_and_compared(reduction: Any) -> None:
    for again in (pickle.loads(pickle.dumps(reduction)), copy.deepcopy(reduction)):
        assert again == reduction
        assert hash(again) == hash(reduction)
        assert repr(again) == repr(reduction)


def test_a_preset_can_be_pickled() -> None:
    torch = pytest.importorskip("torch")
    from arrayloss.compat import torch as F

    x, labels = torch.zeros(2, 3), torch.tensor([0, 1])
    made = pickle.loads(pickle.dumps(value_and_grad(F.cross_entropy)))
    for got, due in zip(made(x, labels), value_and_grad(F.cross_entropy)(x, labels), strict=True):
        close(got, due)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_callable_has_a_signature(name: str) -> None:
    it = getattr(al, name)
    assert inspect.signature(it).parameters or name == "Sum"
    assert it.__module__.startswith("arrayloss")
    assert it.__qualname__ == name
    assert inspect.getdoc(it)
    assert typing.get_type_hints(it) or inspect.isclass(it)


@over_losses
def test_what_is_made_of_a_loss_has_its_signature(loss: Any) -> None:
    taken = list(inspect.signature(loss).parameters)
    for make in (value_and_grad, grad):
        assert list(inspect.signature(make(loss)).parameters) == [*taken, "cotangent"]
    bound = functools.partial(loss, reduction="none")
    assert inspect.signature(bound).parameters["reduction"].default == "none"
    # A call that could not be made does not bind either.
    with pytest.raises(TypeError):
        inspect.signature(loss).bind(1, 2, 3)


def test_processes() -> None:
    """What joblib, Dask's and multiprocessing's workers do."""
    import concurrent.futures
    import multiprocessing

    x, t = arguments(al.cross_entropy)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        value, gradient = pool.submit(value_and_grad(al.cross_entropy), x, t).result(timeout=120)
    due = value_and_grad(al.cross_entropy)(x, t)
    np.testing.assert_array_equal(value, due[0])
    np.testing.assert_array_equal(gradient, due[1])


MODULES = ["BCELoss", "BCEWithLogitsLoss", "CrossEntropyLoss", "NLLLoss", "SigmoidFocalLoss", "SoftmaxFocalLoss"]


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_saved_and_loaded(name: str) -> None:
    torch = pytest.importorskip("torch")
    from arrayloss.nn import torch as nn

    binary = name.startswith(("BCE", "Sigmoid"))
    x = torch.rand(4, 3)
    target = torch.randint(2, (4, 3)).float() if binary else torch.tensor([0, 2, 1, 1])
    for reduction in ("mean", al.Hardest(k=2), al.Mean(over="all")):
        module = getattr(nn, name)(reduction=reduction)
        stream = io.BytesIO()
        torch.save(module, stream)
        stream.seek(0)
        loaded = torch.load(stream, weights_only=False)
        for again in (loaded, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert again(x, target) == module(x, target)
            assert repr(again) == repr(module)
            assert again.state_dict().keys() == module.state_dict().keys()
        assert inspect.signature(module).parameters


def test_a_module_with_weights_is_saved_and_loaded() -> None:
    torch = pytest.importorskip("torch")
    from arrayloss.nn import torch as nn

    module = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]))
    other = nn.CrossEntropyLoss(weight=torch.ones(3))
    other.load_state_dict(module.state_dict())
    x, labels = torch.rand(4, 3), torch.tensor([0, 2, 1, 1])
    assert other(x, labels) == module(x, labels)
    program = torch.export.export(module, (x, labels))
    assert program.module()(x, labels) == module(x, labels)


# --- imports ------------------------------------------------------------------------------------------------


ROOT = Path(__file__).parents[2]


def said(program: str) -> str:
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, cwd=ROOT)
    return done.stdout.strip()


def test_submodules_are_there_once_the_package_is() -> None:
    assert said("import arrayloss; print(arrayloss.compat.torch.__name__)") == "arrayloss.compat.torch"
    assert said("import arrayloss; print(arrayloss.testing.__name__)") == "arrayloss.testing"
    assert said("import arrayloss; print(arrayloss.nn.__name__)") == "arrayloss.nn"
    pytest.importorskip("torch")
    assert said("import arrayloss; print(arrayloss.nn.torch.BCELoss.__name__)") == "BCELoss"
    names = ["compat", "nn", "testing"]
    assert said(f"import arrayloss; print(set({names}) <= set(dir(arrayloss)))") == "True"


def test_the_package_alone_imports_no_library() -> None:
    program = "import sys, arrayloss; print(sorted({'torch', 'jax', 'dask', 'arrayloss.compat'} & set(sys.modules)))"
    assert said(program) == "[]"


def test_a_name_that_is_not_there_says_so() -> None:
    with pytest.raises(AttributeError, match="hinge_loss"):
        al.hinge_loss  # noqa: B018
