# %% [markdown]
# A first look at data and model. The `# %%` cells run in VS Code, PyCharm and Jupyter (through jupytext);
# `uv run python notebooks/explore.py` runs them all. Run `make pipeline` first.

# %%
import pandas as pd

train = pd.read_parquet("data/splits/train.parquet")
print(train.describe().T.to_string())

# %% Reasons of the rejected rows
print(pd.read_parquet("data/rejected.parquet")["reasons"].value_counts().to_string())

# %% Metrics of the model and of the baseline
evaluation = pd.read_json("reports/evaluation.json", typ="series")
print(pd.DataFrame({name: evaluation[name] for name in ("metrics", "baseline")}).to_string())
