"""What a student learns from inside its teacher: the outputs of named layers.

``hint``: values, through a learned linear projection where the widths differ (Romero et al. 2015, "FitNets",
arXiv:1412.6550). ``attention``: where the energy lies, the normalised map of mean squares over channels (Zagoruyko and
Komodakis 2017, "Paying More Attention to Attention", arXiv:1612.03928).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import skip_init

from modeltailor.compress.structure.calling import first_tensor
from modeltailor.errors import ConfigError

__all__ = ["FeatureMatching"]


class FeatureMatching:
    """Hooks on pairs of layers, and the loss between what they saw in the last pass.

    Args:
        student: its layers get hooks until :meth:`close`.
        teacher: likewise.
        pairs: ``NAME`` or ``STUDENT=TEACHER``.
        kind: what is matched.
        seed: of the projections' first weights.

    Raises:
        ConfigError: one of the networks has no layer of that name.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        pairs: Sequence[str],
        kind: Literal["hint", "attention"],
        seed: int,
    ) -> None:
        self._kind = kind
        self._seed = seed
        self._pairs = [(p.partition("=")[0], p.rpartition("=")[2]) for p in pairs]
        self._seen: dict[tuple[str, str], Tensor] = {}
        self._hooks = []
        self.projections = nn.ModuleDict()
        for mine, theirs in self._pairs:
            for role, network, name in (("student", student, mine), ("teacher", teacher, theirs)):
                layer = dict(network.named_modules()).get(name)
                if layer is None or not name:
                    raise ConfigError(
                        "CFG-08", "training.features", f"the {role} has no layer '{name}'", "name another"
                    )
                self._hooks.append(layer.register_forward_hook(self._note(role, name)))

    def prepare(self) -> None:
        """Make the projections from the shapes of the pass that was just run.

        Raises:
            ConfigError: the outputs of a pair cannot be compared.
        """
        for index, (mine, theirs) in enumerate(self._pairs):
            a, b = self._pair(mine, theirs)
            if a.ndim != b.ndim or a.ndim < 2:
                raise ConfigError(
                    "CFG-09", "training.features", f"'{mine}' and '{theirs}' give different kinds of output"
                )
            width, wanted = a.shape[_axis(a)], b.shape[_axis(b)]
            if self._kind == "hint" and width != wanted:
                made = skip_init(nn.Linear, width, wanted)  # type: ignore[no-untyped-call]
                generator = torch.Generator().manual_seed(self._seed * 1009 + index)
                with torch.no_grad():
                    made.weight.copy_(torch.randn(wanted, width, generator=generator) * width**-0.5)
                    made.bias.zero_()
                self.projections[str(index)] = made.to(a.device)

    def loss(self) -> Tensor:
        """Return the mean loss over the pairs, of the last pass of both networks."""
        parts = []
        for index, (mine, theirs) in enumerate(self._pairs):
            a, b = self._pair(mine, theirs)
            a, b = _aligned(a.float(), b.float())
            if self._kind == "attention":
                parts.append((_energy(a) - _energy(b)).square().sum(1).mean())
                continue
            if str(index) in self.projections:
                axis = _axis(a)
                a = self.projections[str(index)](a.movedim(axis, -1)).movedim(-1, axis)
            parts.append(functional.mse_loss(a, b) / b.square().mean().clamp_min(1e-12))
        return torch.stack(parts).mean()

    def parameters(self) -> Iterator[nn.Parameter]:
        """What learns along with the student."""
        return self.projections.parameters()

    def close(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()
        self._seen.clear()

    def _note(self, role: str, name: str) -> Callable[[nn.Module, object, object], None]:
        def note(_: nn.Module, __: object, output: object) -> None:
            self._seen[role, name] = first_tensor(output)

        return note

    def _pair(self, mine: str, theirs: str) -> tuple[Tensor, Tensor]:
        missing = next((n for r, n in (("student", mine), ("teacher", theirs)) if (r, n) not in self._seen), None)
        if missing is not None:
            raise ConfigError("CFG-08", "training.features", f"layer '{missing}' is never called", "name another")
        return self._seen["student", mine], self._seen["teacher", theirs].detach()


def _axis(x: Tensor) -> int:
    """The axis of the channels: the second of images, the last of everything else."""
    return 1 if x.ndim == 4 else x.ndim - 1


def _aligned(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Bring feature maps of different sizes to the smaller one."""
    if a.ndim != 4 or a.shape[2:] == b.shape[2:]:
        return a, b
    size = (min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3]))
    return functional.adaptive_avg_pool2d(a, size), functional.adaptive_avg_pool2d(b, size)


def _energy(x: Tensor) -> Tensor:
    """Mean square over the channels, normalised to unit length a sample; [n, positions]."""
    return functional.normalize(x.square().mean(_axis(x)).flatten(1), dim=1)
