"""Checks of a component's numbers when it is made; each raises a UserError that names the bound, the value
and its key.

The key is `group.field`, or the field alone for the settings of no group (""). None, where a field may be
left open, passes; nan never does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from sow.errors import UserError


def need_at_least(component: Any, group: str, /, **lows: float) -> None:
    """Field >= low for each `field=low`."""
    for name, value, key in _given(component, group, lows):
        if not value >= lows[name]:
            raise UserError(f"need {name} >= {lows[name]}, got {value} ({key})")


def need_above(component: Any, group: str, /, **lows: float) -> None:
    """Field > low for each `field=low`."""
    for name, value, key in _given(component, group, lows):
        if not value > lows[name]:
            raise UserError(f"need {name} > {lows[name]}, got {value} ({key})")


def need_within(component: Any, group: str, low: float, high: float, /, *names: str) -> None:
    """low <= field <= high for each of `names`."""
    for name, value, key in _given(component, group, names):
        if not low <= value <= high:
            raise UserError(f"need {low} <= {name} <= {high}, got {value} ({key})")


def need_between(component: Any, group: str, low: float, high: float, /, *names: str) -> None:
    """low < field < high for each of `names`."""
    for name, value, key in _given(component, group, names):
        if not low < value < high:
            raise UserError(f"need {low} < {name} < {high}, got {value} ({key})")


def need_one_of(component: Any, group: str, /, **choices: Collection[str]) -> None:
    """Field among the words for each `field=words`."""
    for name, value, key in _given(component, group, choices):
        if value not in choices[name]:
            raise UserError(f"{name} is one of {', '.join(choices[name])}, got {value!r} ({key})")


def _given(component: Any, group: str, names: Any) -> Iterator[tuple[str, Any, str]]:
    for name in names:
        value = getattr(component, name)
        if value is not None:
            yield name, value, f"{group}.{name}" if group else name
