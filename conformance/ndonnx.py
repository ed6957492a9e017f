"""ndonnx: a loss is traced to an ONNX graph, ONNX Runtime runs the graph, and its numbers are judged.

`python -m conformance --backend conformance.ndonnx:graph`
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import numpy as np

from arrayloss.testing import Backend, Case, Floats, Implementation, Numbers


class _Graph(Backend):
    def missing(self) -> str | None:
        for module in ("ndonnx", "onnxruntime"):
            if importlib.util.find_spec(module) is None:
                return f"{module} is not installed"
        return None

    def call(self, implementation: Implementation, case: Case, mode: str) -> Numbers:
        self.inputs: dict[str, tuple[Any, Any]] = {}
        return super().call(implementation, case, mode)

    def array(self, values: Floats, dtype: str) -> Any:
        """An input of the graph, and, beside it, what it will be given."""
        argument = self.xp.argument(shape=values.shape, dtype=self.dtype(dtype))
        self.inputs[f"input{len(self.inputs)}"] = argument, values.astype(dtype)
        return argument

    def numpy(self, values: Any) -> Floats:
        """The graph that ends in `values`, run."""
        runtime: Any = importlib.import_module("onnxruntime")
        arguments = {name: argument for name, (argument, _) in self.inputs.items()}
        model = self.xp.build(arguments, {"result": values}, drop_unused=True)
        session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        given = {one.name: self.inputs[one.name][1] for one in session.get_inputs()}
        return np.asarray(session.run(["result"], given)[0]).astype(np.float64)


graph = _Graph("ndonnx", dtypes=("float16", "float32", "float64"))
