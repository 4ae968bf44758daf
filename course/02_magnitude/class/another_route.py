# %% [markdown]
# Right by other routes: thresholds instead of sorting, loops instead of torch.cat, numpy, gradients masked as well.

# %% exercise="magnitude.sparsity"
def weight_sparsity(model):
    flat = torch.cat([m.weight.flatten() for m in model.modules() if isinstance(m, nn.Linear)])
    return 1 - flat.count_nonzero() / len(flat)


# %% exercise="magnitude.prune"
def magnitude_prune(W, sparsity):
    if sparsity < 0 or not sparsity < 1:
        raise ValueError("no such sparsity")
    k = int(sparsity * W.numel())
    if k == 0:
        return W.clone()
    threshold = W.abs().flatten().kthvalue(k).values
    return torch.where(W.abs() > threshold, W, torch.zeros_like(W))


# %% exercise="magnitude.global"
def global_masks(weights, sparsity):
    import numpy as np

    everything = np.sort(np.concatenate([W.double().abs().numpy().ravel() for W in weights.values()]))
    threshold = everything[int(sparsity * len(everything))]
    masks = {}
    for name in weights:
        masks[name] = weights[name].abs() >= float(threshold)
    return masks


# %% exercise="magnitude.masked_step"
def masked_step_(model, masks, optimizer, x, y):
    for p in model.parameters():
        p.grad = None
    loss = nn.CrossEntropyLoss()(model(x), y)
    loss.backward()
    for name, layer in model.named_modules():
        if name in masks:
            layer.weight.grad *= masks[name]
    optimizer.step()
    for name, layer in model.named_modules():
        if name in masks:
            layer.weight.data *= masks[name]
    return loss


# %% exercise="magnitude.schedule"
def cubic_sparsity(step, start, end, final, initial=0.0):
    if step < start:
        return initial
    if step > end:
        return final
    left = (end - step) / (end - start)
    return final - (final - initial) * left**3


# %% exercise="magnitude.iterative"
def iterative_prune_(model, sparsities, retrain):
    linears = dict((n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear))
    for s in sparsities:
        masks = {}
        for n, m in linears.items():
            order = m.weight.detach().abs().flatten().argsort(stable=True)
            gone = order[: int(s * len(order))]
            masks[n] = torch.ones(len(order), dtype=torch.bool).index_fill(0, gone, False).view(m.weight.shape)
            m.weight.data[~masks[n]] = 0
        retrain(model, masks)
        for n, m in linears.items():
            m.weight.data[~masks[n]] = 0
    return masks
