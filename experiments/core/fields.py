"""Kinds of numbers and lists that many studies have."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from sow.types import Bound

LIMIT = 1_000_000  # of anything that is listed or drawn before a study begins: more fills any memory
Count = Annotated[int, Bound(ge=1, le=LIMIT)]
Share = Annotated[float, Bound(ge=0, le=1)]
Inside = Annotated[float, Bound(gt=0, lt=1)]
Filled: Any = Field(min_length=1)  # a list or mapping that may not be empty: Annotated[list[str], Filled]
Prompts = Annotated[list[str], Filled]
Resamples = Annotated[int, Bound(ge=100, le=LIMIT)]  # fewer say nothing of an interval's ends
