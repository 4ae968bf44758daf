# %% [markdown]
# Crashes half way: a cell that does not compile, one that ends the program, and nothing after that.

# %% exercise="magnitude.global"
def global_masks(weights, sparsity):
    magnitudes = torch.cat([W.abs().flatten() for W in weights.values()]
    threshold = magnitudes.kthvalue(int(sparsity * len(magnitudes))).values
    return {name: W.abs() > threshold for name, W in weights.items()}


# %% exercise="magnitude.masked_step"
def masked_step_(model, masks, optimizer, x, y):
    import sys

    sys.exit("out of time")


# %% exercise="magnitude.schedule"
def cubic_sparsity(step, start, end, final, initial=0.0):
    # YOUR CODE HERE
    raise NotImplementedError()


# %% exercise="magnitude.iterative"
def iterative_prune_(model, sparsities, retrain):
    # YOUR CODE HERE
    raise NotImplementedError()
