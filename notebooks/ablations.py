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
# # Ablations
#
# A table of the paper, read from the newest `python run.py experiment=table2` (or 3, or any
# `study=benchmark`): means with
# intervals over groups, and differences paired by group.

# %%
from matplotlib import pyplot as plt
from PIL import Image

from sow.report import figures
from sow.report.tables import from_folder
from sow.report.writers import markdown
from sow.runs import reading as runs

# %% tags=["parameters"]
outputs = "outputs"

# %%
folder = runs.latest("benchmark", outputs)
table = from_folder(folder)
print(markdown(table))

# %% [markdown]
# The images behind it: the same groups in every row.

# %%
records = runs.table(folder, "records")
groups = records.group.drop_duplicates().head(4)
rows = list(records.row.drop_duplicates())
figure, axes = plt.subplots(
    len(rows), len(groups), figsize=(1.3 * len(groups), 1.4 * len(rows)), squeeze=False
)
for line, row in zip(axes, rows):
    line[0].set_ylabel(row, fontsize=7)
    for axis, group in zip(line, groups):
        axis.imshow(Image.open(next((folder / "images" / row).glob(f"{group}-*.png"))))
        axis.set(xticks=[], yticks=[])

# %% [markdown]
# Every number by row and setting.

# %%
metrics = [c for c in records.select_dtypes(["number", "bool"]).columns if c != "seed"]
records.groupby(["row", "setting"], sort=False)[metrics].mean().round(3)

# %% [markdown]
# One metric, group by group, against the first row: points below the line are groups where a row is lower.

# %%
metric = table.columns[0].metric if table.columns[0].metric in metrics else metrics[0]
wide = records.astype({metric: float}).pivot_table(index="group", columns="row", values=metric)
with figures.style():
    figure, axis = plt.subplots(figsize=(3.2, 3))
    for color, row in zip(figures.CYCLE, rows[1:]):
        axis.plot(wide[rows[0]], wide[row], ".", color=color, label=row)
    axis.axline((wide[rows[0]].mean(),) * 2, slope=1, color="gray", lw=0.6)
    axis.set(xlabel=f"{metric}, {rows[0]}", ylabel=f"{metric}, other rows")
    axis.legend()
