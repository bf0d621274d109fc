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
# # First steps
#
# One image by Selective One-Way Diffusion on the embedded model, and what its steps show. Every cell takes
# seconds on a CPU.

# %%
import pandas as pd
from matplotlib import pyplot as plt

from sow import build, compose
from sow.planner.drawing import draw_plan
from sow.types import Request

# %% tags=["parameters"]
model = "people"

# %%
config = compose([f"model={model}", "seed=3", "prompt=a person on a beach"])
sampler = build(config)
request = Request(config.condition.load(3), config.prompt, seed=3)

# %% [markdown]
# The plan: where the condition goes, the region that belongs to it, and the intensified prompt c'.

# %%
(plan,) = sampler.plan([request])
print(plan.prompt)
draw_plan(request, plan, sampler.canvas)

# %% [markdown]
# The whole run; `snapshots` are the images predicted at the end of each cycle.

# %%
(sample,) = sampler.generate([request], plans=[plan], snapshots=True)
figure, axes = plt.subplots(1, len(sample.snapshots) + 1, figsize=(14, 1.8))
for axis, image, title in zip(
    axes, [*sample.snapshots, sample.image], [*range(len(sample.snapshots)), "final"]
):
    axis.imshow(image)
    axis.set_title(title, fontsize=8)
    axis.axis("off")

# %% [markdown]
# R_c (Eq. 7) of every layer over the cycles. A gate opens where R_c exceeds tau; uniform attention reads
# about 0.2.

# %%
trace = pd.DataFrame(sample.trace)
cycles = trace[(trace.phase == "cycle") & (trace.event == "denoise")]
for name in [c for c in trace if c.startswith("r_c/")]:
    plt.plot(range(len(cycles)), cycles[name], lw=0.8)
plt.axhline(config.gate.tau, color="black", ls="--", label="tau")
plt.xlabel("denoising step in the cycles")
plt.ylabel("R_c of a layer")
plt.legend()

# %% [markdown]
# The same run one step at a time: norms of the latents by event.

# %%
steps = list(sampler.steps(request, plan=plan))
inside = [s for s in steps if s.context.phase in ("cycle", "preserve")]
plt.plot([s.latents.norm().item() for s in inside], lw=0.8)
plt.xlabel("event")
plt.ylabel("norm of the latents")
print(len(steps), "events,", sampler.denoising_steps(), "UNet calls")
