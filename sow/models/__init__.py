"""Frozen models: loading them, and what they need to be run step by step."""
