"""From a decision about structure to an ONNX file, for models that come without PyTorch; what cannot be is said."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from onnx import ModelProto

from modeltailor.compress.formats.graph import load_model
from modeltailor.compress.structure.onnx_channels import prune_onnx
from modeltailor.compress.structure.onnx_low_rank import factorize_onnx
from modeltailor.compress.structure.onnx_sparsity import sparsify_onnx
from modeltailor.compress.structures import Structure
from modeltailor.errors import CandidateError
from modeltailor.targets import Inputs

__all__ = ["NEEDS_TRAINING", "realize_onnx"]

NEEDS_TRAINING = (
    "an ONNX file cannot learn: small cuts (about a tenth) are corrected from calibration data, larger ones need the "
    "PyTorch model and training data"
)
"""What to tell about structures of a file without PyTorch."""


def realize_onnx(
    structure: Structure,
    model: Path | bytes | ModelProto,
    *,
    calibration: Inputs | None = None,
    multiple: int = 8,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> ModelProto:
    """Return the model with channels, ranks and zeros as ``structure`` says; a schedule for training is passed over.

    Args:
        structure: ``keep``, ``ranks``, ``sparsity`` and what belongs to them.
        model: a float model; not changed.
        calibration: inputs by name; sharpens the choice and corrects biases.
        multiple: kept channels are rounded to it.
        input_shapes: shape of each input, where the file leaves dimensions free.

    Raises:
        CandidateError: a group or site is unknown or cannot be cut, or the structure asks for what needs PyTorch.
        ConfigError: a score needs calibration data.
        ModelError: the model cannot be read.
    """
    asked = {
        "removed": bool(structure.removed),
        "width": structure.width != 1.0,
        "depth": structure.depth != 1.0,
        "resolution": structure.resolution != 1.0,
        f"score {structure.score}": bool(structure.keep) and structure.score not in ("magnitude", "activation"),
    }
    for name, wanted in asked.items():
        if wanted:
            raise CandidateError(
                "UNSUPPORTED", name, "needs the PyTorch model; this one is an ONNX file", "leave it out"
            )
    made = load_model(model)
    if structure.keep:
        made = prune_onnx(
            made, dict(structure.keep), multiple=multiple, input_shapes=input_shapes,
            calibration=calibration,
        )  # fmt: skip
    if structure.ranks:
        made = factorize_onnx(made, dict(structure.ranks), calibration=calibration, input_shapes=input_shapes)
    if structure.sparsity:
        made = sparsify_onnx(
            made, dict(structure.sparsity), pattern=structure.pattern, score=structure.sparsity_score,
            calibration=calibration, input_shapes=input_shapes,
        )  # fmt: skip
    return made
