"""A library that nobody has heard of: an array class and a namespace that is no module, in the array API alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import array_api_strict as strict
import numpy as np
import pytest

import arrayloss as al
from conformance import runner
from conformance.__main__ import main
from conformance.backends import arrayloss as package
from conformance.named import Namespace, backend
from conformance.runner import Selection

USED: set[str] = set()
"""The functions of the namespace that have been called."""


class Box:
    """An array of array-api-strict's, and no more of it than the standard has."""

    def __init__(self, inside: Any) -> None:
        self.inside = inside

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return boxes

    def __getattr__(self, name: str) -> Any:
        return _boxed(getattr(self.inside, name))

    def __getitem__(self, key: Any) -> Any:
        return _boxed(self.inside[_unboxed(key)])

    def __bool__(self) -> bool:
        return bool(self.inside)

    def __int__(self) -> int:
        return int(self.inside)

    def __float__(self) -> float:
        return float(self.inside)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.asarray(self.inside)


def _boxed(x: Any) -> Any:
    return Box(x) if isinstance(x, type(strict.asarray(0))) else x


def _unboxed(x: Any) -> Any:
    return x.inside if isinstance(x, Box) else tuple(map(_unboxed, x)) if isinstance(x, tuple) else x


def _through(f: Any, name: str = "") -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        USED.add(name)
        return _boxed(f(*map(_unboxed, args), **{k: _unboxed(v) for k, v in kwargs.items()}))

    return call


OPERATORS = ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor"]
for _name in [f"__{r}{name}__" for name in OPERATORS for r in ("", "r")] + [
    f"__{name}__" for name in ("lt", "le", "gt", "ge", "eq", "ne", "neg", "pos", "abs", "invert")
]:
    setattr(Box, _name, _through(getattr(type(strict.asarray(0)), _name)))


class Boxes:
    """The namespace."""

    __array_namespace_info__ = staticmethod(strict.__array_namespace_info__)


boxes = Boxes()
for _name in dir(strict):
    if not _name.startswith("_"):
        _found = getattr(strict, _name)
        setattr(boxes, _name, _found if isinstance(_found, type) or not callable(_found) else _through(_found, _name))
NAME = f"{__name__}:boxes"

LOGITS = np.asarray([[0.5, 1.0, -1.0], [2.0, 0.0, 40.0]])
LABELS, BITS = np.asarray([0, 2]), np.asarray([[1, 0, 1], [0, 1, 0]])


def box(x: Any) -> Any:
    return Box(strict.asarray(x))


