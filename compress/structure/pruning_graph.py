"""Which channels must go together: the dependency graph of torch-pruning (Fang et al. 2023, arXiv:2301.12900).

The only file that knows torch-pruning.
"""

from __future__ import annotations

import importlib
import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from modeltailor.compress.structure.calling import call
from modeltailor.compress.structure.thawing import thawed
from modeltailor.errors import CandidateError, shown

__all__ = ["Coupling", "Member", "PruningGraph"]


def _without_timm() -> Any:
    """Import torch-pruning as if timm were not there: it only wants it for a counter, and it dies of a broken one."""
    blocked = "timm" not in sys.modules
    if blocked:
        sys.modules["timm"] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("torch_pruning")
    finally:
        if blocked:
            del sys.modules["timm"]


torch_pruning = _without_timm()

_ROOTS = (nn.modules.conv._ConvNd, nn.Linear)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One layer that loses something when a channel goes.

    Attributes:
        name: of the layer or bare parameter.
        side: whether it loses outputs, inputs, or (normalisation, bare parameters) its entry of that channel.
        indices: entries along that side.
        channels: for each entry, the channel of the group that it belongs to.
    """

    name: str
    side: Literal["out", "in", "entry"]
    indices: tuple[int, ...]
    channels: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coupling:
    """Channels that can only go together.

    Attributes:
        root: the layer from which the graph was walked.
        channels: how many there are.
        members: everything that loses something.
        divisor: the number kept must be a multiple of it: as many equal parts of the channels lose equally (grouped
            convolutions, group normalisation).
        alike: as many equal parts of the channels lose the same positions; divides ``divisor``. (A grouped convolution
            that reads the channels has one kernel column for a position of all its groups.)
        reaches_output: the model's output would change its shape.
    """

    root: str
    channels: int
    members: tuple[Member, ...]
    divisor: int
    alike: int
    reaches_output: bool

    @property
    def producers(self) -> tuple[str, ...]:
        """Convolutions and linear layers whose outputs these channels are."""
        return tuple(m.name for m in self.members if m.side == "out")


class PruningGraph:
    """The dependency graph of one module. Removing channels changes that module.

    Args:
        module: in ``eval`` mode; changed by :meth:`remove`.
        inputs: one example.

    Raises:
        CandidateError: the module cannot be traced.
    """

    def __init__(self, module: nn.Module, inputs: Mapping[str, Tensor]) -> None:
        self._module = module
        try:  # the graph is read from autograd: frozen layers would be invisible
            with warnings.catch_warnings(), torch.enable_grad(), thawed(module):
                warnings.simplefilter("ignore")
                self._graph = torch_pruning.DependencyGraph()
                self._graph.build_dependency(module, dict(inputs), forward_fn=_forward, verbose=False)
        except Exception as error:  # the tracer meets arbitrary models and raises whatever they provoke
            raise CandidateError(
                "UNSUPPORTED", type(module).__name__,
                f"its dependencies cannot be traced ({type(error).__name__}: {shown(error, 160)})", "prune nothing",
            ) from error  # fmt: skip
        finally:
            _forget(module)
        self._names: dict[Any, str] = {m: n for n, m in module.named_modules()}

    def couplings(self) -> tuple[Coupling, ...]:
        """Return every set of channels that can go together, in the order of the module's layers."""
        found: list[Coupling] = []
        seen: set[str] = set()
        nodes = self._graph.module2node
        for name, layer in self._module.named_modules():
            if not isinstance(layer, _ROOTS) or _is_depthwise(layer) or layer not in nodes or name in seen:
                continue
            made = self._coupling(name, layer)
            if made is not None:
                seen.update(made.producers)
                found.append(made)
        return tuple(found)

    def remove(self, coupling: Coupling, channels: Sequence[int]) -> None:
        """Remove those channels of the group everywhere.

        Raises:
            CandidateError: a layer of the group cannot lose them.
        """
        layer = self._module.get_submodule(coupling.root)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._graph.get_pruning_group(layer, self._out_function(layer), sorted(channels)).prune()
        except Exception as error:
            raise CandidateError(
                "UNSUPPORTED", coupling.root, f"its channels cannot be removed ({shown(error, 160)})", "keep this group"
            ) from error

    def _out_function(self, layer: nn.Module) -> Any:
        return self._graph.get_pruner_of_module(layer).prune_out_channels

    def _coupling(self, name: str, layer: nn.Module) -> Coupling | None:
        channels = self._graph.get_out_channels(layer)
        if not channels:
            return None
        try:
            group = self._graph.get_pruning_group(layer, self._out_function(layer), list(range(channels)))
        except Exception:  # a layer that the graph cannot follow is no group; the others still are
            return None
        members: list[Member] = []
        divisor, alike, reaches_output = 1, 1, False
        for item in group:
            target = item.dep.target
            is_out = self._graph.is_out_channel_pruning_fn(item.dep.handler)
            reaches_output |= is_out and not target.outputs
            module = target.module
            if isinstance(module, nn.Parameter):
                member_name = self._graph._param_to_name.get(module, "")
            else:
                member_name = self._names.get(module, "")
            if not member_name:
                continue  # an operation without weights
            side: Literal["out", "in", "entry"] = "entry"
            if isinstance(module, _ROOTS) and not _is_depthwise(module):
                side = "out" if is_out else "in"
            roots = item.root_idxs if item.root_idxs is not None else item.idxs
            member = Member(name=member_name, side=side, indices=tuple(item.idxs), channels=tuple(roots))
            parts = _parts(module, side)
            if parts > 1 and not _in_step(member, _width(module, side), channels):
                return None  # its parts are not parts of these channels: what goes here goes there unequally
            divisor = math.lcm(divisor, parts)
            alike = math.lcm(alike, parts if side == "in" else 1)
            members.append(member)
        return Coupling(
            root=name, channels=channels, members=tuple(members), divisor=divisor, alike=alike,
            reaches_output=reaches_output,
        )  # fmt: skip


def _forget(module: nn.Module) -> None:
    """Empty what modules remembered of the traced pass (attention biases): it belongs to old shapes and to autograd."""
    for part in module.modules():
        for name, value in vars(part).items():
            if name in _OWN or not isinstance(value, dict):
                continue
            if any(isinstance(v, Tensor) and v.grad_fn is not None for v in value.values()):
                value.clear()


_OWN = frozenset(("_parameters", "_buffers", "_modules"))


def _is_depthwise(layer: nn.Module) -> bool:
    """Its channels are those of the layer before: it hands them on and produces none."""
    groups = getattr(layer, "groups", 1)
    return bool(groups > 1 and groups == getattr(layer, "in_channels", 0) == getattr(layer, "out_channels", 0))


def _parts(module: object, side: str) -> int:
    """In how many equal parts a member splits its channels."""
    if isinstance(module, nn.GroupNorm):
        return module.num_groups
    return int(getattr(module, "groups", 1)) if side != "entry" else 1


def _width(module: object, side: str) -> int:
    """How many channels a member with parts has on that side."""
    names = ("num_channels",) if side == "entry" else ("out_channels",) if side == "out" else ("in_channels",)
    return int(getattr(module, names[0]))


def _in_step(member: Member, width: int, channels: int) -> bool:
    """Whether a member's entries are the channels of the group, all of them and in their order."""
    entries = sorted(zip(member.indices, member.channels, strict=True))
    return entries == [(i, i * channels // width) for i in range(width)]


def _forward(module: nn.Module, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    return [t for t in _tensors(call(module, inputs)) if t.grad_fn is not None]


def _tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        return [t for part in value for t in _tensors(part)]
    return []
