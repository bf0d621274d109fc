"""Tools of the repository: the documentation as a site, a W&B workspace as code, a Slurm of one node."""
