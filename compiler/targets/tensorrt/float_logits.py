"""Let an engine give its logits in float32, which samplers compute in."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from castline.compiler.targets.last_logits import LAST_TOKEN
from castline.exporters.names import LOGITS

CAST = "castline/float_logits"
"""The name of the node that casts, and the beginning of its input's name."""

_HALVES = (np.dtype(np.float16), onnx.TensorProto.FLOAT16)
_BRAIN = ("bfloat16", onnx.TensorProto.BFLOAT16)


def widen_logits(graph: gs.Graph) -> bool:
    """Cast the logits to float32 at the end of a graph; return whether that changed anything.

    It is due where they are bfloat16, which few runtimes' hosts know, and where they are float16 of
    the last token alone. float16 logits of every token stay, since they would double.
    """
    logits = next((value for value in graph.outputs if value.name == LOGITS), None)
    if logits is None or not logits.inputs:
        return False
    is_cut = any(node.name == LAST_TOKEN for node in graph.nodes)
    if not _is_brain(logits.dtype) and not (is_cut and logits.dtype in _HALVES):
        return False
    made = logits.inputs[0]
    narrow = gs.Variable(f"{CAST}_input_0", dtype=logits.dtype, shape=logits.shape)
    made.outputs = [narrow if value is logits else value for value in made.outputs]
    attributes = {"to": onnx.TensorProto.FLOAT}
    graph.nodes.append(gs.Node("Cast", CAST, attributes, inputs=[narrow], outputs=[logits]))
    logits.dtype = np.dtype(np.float32)
    return True


def _is_brain(dtype: object) -> bool:
    return dtype in _BRAIN[1:] or str(dtype) == _BRAIN[0]
