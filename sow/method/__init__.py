"""The paper: Algorithm 1 and its parts, on tensors and dataclasses alone."""
