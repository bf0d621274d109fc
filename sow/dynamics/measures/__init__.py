"""Measures of generative dynamics: pure functions of a denoiser, on one axis,
the logarithm of the signal-to-noise ratio."""
