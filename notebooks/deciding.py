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
# # When does a diffusion model decide?
#
# Ten figures, read from the runs of `python run.py study=find_phases`, which makes one run for each measure
# and each of the paper's own studies. Noise lies on the left, the clean image on the right; the grey band is
# the paper's 700 to 500 of Stable Diffusion.

# %%
import pandas as pd
from matplotlib import pyplot as plt

from sow.dynamics.axis import paper_window
from sow.dynamics.measured import TABLES, curve_of
from sow.report import figures
from sow.runs import reading as runs

# %% tags=["parameters"]
outputs = "outputs"

# %% [markdown]
# **1. Information about attributes.** Nats per unit of log SNR that a noisy image gives about the attribute
# of its caption: an attribute is decided where the curve peaks (arXiv 2602.09651).

# %%
with figures.style():
    table = runs.table(runs.latest("entropy_rate", outputs), "entropy_rate")
    axis = table.pivot_table(index="log_snr", columns="curve", values="rate").plot(figsize=(6, 2.4))
    axis.axvspan(*paper_window(), color="black", alpha=0.07, lw=0)

# %% [markdown]
# **2. Information about pixels.** The same for pieces of text, summed over pixels (arXiv 2310.07972).

# %%
folder = runs.latest("pixel_information", outputs)
with figures.style():
    table = runs.table(folder, "pixel_information")
    axis = table.pivot_table(index="log_snr", columns="curve", values="rate").plot(figsize=(6, 2.4))
    axis.axvspan(*paper_window(), color="black", alpha=0.07, lw=0)

# %% [markdown]
# **3. Which pixels.** Where that information lies, over all noise levels, in nats per latent.

# %%
maps = runs.table(folder, "maps")
with figures.style():
    figure, axes = plt.subplots(1, maps.curve.nunique(), figsize=(7, 2), squeeze=False)
    for axis, (name, part) in zip(axes[0], maps.groupby("curve", sort=False)):
        axis.imshow(part.pivot(index="row", columns="column", values="nats"), vmin=0, vmax=maps.nats.max())
        axis.set_title(name)
        axis.axis("off")

# %% [markdown]
# **4. U-turns.** Susceptibility: how many patches change as one when an image is noised and denoised again
# (arXiv 2410.13770).

# %%
with figures.style():
    table = runs.table(runs.latest("u_turn", outputs), "u_turn")
    axis = table.plot(x="log_snr", y="chi", figsize=(6, 2.4))
    axis.axvspan(*paper_window(), color="black", alpha=0.07, lw=0)

# %% [markdown]
# **5. Windows.** Share of a prediction's energy that changes when the network sees a window only, by its
# radius in latents (arXiv 2508.06614).

# %%
with figures.style():
    table = runs.table(runs.latest("non_locality", outputs), "non_locality")
    summed = table.pivot_table(index="log_snr", columns="radius", values=["gap", "energy"], aggfunc="sum")
    axis = (summed["gap"] / summed["energy"]).plot(figsize=(6, 2.4))
    axis.axvspan(*paper_window(), color="black", alpha=0.07, lw=0)

# %% [markdown]
# **6. Reach and one-wayness.** How far the Jacobian looks, in latents, and whether influence has a direction
# (arXiv 2509.09672; 0 for an exact denoiser).

# %%
with figures.style():
    table = runs.table(runs.latest("sensitivity", outputs), "sensitivity")
    wide = table.pivot_table(index="log_snr", columns="curve", values="value")
    axes = wide.plot(subplots=True, layout=(1, -1), figsize=(7, 2.4))

# %% [markdown]
# **7. Copies.** Distance to the nearest training picture over that to the second: small for a copy only
# (arXiv 2402.18491).

# %%
with figures.style():
    table = runs.table(runs.latest("memorisation", outputs), "nearest")
    axis = plt.figure(figsize=(6, 2.4)).subplots()
    for name, part in table.groupby("kind"):
        axis.ecdf(part.ratio, label=name)
    axis.legend()

# %% [markdown]
# **8. Patches.** How far the outcome moves when one layer's activation, in one part of the steps, comes from
# a run with another prompt (arXiv 2202.05262).

# %%
with figures.style():
    table = runs.table(runs.latest("patching", outputs), "patching")
    moved = table[table.region == table.region.iloc[0]].pivot_table(
        index="layer", columns="last_timestep", values="moved"
    )
    axis = plt.figure(figsize=(6, 3)).subplots()
    shown = axis.pcolormesh(moved.columns.astype(str), moved.index, moved)
    axis.invert_xaxis()
    plt.colorbar(shown)

# %% [markdown]
# **9. The paper's own studies** (Fig. 4; App. B, Fig. 1 and 2), each scaled to [0, 1], over the noise level
# k / K.

# %%
with figures.style():
    axis = plt.figure(figsize=(6, 2.4)).subplots()
    for name in TABLES:
        curve = curve_of(name, runs.table(runs.latest(name, outputs), name))
        axis.plot(curve.noise, curve.mean(), "o-", label=name.replace("_", " "))
    axis.invert_xaxis()
    axis.legend()

# %% [markdown]
# **10. All on one axis,** with the window that each sees; the table holds their ends in log SNR.

# %%
folder = runs.latest("find_phases", outputs)
found = runs.numbers(folder)
with figures.style():
    wide = runs.table(folder, "find_phases").pivot_table(index="log_snr", columns="curve", values="value")
    axis = ((wide - wide.min()) / (wide.max() - wide.min())).interpolate("index").plot(figsize=(7, 3.4))
    axis.axvspan(*paper_window(), color="black", alpha=0.07, lw=0)
print(found["overrides"], "|", found["verdict"])
windows = {name: {w: of[w]["value"] for w in ("from", "to")} for name, of in found["measures"].items()}
pd.DataFrame.from_dict(windows, orient="index")
