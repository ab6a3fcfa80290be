"""Zeros in the weights of an ONNX file without PyTorch, see ``sparsity`` for the scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from onnx import ModelProto, numpy_helper

from modeltailor.compress.formats.calibrate import Calibration
from modeltailor.compress.formats.graph import PreparedGraph, SiteNode, prepare
from modeltailor.compress.formats.store import Store
from modeltailor.compress.structure.sparsity import thinned
from modeltailor.compress.structures import WeightScore
from modeltailor.errors import CandidateError, ConfigError
from modeltailor.targets import Inputs, RuntimeOptions

__all__ = ["sparsify_onnx"]

_KINDS = ("conv", "depthwise", "gemm", "matmul")


def sparsify_onnx(
    model: Path | bytes | ModelProto,
    sparsity: Mapping[str, float],
    *,
    pattern: str = "unstructured",
    score: WeightScore = "magnitude",
    calibration: Inputs | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> ModelProto:
    """Return the model with that share of zeros in the weights of those sites.

    Args:
        model: a float model; not changed.
        sparsity: share of zeros by site name.
        pattern: ``unstructured`` or ``N:M`` along the inputs.
        score: how weights are ranked.
        calibration: inputs by name; ``wanda`` and ``obs`` need them.
        input_shapes: shape of each input, where the file leaves dimensions free.

    Raises:
        CandidateError: a site is unknown, has no weight of that kind, or too many inputs for ``obs``.
        ConfigError: the score needs calibration data.
        ModelError: the model cannot be read.
    """
    if calibration is None and score != "magnitude":
        raise ConfigError("CFG-11", "structure.sparsity_score", f"{score} needs calibration data", "or use magnitude")
    shapes = input_shapes or (None if calibration is None else {k: v.shape for k, v in calibration.items()})
    graph = prepare(model, input_shapes=shapes)
    figures = None
    if calibration is not None and score != "magnitude":
        figures = Calibration(graph, calibration, options=RuntimeOptions(), store=Store(None, ""), seed=0)
    made = ModelProto()
    made.CopyFrom(graph.model)
    places = {t.name: t for t in made.graph.initializer}
    for name, share in sparsity.items():
        site = _checked(graph, name)
        weight = np.moveaxis(graph.weight(site), site.out_axis, 0)
        rows = torch.tensor(weight.reshape(site.group, weight.shape[0] // site.group, -1))
        moment = None if figures is None else _entering(figures, site, score)
        thin = thinned(rows, moment, share, pattern, score).numpy().reshape(weight.shape)
        values = np.ascontiguousarray(np.moveaxis(thin, 0, site.out_axis).astype(np.float32))
        places[site.weight].CopyFrom(numpy_helper.from_array(values, site.weight))
    return made


def _entering(figures: Calibration, site: SiteNode, score: WeightScore) -> torch.Tensor:
    """As much of the second moments of what enters a site as the score looks at."""
    if score == "wanda":
        return torch.tensor(figures.mean_squares(site))
    moments = figures.moments(site)
    if moments is None:
        shape = site.site.weight_shape
        width = math.prod(shape) // shape[site.out_axis]
        raise CandidateError(
            "UNSUPPORTED", site.site.name, f"{score} takes all products of two inputs, too many of {width}", "use wanda"
        )
    return torch.tensor(moments.second)


def _checked(graph: PreparedGraph, name: str) -> SiteNode:
    if name not in graph.names:
        raise CandidateError("UNSUPPORTED", name, "is no site of this model", "name a layer with weights")
    site = graph.site(name)
    if site.site.kind not in _KINDS:
        raise CandidateError("UNSUPPORTED", name, f"the weights of a {site.site.kind} site have no sparse form here")
    return site
