"""What the denoiser may be told of a scan, where it is known: the site it comes from and its own spacing.

Each condition is some channels of one value, shown beside the coordinates; zero is unknown. So nothing needs to be known,
of no scan, and the unconditional denoiser that classifier-free guidance wants is the same network shown zeros.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffaug.errors import DiffaugError
from diffaug.generator.condition import Condition
from diffaug.scans.grid import Grid, axis_order
from diffaug.scans.readings import Reading

DROPPED = 0.1  # share of training examples that are shown no condition (arXiv 2207.12598, table 1)
SPACING_VARIES = 0.05  # relative; scans whose spacing differs less than this look alike


@dataclass(frozen=True)
class ConditionPlan:
    """Which conditions a generator learns, part of its plan.

    Attributes:
        sites: Names of the sites, in the order of their channels.
        site_of: Site of each case; of a case that is not named it is unknown.
        spacing: Whether the scans' own spacing is a condition.
    """

    sites: tuple[str, ...] = ()
    site_of: dict[str, str] = field(default_factory=dict)
    spacing: bool = False

    @staticmethod
    def from_dict(content: dict[str, Any]) -> ConditionPlan:
        """Rebuild a plan.

        Args:
            content: What `asdict` gave, possibly edited.

        Returns:
            The plan.
        """
        return ConditionPlan(**{**content, "sites": tuple(content.get("sites", ()))})

    @property
    def channels(self) -> int:
        """Number of channels: one for each site; three for the spacing and one that says that it is known."""
        return len(self.sites) + 4 * self.spacing

    def of(self, reading: Reading, grid: Grid) -> Condition:
        """Tell what is known of a scan.

        Args:
            reading: The scan.
            grid: The canonical grid.

        Returns:
            Its condition.
        """
        return Condition(self.site_of.get(reading.case), canonical_spacing(reading, grid) if self.spacing else None)

    def values(self, conditions: Sequence[Condition], grid: Grid) -> Tensor:
        """Write conditions as the denoiser is shown them.

        Args:
            conditions: One for each volume of the batch.
            grid: The canonical grid.

        Returns:
            `(B, channels)` float32: one at the volume's site; then the binary logarithm of the scan's own spacing over
            the grid's along Z, Y and X, and one. All are zero where it is unknown.
        """
        values = torch.zeros(len(conditions), self.channels)
        for row, condition in zip(values, conditions, strict=True):
            if condition.site is not None:
                row[self.sites.index(condition.site)] = 1
            if condition.spacing is not None:
                row[-4:-1] = torch.log2(torch.tensor(condition.spacing) / torch.tensor(grid.spacing))
                row[-1] = 1
        return values


def canonical_spacing(reading: Reading, grid: Grid) -> tuple[float, ...]:
    """Find a scan's own spacing along the canonical axes.

    Args:
        reading: The scan.
        grid: The canonical grid.

    Returns:
        In mm, (Z, Y, X).
    """
    return tuple(reading.spacing[axis] for axis in axis_order(reading.orientation, grid.orientation))


def plan_conditions(
    readings: Sequence[Reading], grid: Grid, cases: Collection[str], site_of: Mapping[str, str]
) -> ConditionPlan:
    """Choose the conditions that tell the training scans apart.

    Args:
        readings: All scans.
        grid: The canonical grid.
        cases: Ids of the scans to train on.
        site_of: Site of each case, as far as it is known.

    Returns:
        The plan: a site that no training scan comes from cannot be learned and is left out.
    """
    found = {site_of.get(case) for case in cases}
    sites = tuple(sorted(site for site in found if site is not None)) if len(found) > 1 else ()
    named = {r.case: site_of[r.case] for r in readings if site_of.get(r.case) in sites}
    spacings = np.array([canonical_spacing(r, grid) for r in readings if r.case in cases])
    varies = bool((spacings.max(0) > (1 + SPACING_VARIES) * spacings.min(0)).any())
    return ConditionPlan(sites, named, varies)


def require_learned(wanted: Condition, guidance: float, learned: Sequence[Condition]) -> None:
    """Refuse what a generator cannot know.

    Args:
        wanted: What was asked for.
        guidance: How strongly.
        learned: Conditions of the training scans.

    Raises:
        DiffaugError: If no training scan came from the site, the spacing lies beyond theirs, or the guidance is negative
            or has nothing to act on.
    """
    sites = sorted({c.site for c in learned if c.site is not None})
    spacings = np.array([c.spacing for c in learned if c.spacing is not None])
    known = [f"site={site}" for site in sites]
    if len(spacings):
        low, high = spacings.min(0) / (1 + SPACING_VARIES), spacings.max(0) * (1 + SPACING_VARIES)
        known.append(f"spacing={_text(spacings.min(0))} to {_text(spacings.max(0))}")
    else:
        low, high = np.full(3, np.inf), np.zeros(3)
    what = ", ".join(known) or "no condition at all"
    if not 0 <= guidance < np.inf or (guidance != 1 and not known):
        raise DiffaugError(
            f"--guidance: found {guidance:g} for a generator that has learned {what}, expected a number from 0 on, and 1 "
            "where there is no condition; fix the option"
        )
    spacing = wanted.spacing
    for key, bad in (
        ("site", wanted.site is not None and wanted.site not in sites),
        ("spacing", spacing is not None and not ((low <= spacing) & (spacing <= high)).all()),
    ):
        if bad:
            value = wanted.known()[key]
            told = value if key == "site" else _text(value)
            raise DiffaugError(f"--condition {key}={told}: this generator has learned {what}; choose among these")


def _text(spacing: Sequence[float] | np.ndarray) -> str:
    return ",".join(f"{length:.3g}" for length in spacing)
