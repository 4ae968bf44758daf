# %% [markdown]
# A typical mistake: masks the gradient only, and never looks at the zeros again.

# %% exercise="magnitude.masked_step"
def masked_step_(model, masks, optimizer, x, y):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    for name, mask in masks.items():
        model.get_submodule(name).weight.grad *= mask
    optimizer.step()
    return loss.item()


# %% exercise="magnitude.iterative"
def iterative_prune_(model, sparsities, retrain):
    for sparsity in sparsities:
        masks = {}
        for name, layer in model.named_modules():
            if isinstance(layer, nn.Linear):
                pruned = magnitude_prune(layer.weight.detach(), sparsity)
                layer.weight.data.copy_(pruned)
                masks[name] = pruned != 0
        retrain(model, masks)
    return masks
