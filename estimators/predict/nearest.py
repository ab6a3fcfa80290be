"""Items that other devices have run, on an unseen device: its nearest devices found, their table made complete.

For networks that are known by name (each ran on many devices) the other devices are the best features there are. Each
hypothesis looks at them through a window: devices whose few measured items look alike, level aside, count more, and the
mean and covariance of the unseen device are theirs; a kernel over what is known of the items (format, runtime,
network) adds what no device shows. Narrow and wide windows, strong and weak covariances and several noise levels are
mixed by how well each foretells every measurement from the others.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modeltailor.estimators.predict.mixture import Mixture

__all__ = ["KnownItems", "Windows", "completed"]

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

_FILL_NOISE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """The grid of hypotheses.

    Attributes:
        widths: window widths, in units of the distance to the nearest tenth of the devices.
        likeness: by which factor the covariance of the devices in the window holds for the unseen one.
        own: by which factor the covariance over item features holds.
        noises: standard deviations of one measurement around the model, in log milliseconds.
        level_variance: of the unknown level, squared log milliseconds.
    """

    widths: tuple[float, ...] = (0.1, 0.3, 1.0)
    likeness: tuple[float, ...] = (0.3, 1.0)
    own: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    noises: tuple[float, ...] = (0.02, 0.06, 0.15)
    level_variance: float = 4.0


def completed(log_ms: Floats, own: Floats, rounds: int = 4) -> Floats:
    """Return the table with each gap filled by what the device's other items and the other devices say.

    Args:
        log_ms: ``[n_devices, n_items]``, NaN where nothing was measured; each item has at least one value.
        own: ``[n_items, n_items]`` covariance over item features.
        rounds: how often means and covariance are computed anew from the filled table.
    """
    known = ~np.isnan(log_ms)
    level = np.nanmean(log_ms, axis=1)
    mean = np.zeros(log_ms.shape[1])
    for _ in range(20):  # two-way means of an incomplete table
        mean = np.nanmean(log_ms - level[:, None], axis=0)
        level = np.nanmean(log_ms - mean, axis=1)
    filled = np.where(known, log_ms, mean + level[:, None])
    covariance = own
    for _ in range(rounds):
        for device, seen in enumerate(known):
            if seen.all():
                continue
            base = mean + level[device]
            prior = covariance + 1.0  # the level once more, loosely
            gram = prior[np.ix_(seen, seen)] + _FILL_NOISE**2 * np.eye(int(seen.sum()))
            missing = base + prior[:, seen] @ np.linalg.solve(gram, (log_ms[device] - base)[seen])
            filled[device] = np.where(seen, log_ms[device], missing)
        level = filled.mean(axis=1)
        centred = filled - level[:, None]
        mean = centred.mean(axis=0)
        covariance = own + (centred - mean).T @ (centred - mean) / len(filled)
    return filled


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KnownItems:
    """Known items on an unseen device.

    Attributes:
        log_ms: ``[n_devices, n_items]``, complete; see :func:`completed`.
        own: ``[n_items, n_items]`` covariance over item features.
        trust: ``[n_devices]`` weight of each pooled device, so that one chip in twenty settings is not twenty chips.
        windows: the grid.
    """

    log_ms: Floats
    own: Floats
    trust: Floats
    windows: Windows = Windows()

    def choose(self, k: int, candidates: Indices, targets: Indices) -> list[int]:
        """Return ``k`` items whose measurement takes most variance out of ``targets``, one after the other."""
        shapes = self.log_ms - self.log_ms.mean(axis=1, keepdims=True)
        mean, pooled, _ = self._moments(shapes, self.trust)
        del mean
        own = float(np.mean(self.windows.own))
        total = pooled + own * self.own + self.windows.level_variance
        noise = self.windows.noises[1] ** 2
        own_part, cross = total[np.ix_(candidates, candidates)], total[np.ix_(targets, candidates)]
        chosen: list[int] = []
        for _ in range(min(k, len(candidates))):
            left = np.maximum(np.diag(own_part), 0.0) + noise
            gain = (cross**2).sum(axis=0) / left
            gain[chosen] = -1.0
            best = int(np.argmax(gain))
            chosen.append(best)
            cross = cross - np.outer(cross[:, best], own_part[best]) / left[best]
            own_part = own_part - np.outer(own_part[:, best], own_part[best]) / left[best]
        return [int(candidates[i]) for i in chosen]

    def posterior(self, measured: Indices, log_ms: Floats, targets: Indices) -> Mixture:
        """Return the log milliseconds of ``targets`` given the measured ones; ``measured`` may be empty."""
        grid = self.windows
        levels = self.log_ms.mean(axis=1)
        shapes = self.log_ms - levels[:, None]
        _, pooled, _ = self._moments(shapes, self.trust)
        level = float(np.average(levels, weights=self.trust))
        centres, spreads, scores = [], [], []
        for width in grid.widths if len(measured) > 1 else (None,):
            weights = self.trust if width is None else self._window(shapes, measured, log_ms, width)
            mean, near, effective = self._moments(shapes, weights)
            doubt = np.sqrt(len(shapes))  # few devices in the window: fall back on the covariance of all
            near = (effective * near + doubt * pooled) / (effective + doubt)
            for likeness, own in itertools.product(grid.likeness, grid.own):
                within = likeness * near[:, measured] + own * self.own[:, measured] + grid.level_variance
                diagonal = likeness * np.diag(near) + own * np.diag(self.own) + grid.level_variance
                for noise in grid.noises:
                    inverse = np.linalg.inv(within[measured] + noise**2 * np.eye(len(measured)))
                    residual = log_ms - level - mean[measured]
                    gain = within[targets] @ inverse
                    variance = diagonal[targets] - np.einsum("ij,ij->i", gain, within[targets])
                    centres.append(level + mean[targets] + gain @ residual)
                    spreads.append(np.sqrt(np.maximum(variance, 0.0) + noise**2))
                    held_out = 1.0 / np.diag(inverse)
                    error = (inverse @ residual) * held_out
                    scores.append(float(-0.5 * (np.log(held_out) + error**2 / held_out).sum()))
        weights = np.exp(np.array(scores) - max(scores))
        return Mixture(centres=np.array(centres), spreads=np.array(spreads), weights=weights / weights.sum())

    def _window(self, shapes: Floats, measured: Indices, log_ms: Floats, width: float) -> Floats:
        """Return the weight of each device by the likeness of its shape on the measured items."""
        theirs = shapes[:, measured]
        difference = (theirs - theirs.mean(axis=1, keepdims=True)) - (log_ms - log_ms.mean())
        distance = (difference**2).mean(axis=1)
        nearest = np.sort(distance)[int(np.ceil(0.1 * len(distance)))]
        weights: Floats = self.trust * np.exp(-(distance - distance.min()) / (2 * width * nearest))
        return weights

    @staticmethod
    def _moments(shapes: Floats, weights: Floats) -> tuple[Floats, Floats, float]:
        """Return weighted mean, covariance, and the number of devices that the weights amount to."""
        share = weights / weights.sum()
        mean = share @ shapes
        centred = shapes - mean
        return mean, centred.T @ (share[:, None] * centred), float(1.0 / (share**2).sum())
