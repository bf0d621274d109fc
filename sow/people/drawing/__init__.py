"""The renderer of drawn people and their scenes."""
