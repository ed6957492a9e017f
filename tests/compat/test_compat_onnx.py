"""arrayloss.compat.onnx: the ONNX package's own backend node tests of the two operators."""

import functools
import importlib
from typing import Any

import numpy as np
import pytest

from arrayloss.compat import onnx as preset

onnx = pytest.importorskip("onnx", reason="onnx, whose node tests these are, is not installed")
node = importlib.import_module("onnx.backend.test.case.node")
for module in ("softmax_cross_entropy_loss", "negativeloglikelihoodloss"):
    importlib.import_module(f"onnx.backend.test.case.node.{module}")

OPERATORS = ("SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss")
# An "_expanded" test is the same data once more, for a runtime that has other operators only.
CASES = {
    case.name: case
    for case in node._NodeTestCases
    if [n.op_type for n in case.model.graph.node] in [[operator] for operator in OPERATORS]
}


FEW = sorted(CASES)[::8]


def test_all_of_them_are_here() -> None:
    assert len(CASES) == 52


# JAX compiles each, and Dask makes a graph of it: of every eighth.
@pytest.mark.only(lambda backend, name: backend.is_quick or name in FEW)
@pytest.mark.parametrize("name", CASES)
def test_node(backend: Any, record: Any, name: str) -> None:
    case = CASES[name]
    (operator,) = case.model.graph.node
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in operator.attribute}
    if "reduction" in attributes:
        attributes["reduction"] = attributes["reduction"].decode()
    if len(operator.output) == 2:
        attributes["log_prob"] = True
    for inputs, expected in case.data_sets:
        run = functools.partial(getattr(preset, operator.op_type), **attributes)
        if backend.library == "jax":
            import jax

            run = jax.jit(run)  # eagerly, each primitive is compiled for each shape
        got = run(*(backend.asarray(np.asarray(x)) for x in inputs))
        for value, correct in zip(got if len(expected) == 2 else [got], expected, strict=True):
            value = backend.to_numpy(value)
            assert value.shape == correct.shape
            np.testing.assert_allclose(value, correct, rtol=case.rtol, atol=case.atol)
        # In float32, as the data are.
        record(f"onnx.{operator.op_type}", backend.library, attributes, (value, correct))


def test_the_runtime_agrees(lib: Any) -> None:
    """onnxruntime on random scores, float32."""
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 4, 2)).astype(np.float32)
    t, w = rng.integers(0, 4, (5, 2)), rng.random(4).astype(np.float32)
    helper, kinds = onnx.helper, onnx.TensorProto
    for reduction in ("none", "mean", "sum"):
        options = {"reduction": reduction, "ignore_index": 1}
        values = [helper.make_tensor_value_info(n, k, None) for n, k in zip("xtw", (1, 7, 1), strict=True)]
        graph = helper.make_graph(
            [helper.make_node(OPERATORS[0], ["x", "t", "w"], ["y", "p"], **options)],
            "loss",
            values,
            [helper.make_tensor_value_info(n, kinds.FLOAT, None) for n in "yp"],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        expected = session.run(None, {"x": x, "t": t, "w": w})
        got = preset.SoftmaxCrossEntropyLoss(*map(lib.array, (x, t, w)), log_prob=True, **options)
        for value, correct in zip(got, expected, strict=True):
            np.testing.assert_allclose(np.asarray(value), correct, rtol=1e-5)
