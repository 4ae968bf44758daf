# %% [markdown]
# A typical mistake: ranks the weights themselves, so that the most negative ones go first.

# %% exercise="magnitude.prune"
def magnitude_prune(W, sparsity):
    if not 0 <= sparsity < 1:
        raise ValueError("sparsity must be in [0, 1)")
    out = W.clone().flatten()
    out[W.flatten().argsort()[: int(sparsity * W.numel())]] = 0
    return out.view(W.shape)
