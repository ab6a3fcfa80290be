"""The plain form of a packed model, and the proof that it computes the same; runs in a child process."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from modeltailor.compress.pack import unpack_model
from modeltailor.estimators.bench import example_inputs
from modeltailor.targets import RuntimeOptions
from modeltailor.targets.session import input_specs, open_session, run_batches

__all__ = ["unpack_and_compare"]


def unpack_and_compare(source: Path, target: Path, samples: int) -> tuple[str, ...]:
    """Write the unpacked form of ``source`` to ``target`` and run both on made-up inputs.

    Args:
        source: a packed model.
        target: where the plain one goes.
        samples: inputs to try.

    Returns:
        names of outputs that are not equal bit for bit; empty if all are.
    """
    import onnx

    onnx.save(unpack_model(onnx.load(source)), target)
    shapes = {
        s.name: tuple(d if isinstance(d, int) and d > 0 else 1 for d in s.shape)
        for s in input_specs(source)
        if any(not isinstance(d, int) or d < 1 for d in s.shape[1:])
    }
    packed, plain = (open_session(path, RuntimeOptions()) for path in (source, target))
    differing: dict[str, None] = {}
    for seed in range(samples):
        inputs = example_inputs(source, shapes=shapes, seed=seed)
        first, second = (run_batches(s, inputs, batch_size=1) for s in (packed, plain))
        for name, value in first.items():
            other = second.get(name)
            if other is None or value.dtype != other.dtype or not np.array_equal(_bits(value), _bits(other)):
                differing[name] = None
    return tuple(differing)


def _bits(value: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.ascontiguousarray(value).view(np.uint8)
