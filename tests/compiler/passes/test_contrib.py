"""The domain of ONNX Runtime's operators is imported once."""

from __future__ import annotations

import onnx_ir as ir

from castline.compiler.passes.contrib import import_contrib


def test_imports_the_domain_and_keeps_a_version_that_is_there() -> None:
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 23}, name="empty")
    model = ir.Model(graph, ir_version=10)
    import_contrib(model)
    assert graph.opset_imports == {"": 23, "com.microsoft": 1}
    graph.opset_imports["com.microsoft"] = 2
    import_contrib(model)
    assert graph.opset_imports == {"": 23, "com.microsoft": 2}
