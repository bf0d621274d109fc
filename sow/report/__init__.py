"""What runs show: in the terminal (`terminal`), and as tables with intervals beside
the paper's numbers (`tables`)."""

from __future__ import annotations

from sow.report.terminal import COLUMNS, GAP, PHASES, bar, progress_bar, strip, table, text

__all__ = ["COLUMNS", "GAP", "PHASES", "bar", "progress_bar", "strip", "table", "text"]
