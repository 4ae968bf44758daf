"""Algorithms as their authors published them, line by line: what tests compare with, and what benchmarks time.

Nothing here shares code, Hessians or factorisations with the library. Counts are of zeros (`prunen` of `prunem` go), as there.

Sources: github.com/IST-DASLab/sparsegpt (`sparsegpt.py`, `llama.py`; Apache-2.0), github.com/locuslab/wanda
(`lib/layerwrapper.py`, `lib/prune.py`; MIT), github.com/facebookresearch/open_lth (`pruning/sparse_global.py`; MIT),
github.com/google-research/lottery-ticket-hypothesis (`foundations/pruning.py`; Apache-2.0), Minitron's hooks in
github.com/NVIDIA/Model-Optimizer (`plugins/mcore_minitron.py`; Apache-2.0). GPU calls and printing are left out; `times` adds
up the seconds of each part.
"""

import math
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SparseGPT:
    """Prunes one linear layer."""

    def __init__(self, W: Tensor) -> None:
        self.W = W
        self.columns = W.shape[1]
        self.H = torch.zeros((self.columns, self.columns))
        self.nsamples = 0
        self.times: dict[str, float] = defaultdict(float)

    def add_batch(self, inp: Tensor) -> None:
        if len(inp.shape) == 2:
            inp = inp.unsqueeze(0)
        with self._timed("Hessian"):
            tmp = inp.shape[0]
            inp = inp.reshape((-1, inp.shape[-1])).t()
            self.H *= self.nsamples / (self.nsamples + tmp)
            self.nsamples += tmp
            inp = math.sqrt(2 / self.nsamples) * inp.float()
            self.H += inp.matmul(inp.t())

    def fasterprune(
        self, sparsity: float, prunen: int = 0, prunem: int = 0, blocksize: int = 128, percdamp: float = 0.01
    ) -> Tensor:
        W = self.W.clone().float()
        with self._timed("factorisation"):
            H = self.H.clone()
            dead = torch.diag(H) == 0
            H[dead, dead] = 1
            W[:, dead] = 0
            damp = percdamp * torch.mean(torch.diag(H))
            diag = torch.arange(self.columns)
            H[diag, diag] += damp
            H = torch.linalg.cholesky(H)
            H = torch.cholesky_inverse(H)
            H = torch.linalg.cholesky(H, upper=True)
            Hinv = H
        with self._timed("columns"):
            for i1 in range(0, self.columns, blocksize):
                i2 = min(i1 + blocksize, self.columns)
                count = i2 - i1
                W1 = W[:, i1:i2].clone()
                Q1 = torch.zeros_like(W1)
                Err1 = torch.zeros_like(W1)
                Hinv1 = Hinv[i1:i2, i1:i2]
                if prunen == 0:
                    tmp = W1**2 / (torch.diag(Hinv1).reshape((1, -1))) ** 2
                    thresh = torch.sort(tmp.flatten())[0][int(tmp.numel() * sparsity)]
                    mask1 = tmp <= thresh
                else:
                    mask1 = torch.zeros_like(W1) == 1
                for i in range(count):
                    w = W1[:, i]
                    d = Hinv1[i, i]
                    if prunen != 0 and i % prunem == 0:
                        tmp = W1[:, i : (i + prunem)] ** 2 / (torch.diag(Hinv1)[i : (i + prunem)].reshape((1, -1))) ** 2
                        mask1.scatter_(1, i + torch.topk(tmp, prunen, dim=1, largest=False)[1], True)
                    q = w.clone()
                    q[mask1[:, i]] = 0
                    Q1[:, i] = q
                    err1 = (w - q) / d
                    W1[:, i:] -= err1.unsqueeze(1).matmul(Hinv1[i, i:].unsqueeze(0))
                    Err1[:, i] = err1
                W[:, i1:i2] = Q1
                W[:, i2:] -= Err1.matmul(Hinv[i1:i2, i2:])
        return W.to(self.W.dtype)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.times[name] += time.perf_counter() - start


