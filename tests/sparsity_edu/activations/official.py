"""The authors' code of TEAL and of Deja Vu, as far as it can be compared with: written after what it does, not with ours.

Sources: github.com/FasterDecoding/TEAL (utils/utils.py, teal/greedyopt.py; MIT), github.com/FMInference/DejaVu
(sparse_predictor/; MIT). GPU calls and printing are left out.
"""

import torch


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
