"""The judge of the embedded world: a small network that reads a picture of a drawn person
as a viewer would."""

from sow.people.judge.reader import Calibration, Judge, Reading, load_judge

__all__ = ["Calibration", "Judge", "Reading", "load_judge"]