class WrappedGPT:
    """Collects Wanda's statistic of one linear layer."""

    def __init__(self, W: Tensor) -> None:
        self.W = W
        self.columns = W.shape[1]
        self.scaler_row = torch.zeros(self.columns)
        self.nsamples = 0

    def add_batch(self, inp: Tensor) -> None:
        if len(inp.shape) == 2:
            inp = inp.unsqueeze(0)
        tmp = inp.shape[0]
        inp = inp.reshape((-1, inp.shape[-1])).t()
        self.scaler_row *= self.nsamples / (self.nsamples + tmp)
        self.nsamples += tmp
        inp = inp.type(torch.float32)
        self.scaler_row += torch.norm(inp, p=2, dim=1) ** 2 / self.nsamples

    def prune(self, sparsity_ratio: float, prune_n: int = 0, prune_m: int = 0, use_variant: bool = False) -> Tensor:
        W = self.W.clone()
        W_metric = torch.abs(W) * torch.sqrt(self.scaler_row.reshape((1, -1)))
        W_mask = torch.zeros_like(W_metric) == 1
        if prune_n != 0:
            for ii in range(W_metric.shape[1]):
                if ii % prune_m == 0:
                    tmp = W_metric[:, ii : (ii + prune_m)].float()
                    W_mask.scatter_(1, ii + torch.topk(tmp, prune_n, dim=1, largest=False)[1], True)
        else:
            sort_res = torch.sort(W_metric, dim=-1, stable=True)
            if use_variant:
                tmp_metric = torch.cumsum(sort_res[0], dim=1)
                sum_before = W_metric.sum(dim=1)
                alpha = 0.4
                alpha_hist = [0.0, 0.8]
                W_mask, cur_sparsity = return_given_alpha(alpha, sort_res, W_metric, tmp_metric, sum_before)
                while (torch.abs(cur_sparsity - sparsity_ratio) > 0.001) and (alpha_hist[1] - alpha_hist[0] >= 0.001):
                    if cur_sparsity > sparsity_ratio:
                        alpha_new = (alpha + alpha_hist[0]) / 2.0
                        alpha_hist[1] = alpha
                    else:
                        alpha_new = (alpha + alpha_hist[1]) / 2.0
                        alpha_hist[0] = alpha
                    alpha = alpha_new
                    W_mask, cur_sparsity = return_given_alpha(alpha, sort_res, W_metric, tmp_metric, sum_before)
            else:
                indices = sort_res[1][:, : int(W_metric.shape[1] * sparsity_ratio)]
                W_mask.scatter_(1, indices, True)
        W[W_mask] = 0
        return W


def return_given_alpha(alpha, sort_res, W_metric, tmp_metric, sum_before):
    thres_cumsum = sum_before * alpha
    sort_mask = tmp_metric <= thres_cumsum.reshape((-1, 1))
    thres = torch.gather(sort_res[0], dim=1, index=sort_mask.sum(dim=1, keepdims=True) - 1)
    W_mask = W_metric <= thres
    cur_sparsity = (W_mask == True).sum() / (W_mask.numel())  # noqa: E712
    return W_mask, cur_sparsity


