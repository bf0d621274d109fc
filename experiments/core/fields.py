"""Kinds of numbers that many studies have."""

from __future__ import annotations

from typing import Annotated

from sow.types import Bound

Count = Annotated[int, Bound(ge=1)]
Share = Annotated[float, Bound(ge=0, le=1)]
Inside = Annotated[float, Bound(gt=0, lt=1)]
Resamples = Annotated[int, Bound(ge=100)]  # fewer say nothing of an interval's ends
