"""Whether integer kernels add 8-bit products exactly.

x86 processors without VNNI multiply unsigned by signed bytes in pairs and add each pair in 16 bits, which saturates
beyond 32,767: two products of 255 and 127 do not fit. ONNX Runtime uses that instruction for unsigned activations and
signed weights, so a file with full 8-bit weights computes something else there, without a word.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from modeltailor.targets.device import RuntimeOptions
from modeltailor.targets.session import open_session

__all__ = ["saturates_here"]

_DEPTH, _WIDTH = 64, 16


def saturates_here() -> bool:
    """Multiply the largest bytes in ONNX Runtime on this machine and tell whether the sum comes out wrong."""
    weight = np.full((_DEPTH, _WIDTH), 127, np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "bytes",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, _DEPTH])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [1, _WIDTH])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = open_session(model.SerializeToString(), RuntimeOptions())
    (found,) = session.run(None, {"x": np.full((1, _DEPTH), 255, np.uint8)})
    return bool((np.asarray(found) != 255 * 127 * _DEPTH).any())
