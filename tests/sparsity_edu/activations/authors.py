"""The authors' code of TEAL and of Deja Vu, as far as it can be compared with: written after what it does, not with ours.

Sources: github.com/FasterDecoding/TEAL (utils/utils.py, teal/greedyopt.py; MIT), github.com/FMInference/DejaVu
(sparse_predictor/; MIT). GPU calls and printing are left out.
"""

import torch
import torch.nn.functional as F


class TealDistribution:
    """`find_histogram` and `Distribution`."""

    def __init__(self, activations, num_bins=10000, outlier_threshold=0.01):
        acts = torch.sort(activations.flatten().float())[0]
        lower = acts[int(outlier_threshold * len(acts))]
        upper = acts[-int(outlier_threshold * len(acts))]
        bins = torch.cat((acts[:1], torch.linspace(lower.item(), upper.item(), num_bins - 1), acts[-1:]))
        self.counts, bins = torch.histogram(acts, bins)
        self.bin_centers = (bins[:-1] + bins[1:]) / 2
        self.total_count = self.counts.sum()
        self.cumulative_counts = torch.cumsum(self.counts, dim=0)

    def icdf(self, q):
        target_count = q * self.total_count
        idx = torch.searchsorted(self.cumulative_counts, target_count)
        if idx == 0:
            return self.bin_centers[0]
        if idx == len(self.bin_centers):
            return self.bin_centers[-1]
        lower_count, upper_count = self.cumulative_counts[idx - 1], self.cumulative_counts[idx]
        lower_value, upper_value = self.bin_centers[idx - 1], self.bin_centers[idx]
        fraction = (target_count - lower_count) / (upper_count - lower_count)
        return lower_value + fraction * (upper_value - lower_value)

    def threshold(self, sparsity):
        return float(self.icdf(0.5 + sparsity / 2)) if sparsity != 0.0 else 0.0


def teal_sparsify(x, threshold):
    """`SparsifyFn.forward`, x (batch, tokens, channels)."""

    def apply(x):
        return x.abs().gt(threshold) * x

    if x.size(1) > 1:
        half = x.size(1) // 2
        return torch.cat((x[:, :-half, :], apply(x[:, -half:, :])), dim=1)
    return apply(x)


def teal_greedy(output, dense, distributions, weights, base_step_size, target_sparsity, last_fraction=0.25):
    """`greedyopt.py` for one block: `output` of thresholds by projection. Returns rows (effective, error, levels)."""

    def calculate_error(new):
        tokens = int(dense.shape[1] * last_fraction)
        return torch.norm(dense[:, -tokens:] - new[:, -tokens:], dim=1).mean()

    projs = list(weights)
    sparsities = {proj: 0.0 for proj in projs}
    total = sum(weights.values())
    rows, effective = [], 0.0
    while effective < target_sparsity:
        best_error, best_proj = float("inf"), None
        for proj in projs:
            if sparsities[proj] >= 1:
                continue
            trial = dict(sparsities)
            trial[proj] += base_step_size / weights[proj]
            error = calculate_error(output({p: distributions[p].threshold(s) for p, s in trial.items()}))
            if error < best_error:
                best_error, best_proj = error, proj
        sparsities[best_proj] += base_step_size / weights[best_proj]
        effective = sum(sparsities[p] * weights[p] for p in projs) / total
        rows.append((effective, float(best_error), dict(sparsities)))
    return rows


def dejavu_head_labels(attn_output, num_heads, k):
    """The heads of each token by the norm of their output: attn_output (tokens, heads * head_dim)."""
    labels = torch.zeros(len(attn_output), num_heads)
    for t, row in enumerate(attn_output):
        norms = [part.norm().item() for part in row.chunk(num_heads)]
        for head in sorted(range(num_heads), key=lambda h: -norms[h])[: int(num_heads * k)]:
            labels[t, head] = 1
    return labels


def dejavu_train(model, batches, valid, lr, extra, epochs):
    """`trainer_mlp.py` (extra 0.005) and `trainer_att.py` (0): every epoch on the same batches, in their order."""

    def evaluate():
        x, y = valid
        y = y.float()
        probs = model(x).sigmoid()
        preds = probs >= 0.5
        dif = y.int() - preds.int()
        miss = dif > 0.0  # classifier didn't activate a target neuron
        weight = (y.sum() / y.numel()) + extra
        loss_weight = y * (1 - weight) + weight
        return {
            "Loss": F.binary_cross_entropy(probs, y, weight=loss_weight).item(),
            "Recall": ((y.sum(dim=1) - miss.sum(dim=1)).mean() / y.sum(dim=1).mean()).item(),
            "Classifier Sparsity": preds.sum(dim=1).float().mean().item(),
            "True Sparsity": y.sum(dim=1).mean().item(),
        }

    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    with torch.no_grad():
        results = [evaluate()]
    for _ in range(epochs):
        for x, y in batches:
            optimizer.zero_grad()
            y = y.float()
            probs = model(x).sigmoid()
            weight = (y.sum() / y.numel()) + extra
            loss_weight = y * (1 - weight) + weight
            F.binary_cross_entropy(probs, y, weight=loss_weight).backward()
            optimizer.step()
        with torch.no_grad():
            results.append(evaluate())
    return results
