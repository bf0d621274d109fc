"""How information moves while a diffusion model denoises: partial runs of a frozen model,
and what is read off them."""