@torch.no_grad()
def prune_llama(model: nn.Module, wrapper: type, calibration: Tensor, *arguments, **keywords) -> dict[str, float]:
    """The authors' walk over a Llama model, in place: a statistic for every linear layer, all of a block collected at once.

    Args:
        model: a Llama-like model of transformers.
        wrapper: `SparseGPT` or `WrappedGPT`.
        calibration: token ids (windows, tokens).
        *arguments, **keywords: of the wrapper's pruning method.

    Returns:
        Seconds by part: "forward", "Hessian", "factorisation", "columns"; empty for Wanda but for the first.
    """
    times: dict[str, float] = defaultdict(float)
    layers = model.model.layers
    inps, attention_kwargs = [], {}

    class Catcher(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def __getattr__(self, name: str):
            return super().__getattr__(name) if name == "module" else getattr(super().__getattr__("module"), name)

        def forward(self, inp: Tensor, **kwargs) -> Tensor:
            inps.append(inp)
            attention_kwargs.update(kwargs)
            raise ValueError

    layers[0] = Catcher(layers[0])
    for window in calibration:
        with suppress(ValueError):
            model(window[None], use_cache=False)
    layers[0] = layers[0].module

    for layer in layers:
        subset = {name: module for name, module in layer.named_modules() if isinstance(module, nn.Linear)}
        wrapped = {name: wrapper(module.weight) for name, module in subset.items()}
        spent = 0.0

        def add_batch(name: str):
            def tmp(_, inp: tuple, out: Tensor) -> None:
                nonlocal spent
                start = time.perf_counter()
                wrapped[name].add_batch(inp[0].data)  # noqa: B023
                spent += time.perf_counter() - start

            return tmp

        handles = [module.register_forward_hook(add_batch(name)) for name, module in subset.items()]
        start = time.perf_counter()
        for inp in inps:
            layer(inp, **attention_kwargs)
        times["forward"] += time.perf_counter() - start - spent
        for handle in handles:
            handle.remove()
        for name, module in subset.items():
            method = wrapped[name].fasterprune if wrapper is SparseGPT else wrapped[name].prune
            module.weight.data.copy_(method(*arguments, **keywords))
            for part, seconds in getattr(wrapped[name], "times", {}).items():
                times[part] += seconds
        start = time.perf_counter()
        inps[:] = [out[0] if isinstance(out := layer(inp, **attention_kwargs), tuple) else out for inp in inps]
        times["forward"] += time.perf_counter() - start
    return dict(times)


def open_lth_sparse_global(
    trained: dict[str, np.ndarray], current_mask: dict[str, np.ndarray], fraction: float, ignore: tuple[str, ...] = ()
) -> dict[str, np.ndarray]:
    """The masks of the next level, 1 = kept."""
    number_of_remaining_weights = np.sum([np.sum(v) for v in current_mask.values()])
    number_of_weights_to_prune = np.ceil(fraction * number_of_remaining_weights).astype(int)
    prunable_tensors = set(trained) - set(ignore)
    weights = {k: v for k, v in trained.items() if k in prunable_tensors}
    weight_vector = np.concatenate([v[current_mask[k] == 1] for k, v in weights.items()])
    threshold = np.sort(np.abs(weight_vector))[number_of_weights_to_prune]
    new_mask = {k: np.where(np.abs(v) > threshold, current_mask[k], np.zeros_like(v)) for k, v in weights.items()}
    for k in current_mask:
        if k not in new_mask:
            new_mask[k] = current_mask[k]
    return new_mask


def google_prune_by_percent(
    percents: dict[str, float], masks: dict[str, np.ndarray], final_weights: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The masks of the next level, 1 = kept."""

    def prune_by_percent_once(percent, mask, final_weight):
        sorted_weights = np.sort(np.abs(final_weight[mask == 1]))
        cutoff_index = np.round(percent * sorted_weights.size).astype(int)
        cutoff = sorted_weights[cutoff_index]
        return np.where(np.abs(final_weight) <= cutoff, np.zeros(mask.shape), mask)

    return {k: prune_by_percent_once(percents[k], masks[k], final_weights[k]) for k in masks}


class MinitronHooks:
    """Scores of one block; activations are (sequence, batch, hidden), sequence first."""

    def __init__(self) -> None:
        self.activations: dict[str, Tensor] = {}
        self.score = torch.tensor(0.0)

    def activation_hook(self, name: str, activations: Tensor) -> None:
        """Of the input of linear_fc2 (neurons), of linear_proj (heads), or the output of a layernorm (hidden channels)."""
        activations = activations.to(torch.float32)
        activations = activations.abs().mean(dim=0)
        activations = activations.pow(2).sum(dim=0)
        self.activations[name] = self.activations.get(name, 0) + activations

    def neurons(self, name: str) -> Tensor:
        """Scores of neurons or channels."""
        return self.activations[name].pow(0.5)

    def heads(self, name: str, num_heads: int, head_dim: int) -> Tensor:
        """Scores of heads."""
        return torch.linalg.vector_norm(self.neurons(name).view(num_heads, head_dim), ord=2, dim=1)

    def layer_hook(self, hidden_in: Tensor, hidden_out: Tensor) -> None:
        """Of a whole block."""
        self.score = self.score + 1 - F.cosine_similarity(hidden_in, hidden_out, dim=2).mean()
