"""Models of old operator sets, brought to the first one that the formats are built in."""

from __future__ import annotations

from onnx import ModelProto, TensorProto, helper, version_converter

from modeltailor.errors import ModelError

__all__ = ["LOWEST_OPSET", "upgraded"]

LOWEST_OPSET = 13
_IR_WITHOUT_TWINS = 4  # from here on an initializer need not be listed as an input, too
_LARGE = 1 << 16  # bytes of a tensor that no converter looks into


def upgraded(model: ModelProto) -> ModelProto:
    """Return a model in opset 13 or newer; the model itself if it is, else a converted copy.

    Large weights do not pass through the converter, which copies what it is given several times.

    Args:
        model: with its weights inside; changed if it is old.

    Raises:
        ModelError: the converter does not know an operator or one of its old forms.
    """
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if version >= LOWEST_OPSET or version == 0:
        return model
    model.ir_version = max(model.ir_version, _IR_WITHOUT_TWINS)
    kept = _taken_out(model)
    try:
        made = version_converter.convert_version(model, LOWEST_OPSET)
    except Exception as error:  # the converter raises bare RuntimeError and its own kinds
        raise ModelError(
            "MODEL-08", "model", f"opset {version} cannot be upgraded to {LOWEST_OPSET} ({error})", "export it newer"
        ) from error
    inputs = [i for i in made.graph.input if i.name not in kept]
    del made.graph.input[:]
    made.graph.input.extend(inputs)
    made.graph.initializer.extend(kept.values())
    return made


def _taken_out(model: ModelProto) -> dict[str, TensorProto]:
    """Turn the large initializers of a model into inputs; returns them by name."""
    graph = model.graph
    large = {t.name: t for t in graph.initializer if t.ByteSize() > _LARGE}
    small = [t for t in graph.initializer if t.name not in large]
    inputs = [i for i in graph.input if i.name not in large]
    inputs += [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in large.values()]
    del graph.initializer[:]
    graph.initializer.extend(small)
    del graph.input[:]
    graph.input.extend(inputs)
    return large
