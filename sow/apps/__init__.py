"""The method inside other programs."""
