"""Run folders: written, read back, and sent to W&B."""
