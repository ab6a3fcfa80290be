"""How a changed network learns again: ``Training``, one immutable schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from modeltailor.errors import ConfigError

__all__ = ["Training"]

_LIMITS: Final = (
    ("epochs", 0.0, 1e6), ("temperature", 1e-3, 1e3), ("hard_label_weight", 0.0, 1.0), ("learning_rate", 0.0, 1e3),
    ("batch_size", 1, 1 << 20), ("mixup", 0.0, 1.0), ("ema", 0.0, 0.999999), ("weight_decay", 0.0, 1.0),
    ("feature_weight", 0.0, 1e6), ("holdout", 0.0, 0.5), ("patience", 0, 1000),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How a changed structure learns again: distillation from the original (Hinton et al. 2015).

    Attributes:
        epochs: passes over the ``train`` split; may be a fraction. A chain of assistants shares them.
        temperature: softens teacher and student logits.
        hard_label_weight: share of the cross-entropy with the true labels, 0..1; without labels it counts as 0.
        learning_rate: peak of the one-cycle schedule; ``None``: 0.05 for SGD, 0.001 for AdamW.
        batch_size: samples a step.
        seed: of shuffling and augmentation.
        augment: random crops where the input is one image of at least 16 pixels a side, mirrored too where it has three
            channels; other inputs stay as they are. The teacher sees the same images.
        mixup: largest share of another image blended in, 0 (off) to 1; the teacher alone then teaches, and labels count
            for nothing. ``None``: off, but in a search on for long schedules on images.
        ema: decay of the running average of the weights that is handed back; 0 hands back the last weights.
        weight_decay: of matrices and kernels; never of biases and normalisation.
        optimizer: SGD with Nesterov momentum 0.9, or AdamW; ``auto``: SGD where there are batch normalisations.
        precision: ``auto`` computes in bfloat16 where the processor (convolutions) or the GPU has instructions for it.
        device: ``auto`` trains on a GPU where there is one; ``cpu`` never does.
        features: layers whose outputs are matched too: ``NAME``, or ``STUDENT=TEACHER`` where the names differ.
        feature_loss: ``hint`` matches values, through a learned projection where the widths differ (Romero et al. 2015,
            FitNets); ``attention`` matches where the energy lies (Zagoruyko and Komodakis 2017).
        feature_weight: of the feature loss beside that of the answers.
        assistants: middle sizes that pass the knowledge on (Mirzadeh et al. 2020); ``auto``: one for each factor of
            eight between the parameters of the original and of the student.
        holdout: share of ``train`` that is not learned from but watched, up to one half; needed by ``patience``.
        patience: stop after so many looks (two an epoch) without a better loss on the held-out part, and hand back the
            best weights; 0 learns to the end.
    """

    epochs: float = 2.0
    temperature: float = 4.0
    hard_label_weight: float = 0.3
    learning_rate: float | None = None
    batch_size: int = 128
    seed: int = 0
    augment: bool = True
    mixup: float | None = None
    ema: float = 0.99
    weight_decay: float = 1e-4
    optimizer: Literal["auto", "sgd", "adamw"] = "auto"
    precision: Literal["auto", "float32"] = "auto"
    device: Literal["auto", "cpu"] = "auto"
    features: tuple[str, ...] = ()
    feature_loss: Literal["hint", "attention"] = "hint"
    feature_weight: float = 1.0
    assistants: Literal["auto"] | int = "auto"
    holdout: float = 0.0
    patience: int = 0

    def __post_init__(self) -> None:
        for name, low, high in _LIMITS:
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ConfigError("CFG-07", f"training.{name}", f"must lie in {low}..{high}; got {value}")
        if self.patience and not self.holdout:
            raise ConfigError("CFG-09", "training.patience", "needs held-out samples", "set holdout, e.g. 0.05")
        if self.assistants != "auto" and not (isinstance(self.assistants, int) and 0 <= self.assistants <= 8):
            raise ConfigError("CFG-08", "training.assistants", f"must be auto or 0..8; got {self.assistants}")
        for name, kind, _ in _LIMITS:
            if isinstance(kind, float) and getattr(self, name) is not None:
                object.__setattr__(self, name, float(getattr(self, name)))  # 8 and 8.0 are one schedule, one key
        object.__setattr__(self, "features", tuple(self.features))
        for pair in self.features:
            if not all(pair.split("=")) or pair.count("=") > 1:
                raise ConfigError("CFG-08", "training.features", f"'{pair}' is no layer", "use NAME or STUDENT=TEACHER")
