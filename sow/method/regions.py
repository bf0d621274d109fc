"""From plans and placed conditions to the regions c and cr of each sample, at latent resolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sow.attention.regions import SampleRegions
from sow.method.seed_init import PlacedCondition
from sow.types import Canvas, Plan


def regions_of(
    plans: Sequence[Plan], placed: Sequence[PlacedCondition], canvas: Canvas, region: str
) -> list[SampleRegions]:
    """c from each placed condition (its box, or its latent mask: A9), cr = box_r minus c."""
    height, width = canvas.latent_size
    result = []
    for sample, plan in enumerate(plans):
        own = [p for p in placed if p.sample == sample]
        conditions = torch.zeros((len(own), height, width), dtype=torch.bool)
        taken = torch.zeros((height, width), dtype=torch.bool)
        for i, condition in reversed(list(enumerate(own))):  # later ones lie on top, as in pixels
            mask = condition.latent_mask
            h, w = mask.shape
            here = conditions[i, condition.top : condition.top + h, condition.left : condition.left + w]
            here.copy_(torch.ones_like(mask) if region == "box" else mask)
            conditions[i] &= ~taken
            taken |= conditions[i]
        related = torch.zeros((height, width), dtype=torch.bool)
        for box in plan.related:
            top, left = round(box.y / canvas.factor), round(box.x / canvas.factor)
            bottom, right = round(box.bottom / canvas.factor), round(box.right / canvas.factor)
            related[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = True
        centers = [
            ((p.box.y + p.box.h / 2) / canvas.height, (p.box.x + p.box.w / 2) / canvas.width) for p in own
        ]
        result.append(SampleRegions(conditions, related & ~taken, torch.tensor(centers, dtype=torch.float64)))
    return result
