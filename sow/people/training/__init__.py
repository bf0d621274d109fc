"""The recipe of the embedded world's latent diffusion model: autoencoder, text encoder and noise predictor,
from renders alone.

Each stage is a frozen dataclass of numbers and a `train_*` function that resumes from its checkpoint and ends
by the wall clock; `python -m sow.people.training STAGE` runs one, `study=train_people` runs them in order.
"""
