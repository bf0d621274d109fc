"""From requests to samples: plans, batches, memory, recording, decoding."""