@pytest.mark.parametrize("loss", [al.cross_entropy, al.softmax_focal_loss])
def test_a_loss_of_rows(loss: Any) -> None:
    value, gradient = al.value_and_grad(loss)(box(LOGITS), box(LABELS), class_weight=box(np.asarray([1.0, 2.0, 3.0])))
    assert isinstance(value, Box)
    assert isinstance(gradient, Box)
    due, slope = al.value_and_grad(loss)(LOGITS, LABELS, class_weight=np.asarray([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(float(value), due, rtol=1e-14)
    np.testing.assert_allclose(np.asarray(gradient), slope, rtol=1e-13)


@pytest.mark.parametrize("loss", [al.binary_cross_entropy_with_logits, al.sigmoid_focal_loss])
def test_a_loss_of_numbers(loss: Any) -> None:
    got = loss(box(LOGITS), box(BITS), reduction=al.Hardest(k=3))
    np.testing.assert_allclose(float(got), loss(LOGITS, BITS, reduction=al.Hardest(k=3)), rtol=1e-14)


def test_arrays_without_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLX's: nor do its functions that make an array take one."""

    def attribute(self: Box, name: str) -> Any:
        if name == "device":
            raise AttributeError(name)
        return _boxed(getattr(self.inside, name))

    monkeypatch.setattr(Box, "__getattr__", attribute)
    full, arange = boxes.full, boxes.arange  # type: ignore[attr-defined]
    monkeypatch.setattr(boxes, "full", lambda shape, value, *, dtype: full(shape, value, dtype=dtype))
    monkeypatch.setattr(boxes, "arange", lambda n, *, dtype: arange(n, dtype=dtype))
    options: Any = {"label_smoothing": 0.25, "reduction": al.Hardest(k=1)}
    value, gradient = al.value_and_grad(al.cross_entropy)(box(LOGITS), box(LABELS), **options)
    due, slope = al.value_and_grad(al.cross_entropy)(LOGITS, LABELS, **options)
    np.testing.assert_allclose(float(value), due, rtol=1e-14)
    np.testing.assert_allclose(np.asarray(gradient), slope, rtol=1e-13)
    assert np.isnan(float(al.cross_entropy(box(LOGITS), box(LABELS + 7))))  # as where a look would wait for a device


@pytest.mark.parametrize("logit", [-np.inf, np.inf, np.nan])
def test_a_label_is_taken_without_what_is_beside_it(logit: float) -> None:
    x = np.asarray([[0.5, logit, -1.0], [logit, -2.0, -3.0]])
    for reduction in (None, "none"):
        loss = al.nll_loss(box(x), box(np.asarray([0, 1])), reduction=reduction or "sum")
        assert np.asarray(loss).tolist() == (1.5 if reduction is None else [-0.5, 2.0])
    loss = al.nll_loss(box(x), box(np.asarray([1, 0])), reduction="none")
    np.testing.assert_array_equal(np.asarray(loss), [-logit, -logit])


def test_another_library_beside_it_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"logits is an array of Boxes, and target is one of numpy"):
        al.cross_entropy(box(LOGITS), LABELS)
    with pytest.raises(TypeError, match=r"logits is an array of numpy, and target is one of Boxes"):
        al.cross_entropy(LOGITS, box(LABELS))


# ---------------------------------------------------------------- the suite by name


def test_the_suite_judges_a_namespace_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--backend", NAME, "--dtype", "float32", "--workers", "1", "--family", "options"]) == 0
    assert NAME in capsys.readouterr().out
    # The page for maintainers of array libraries names them all.
    page = (Path(__file__).parents[1] / "docs/check-your-library.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| functions \| (.*) \|$", page, re.M)
    named = set(re.findall(r"`(\w+)`", row))
    assert USED - {""} <= named
    # Of other inputs.
    assert named - USED <= {"__array_namespace_info__", "finfo", "floor", "iinfo", "result_type", "sort"}


def test_a_module_is_a_namespace_as_it_is() -> None:
    found = backend("array_api_strict")
    assert isinstance(found, Namespace)
    assert found.dtypes == ("float32", "float64")
    assert found.numpy(found.array(LOGITS, "float32")).tolist() == LOGITS.tolist()


def test_what_a_library_lacks_is_said_of_the_functions_that_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(boxes, "arange")
    chosen = Selection(("cross_entropy", "sigmoid"), (NAME,), dtypes=("float32",), families=("margins",))
    results = runner.judge(package(), chosen)
    assert {(r.function, r.status) for r in results} == {("cross_entropy", "error"), ("sigmoid", "ok")}
    assert {r.reason for r in results if r.failed} == {
        "TypeError: Boxes lacks arange, a part of the array API standard that is needed here"
    }


@pytest.mark.parametrize(
    ("name", "said"),
    [("nobody:xp", "No module named 'nobody'"), ("numpy:nothing", "nothing"), ("math", "no asarray"), ("a b", "a b")],
)
def test_a_name_that_nothing_is_found_by_is_refused(name: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--backend", name])
    assert said in capsys.readouterr().err


def test_a_graph_of_ndonnx_is_run_and_judged(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ndonnx")
    pytest.importorskip("onnxruntime")
    asked = ["--backend", "conformance.ndonnx:graph", "--dtype", "float32", "--workers", "1", "--family", "ties"]
    assert main([*asked, "--function", "cross_entropy", "--function", "log_softmax"]) == 0
    assert "ndonnx" in capsys.readouterr().out


@pytest.mark.parametrize("length", ["N", None])
@pytest.mark.parametrize("reduction", ["mean", "none", al.Mean(over="valid"), al.Hardest(fraction=0.5)])
def test_a_batch_of_a_length_that_only_the_graph_knows(length: str | None, reduction: Any) -> None:
    nd = pytest.importorskip("ndonnx", reason="ndonnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    logits = nd.argument(shape=(length, 3), dtype=nd.float64)
    labels = nd.argument(shape=(length,), dtype=nd.int64)
    value = al.cross_entropy(logits, labels, reduction=reduction)
    model = nd.build({"logits": logits, "labels": labels}, {"value": value})
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (got,) = session.run(["value"], {"logits": LOGITS, "labels": LABELS})
    np.testing.assert_allclose(got, al.cross_entropy(LOGITS, LABELS, reduction=reduction), rtol=1e-13)


def test_mlx_computes_what_numpy_does() -> None:
    mx = pytest.importorskip("mlx.core", reason="MLX is not installed")
    x, labels = mx.array(LOGITS.astype(np.float32)), mx.array(LABELS)
    for loss in (al.cross_entropy, al.softmax_focal_loss):
        value, gradient = al.value_and_grad(loss)(x, labels)
        due, slope = al.value_and_grad(loss)(LOGITS.astype(np.float32), LABELS)
        np.testing.assert_allclose(float(value), due, rtol=1e-6)
        np.testing.assert_allclose(np.asarray(gradient), slope, rtol=3e-6)


def test_dpnp_is_judged_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("dpnp")
    if reason := backend("dpnp").missing():  # no OpenCL driver, say: OCL_ICD_FILENAMES tells where there is one
        pytest.skip(f"dpnp has no device: {reason}")
    assert main(["--backend", "dpnp", "--dtype", "float32", "--workers", "1", "--family", "options"]) == 0
    assert "dpnp" in capsys.readouterr().out
