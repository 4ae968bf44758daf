# %% [markdown]
# # 18 · Key norms
#
# **After this unit you can** say from a key alone whether attention will want its token.
#
# **Builds on** [10 H2O](../10_h2o/h2o.ipynb) (caches that forget, and what attention looks at).
#
# ## The question
#
# H2O (unit 10) has to see attention before it can forget, and fast attention does not show it. Devoto et al. (2024) found a sign that is
# there before: tokens that get much attention have *short* keys. So keep those, and look at nothing else.

# %%
import matplotlib.pyplot as plt
import torch

from autograder import check
from sparsity_edu import plots

plots.style()

# %% [markdown]
# ## Who stays


# %% exercise="key_norm.keep"
def keep(keys: torch.Tensor, budget: int) -> torch.Tensor:
    """The tokens that stay, by the norm of their keys.

    Args:
        keys: (batch, heads, tokens, head_dim) float32; must not be changed.
        budget: how many tokens of each head stay at most.

    Returns:
        int64 (batch, heads, kept), ascending: the tokens with the smallest l2 norm. (Equal norms
        never decide in the checks.)

    Raises:
        ValueError: budget is less than 1.
    """
    ### BEGIN SOLUTION
    if budget < 1:
        raise ValueError(f"budget must be at least 1, got {budget}")
    shortest = keys.norm(dim=-1).argsort(dim=-1)[..., :budget]
    return shortest.sort(dim=-1).values
    ### END SOLUTION


# %% [markdown]
# ## Experiment: is it so?
#
# How much of all attention goes to the half of the tokens that your function keeps, layer by layer, on the tiny model.

# %% tags=["experiment"]
from sparsity_edu.data import python_docs
from sparsity_edu.kv_cache import statistics
from sparsity_edu.models import load, tokens

model, tokenizer = load("tiny")
ids = tokens(tokenizer, python_docs("validation"), 128)[None]
with torch.no_grad():
    layers = model(input_ids=ids, use_cache=True).past_key_values.layers
scores = statistics.measure(model, ids, progress=False).scores  # (layers, heads, tokens)
shares = []
for layer, attention in zip(layers, scores):
    kept = keep(layer.keys, 64)[0]  # (kv_heads, 64)
    by_head = attention.unflatten(0, (len(kept), -1)).sum(dim=1)  # (kv_heads, tokens)
    shares.append((by_head.gather(1, kept).sum() / by_head.sum()).item())
print("share of attention on the shorter half of the keys, by layer:")
print("  ".join(f"{share:.0%}" for share in shares))
fig, ax = plt.subplots(figsize=(6, 2.6))
ax.bar(range(1, len(shares) + 1), shares, color=plots.BLUE)
ax.axhline(0.5, color=plots.GREY, lw=1)
ax.set(title="Attention on the shorter half", xlabel="layer", ylabel="share")
plt.show()
