# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Phases of denoising
#
# Chaos, semantic formation, refinement (Sec. III-B, App. B), read from `study=diffusion_in_diffusion`,
# `study=semantic_formation`, `study=text_sensitivity` and `study=find_phases`. The noise level k / K runs
# from 0 (clean) to 1.

# %%
import pandas as pd
from matplotlib import pyplot as plt

from sow.dynamics.curves import band
from sow.dynamics.measured import TABLES, curve_of
from sow.dynamics.regimes import ramp
from sow.report import figures
from sow.report.statistics import Resampling
from sow.runs import reading as runs

# %% tags=["parameters"]
outputs = "outputs"

# %%
folders = {name: runs.latest(name, outputs) for name in TABLES}
curves = {name: curve_of(name, runs.table(folder, name)) for name, folder in folders.items()}

# %% [markdown]
# Each study's curve with the 95 % interval of its mean over units (layouts, pictures, prompts and seeds), in
# its own scale.

# %%
with figures.style():
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.4))
    for axis, (name, curve) in zip(axes, curves.items()):
        around = band(curve.values, Resampling(0.95, 200, 0))
        axis.plot(curve.noise, around.mean, "o-")
        axis.fill_between(curve.noise, around.low, around.high, alpha=0.2)
        axis.set(title=name.replace("_", " "), xlabel="noise level k / K")
    axes[0].set_ylabel("curve, rising with noise")

# %% [markdown]
# Semantic formation by size: the mean squared error of a disturbed picture, where the larger size should
# settle earlier.

# %%
formed = runs.table(folders["semantic_formation"], "semantic_formation")
formed.pivot_table(index="noise", columns="size", values="excess").round(4)

# %% [markdown]
# Merged halves: the share of the contrast that is kept, with attention left alone, lifted and cut (Fig. 4).

# %%
merged = runs.table(folders["diffusion_in_diffusion"], "diffusion_in_diffusion")
merged.pivot_table(index="noise", columns="row", values="contrast_kept").round(3)

# %% [markdown]
# The three regimes: change points that the three curves share, and the cycle that follows from them.

# %%
found_in = runs.latest("find_phases", outputs)
found = runs.numbers(found_in)
print(found["overrides"], "|", found["verdict"])
pd.DataFrame({k: found[k] for k in ("default", "suggested")})

# %%
table = runs.table(found_in, "find_phases")
with figures.style():
    figure, axis = plt.subplots(figsize=(6, 2.6))
    for color, (name, part) in zip(figures.CYCLE, table.groupby("curve", sort=False)):
        mean = part.groupby("noise").value.mean()
        axis.plot(mean.index, (mean - mean.min()) / (mean.max() - mean.min()), "o-", color=color, label=name)
    axis.plot(mean.index, ramp(mean.index.to_numpy(), found["a"], found["b"]), color="gray", lw=3, alpha=0.5)
    axis.axvspan(found["a"], found["b"], alpha=0.15, label="semantic formation")
    axis.set(xlabel="noise level k / K", ylabel="scaled to [0, 1]")
    axis.legend()
