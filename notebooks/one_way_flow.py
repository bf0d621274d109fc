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
# # One-way flow
#
# Is one-way diffusion one-way? Read from `python run.py study=information_flow`, which makes the same images
# by plain
# sampling, COW and SOW, watches their attention and perturbs one region at a time; and from
# `study=gate_landscape`.

# %%
import pandas as pd
from matplotlib import pyplot as plt

from sow.dynamics.summary import energies, ratios
from sow.report import figures
from sow.runs import reading as runs

# %% tags=["parameters"]
outputs = "outputs"

# %%
folder = runs.latest("information_flow", outputs)
pd.DataFrame(runs.numbers(folder))

# %% [markdown]
# **Cause.** The latents of one region are perturbed before one denoising step; the norm of what changes in
# x_0 outside the
# perturbed region. Solid: condition perturbed, others change. Dashed: others perturbed, the condition
# changes. In two-way
# sampling the curves lie together; one-way diffusion pulls the dashed one down.

# %%
responses = runs.table(folder, "responses")
with figures.style():
    figure, axis = plt.subplots(figsize=(6, 2.8))
    for color, (method, part) in zip(figures.CYCLE, responses.groupby("method", sort=False)):
        mean = energies(part).groupby("step")[["out_norm", "back_norm"]].mean()
        axis.plot(mean.index, mean.out_norm, "o-", color=color, label=method)
        axis.plot(mean.index, mean.back_norm, "o--", color=color)
    axis.set(xlabel="perturbed denoising step", ylabel="change of x₀ per unit", yscale="log")
    axis.legend()

# %% [markdown]
# **Attention.** Mass from queries in X to keys in Y over what uniform attention would give: the two flows
# that P- (c → nc)
# and P+ (cr → c) act on.

# %%
attention = runs.table(folder, "attention")
with figures.style():
    figure, axes = plt.subplots(1, 2, figsize=(7, 2.4), sharey=True)
    for color, (method, part) in zip(figures.CYCLE, attention.groupby("method", sort=False)):
        flows = ratios(part)
        for axis, name in zip(axes, ("c_to_nc", "cr_to_c")):
            mean = flows[name].groupby("step").ratio.mean()
            axis.plot(mean.index, mean, color=color, label=method)
            axis.set(title=name.replace("_to_", " → "), xlabel="denoising step")
    axes[0].set_ylabel("mass (1 = uniform)")
    axes[1].legend()

# %% [markdown]
# **Layers.** The same flow in every layer, for the last method of the run.

# %%
last = attention[attention.method == attention.method.iloc[-1]]
ratios(last)["cr_to_c"].groupby(["layer", "tokens"], sort=False).ratio.describe()[["mean", "min", "max"]]

# %% [markdown]
# **Gates.** R_c against tau for each reading of Eq. 7 (A13): does a reading straddle the threshold, or do its
# gates never
# open?

# %%
gates = runs.latest("gate_landscape", outputs)
pd.DataFrame(runs.numbers(gates)["readings"]).T[["mean", "uniform", "above_tau", "open_gates", "half_open"]]

# %%
table = runs.table(gates, "gate_landscape")
with figures.style():
    figure, axis = plt.subplots(figsize=(6, 2.6))
    for color, (name, part) in zip(figures.CYCLE, table.groupby("reading", sort=False)):
        axis.hist(part.r_c, bins=40, histtype="step", density=True, color=color, label=name)
    axis.axvline(runs.numbers(gates)["tau"], color="black", ls="--", label="tau")
    axis.set(xlabel="R_c of a layer and step", ylabel="density")
    axis.legend(fontsize=6)
