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
# # Reading a run
#
# What one `python run.py` leaves on disk: the image, the plan, the numbers, and a row for every step. Nothing
# is computed
# here that the run folder does not hold.

# %%
import pandas as pd
from matplotlib import pyplot as plt
from PIL import Image

from sow.report import figures
from sow.runs import reading as runs

# %% tags=["parameters"]
outputs = "outputs"

# %%
folder = runs.latest("generate", outputs)
manifest = runs.numbers(folder, "manifest")
print(folder)
print("overrides:", *manifest["overrides"])
pd.Series(manifest["seconds"], name="seconds")

# %% [markdown]
# The plan on its canvas, and the image. White: where the condition goes; the related region belongs to it
# (Sec. IV-A).

# %%
figure, axes = plt.subplots(1, 2, figsize=(6, 3))
for axis, name in zip(axes, ("canvas", "image")):
    axis.imshow(Image.open(folder / f"{name}.png"))
    axis.set_title(name)
    axis.axis("off")
print(runs.numbers(folder, "plan")["prompt"])

# %% [markdown]
# The image predicted at the end of each cycle.

# %%
Image.open(folder / "cycles.png").reduce(2)

# %% [markdown]
# The numbers of the image.

# %%
pd.Series(runs.numbers(folder, "metrics"), name="value")

# %% [markdown]
# Every step: `start`, `inject`, `replace` and `denoise` events with the norm of the latents.

# %%
trace = runs.table(folder, "trace")
trace.groupby(["phase", "event"], sort=False).size().unstack(fill_value=0)

# %%
inside = trace[trace.phase.isin(["cycle", "preserve"])].reset_index(drop=True)
with figures.style():
    figure, axis = plt.subplots(figsize=(6, 2.2))
    for event, part in inside.groupby("event"):
        axis.plot(part.index, part.norm, ".", label=event)
    axis.set(xlabel="event of the run", ylabel="norm of the latents")
    axis.legend()

# %% [markdown]
# R_c (Eq. 7) of every layer in the cycles. A gate opens where R_c exceeds tau; uniform attention reads about
# one fifth.

# %%
tau = manifest["config"]["gate"]["tau"]
steps = (
    trace[(trace.phase == "cycle") & (trace.event == "denoise")].filter(like="r_c/").reset_index(drop=True)
)
with figures.style():
    figure, axis = plt.subplots(figsize=(6, 2.4))
    axis.plot(steps, lw=0.8)
    axis.axhline(tau, color="black", ls="--", label=f"tau = {tau:g}")
    axis.axhline(0.2, color="gray", ls=":", label="uniform, 1/5")
    axis.set(xlabel="denoising step in the cycles", ylabel="R_c of a layer")
    axis.legend()
