"""What every technique of this room must hold, as a suite that plug-in authors can run.

Use it in a test module of your own::

    class TestMyTechnique(TechniqueContract):
        @pytest.fixture
        def case(self):
            return TechniqueCase(subject=..., apply=my_technique, example_inputs=..., parameters=1234)

A technique takes a network and gives a changed one. It may be a PyTorch module or an ONNX model; the suite reads both.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from modeltailor.compress.structure.calling import call, output_shapes
from modeltailor.compress.structure.cost import count_parameters
from modeltailor.targets import RuntimeOptions
from modeltailor.targets.session import open_session

__all__ = ["Apply", "Stopped", "TechniqueCase", "TechniqueContract"]

Network = TypeVar("Network", nn.Module, onnx.ModelProto)


class Stopped(Exception):
    """What the suite raises from ``progress`` in the middle of a training."""


class Apply(Protocol[Network]):
    """A technique with its options filled in."""

    def __call__(
        self, subject: Network, *, seed: int, cache_dir: Path | None, progress: Callable[[float], None] | None
    ) -> Network:
        """Return the changed network; techniques that do not train may ignore all but ``subject``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TechniqueCase(Generic[Network]):
    """A technique under test.

    Attributes:
        subject: what it is applied to.
        apply: the technique.
        example_inputs: by name, good for ``subject`` and for what comes of it.
        parameters: how many the result must have; a number that follows from the options by arithmetic.
        counts: whether ``parameters`` counts all, or those that are not zero.
        trains: it learns, reports progress and keeps checkpoints in ``cache_dir``.
    """

    subject: Network
    apply: Apply[Network]
    example_inputs: Mapping[str, Tensor]
    parameters: int
    counts: Literal["all", "non-zero"] = "all"
    trains: bool = False


class TechniqueContract:
    """The suite. Each check applies the technique afresh."""

    def test_the_input_is_unchanged(self, case: TechniqueCase[Network]) -> None:
        """Weights, buffers and mode of the input are what they were."""
        before = network_digest(case.subject)
        mode = getattr(case.subject, "training", None)
        made = _applied(case)
        assert made is not case.subject
        assert network_digest(case.subject) == before
        assert getattr(case.subject, "training", None) == mode

    def test_the_same_seed_gives_the_same_network(self, case: TechniqueCase[Network]) -> None:
        """Bit for bit, whatever the global random state is; and it does not move that state."""
        torch.manual_seed(1)
        first = _applied(case)
        torch.manual_seed(2)
        drawn = torch.random.get_rng_state()
        second = _applied(case)
        assert torch.equal(torch.random.get_rng_state(), drawn)
        assert network_digest(first) == network_digest(second)

    def test_outputs_keep_their_shape_and_are_finite(self, case: TechniqueCase[Network]) -> None:
        """For the example, and nothing in it is NaN or infinite."""
        wanted, _ = _outputs(case.subject, case.example_inputs)
        got, finite = _outputs(_applied(case), case.example_inputs)
        assert got == wanted
        assert finite

    def test_parameters_are_as_promised(self, case: TechniqueCase[Network]) -> None:
        """Counted on the result, against the arithmetic."""
        assert _parameters(_applied(case), case.counts) == case.parameters

    def test_a_stopped_training_goes_on(self, case: TechniqueCase[Network], tmp_path: Path) -> None:
        """Stopped in the middle and started again, it ends at the same network; what does not train needs no cache."""
        if not case.trains:
            _applied(case, cache_dir=tmp_path)
            assert list(tmp_path.iterdir()) == []
            return
        whole = _applied(case)

        def stop(position: float) -> None:
            if position >= 0.5:
                raise Stopped

        try:
            case.apply(copy.deepcopy(case.subject), seed=0, cache_dir=tmp_path, progress=stop)
        except Stopped:
            pass
        else:
            raise AssertionError("a technique that trains must report progress")
        seen: list[float] = []
        resumed = case.apply(copy.deepcopy(case.subject), seed=0, cache_dir=tmp_path, progress=seen.append)
        assert network_digest(resumed) == network_digest(whole)
        assert min(seen) >= 0.4, "the resumed training began from the start"


def network_digest(network: nn.Module | onnx.ModelProto) -> str:
    """Return the SHA-256 of everything that a network computes with."""
    if isinstance(network, onnx.ModelProto):
        return hashlib.sha256(network.SerializeToString(deterministic=True)).hexdigest()
    digest = hashlib.sha256(str(network).encode())
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _applied(case: TechniqueCase[Network], cache_dir: Path | None = None) -> Network:
    return case.apply(case.subject, seed=0, cache_dir=cache_dir, progress=None)


def _outputs(
    network: nn.Module | onnx.ModelProto, inputs: Mapping[str, Tensor]
) -> tuple[tuple[tuple[int, ...], ...], bool]:
    if isinstance(network, onnx.ModelProto):
        session = open_session(network.SerializeToString(), RuntimeOptions())
        arrays = session.run(None, {k: v.numpy() for k, v in inputs.items()})
        return tuple(tuple(a.shape) for a in arrays), all(bool(np.isfinite(a).all()) for a in arrays)
    made = copy.deepcopy(network).eval()
    shapes = output_shapes(made, inputs)
    with torch.no_grad():
        output = call(made, inputs)
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple) else (output,)
    return shapes, all(bool(torch.isfinite(p).all()) for p in parts if isinstance(p, Tensor))


def _parameters(network: nn.Module | onnx.ModelProto, counts: str) -> int:
    if isinstance(network, onnx.ModelProto):
        arrays = [onnx.numpy_helper.to_array(t) for t in network.graph.initializer]
        kept = [a for a in arrays if a.dtype.kind == "f"]
        return sum(int(np.count_nonzero(a)) if counts == "non-zero" else a.size for a in kept)
    if counts == "all":
        return count_parameters(network)
    return sum(int(torch.count_nonzero(p)) for p in network.parameters())
