"""Methods under one signature: `generate(requests) -> samples`."""
