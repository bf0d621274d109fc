"""How easily a seam is seen: a small classifier of composites against whole renders of the embedded world."""

from sow.people.seam.reader import SeamReader, load_seam

__all__ = ["SeamReader", "load_seam"]
