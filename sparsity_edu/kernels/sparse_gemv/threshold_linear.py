"""Linear layers of a model that skip small inputs, as TEAL does: layers with the same input share one product."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sparsity_edu.kernels.sparse_gemv import cpu
from sparsity_edu.kernels.sparse_gemv.products import FEW_TOKENS, gemv_threshold
from sparsity_edu.models.layers import prunable_layers

PREFILL = ("all", "last_half", "none")  # which tokens of several at once skip small inputs


def dense_tokens(tokens: int, prefill: str) -> int:
    """How many of a sequence's tokens, from its beginning, keep all their inputs.

    Args:
        tokens: of the sequence that are read at once.
        prefill: whose small inputs are skipped in a prompt: "all" tokens'; those of the "last_half", tokens // 2 (TEAL's code);
            or "none". A token that is read by itself is being decoded, and always skips.

    Returns:
        0 to tokens.

    Raises:
        ValueError: `prefill` is none of the three.
    """
    if prefill not in PREFILL:
        raise ValueError(f"prefill must be one of {', '.join(PREFILL)}, got {prefill!r}")
    if tokens < 2 or prefill == "all":
        return 0
    return tokens if prefill == "none" else tokens - tokens // 2


class ThresholdLinear(nn.Module):
    """A linear layer that takes inputs with |x| <= threshold for zeros, and does not read their weights in decoding.

    Args:
        product: the weights of this layer and of those that share its input.
        place: which of them is this layer's.
        bias: (N,) or None.
    """

    def __init__(self, product: "SharedProduct", place: int, bias: Tensor | None) -> None:
        super().__init__()
        self.product, self.place = product, place
        self.register_buffer("bias", None if bias is None else bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) to (..., N)."""
        y = self.product.result(x, self.place)
        return y if self.bias is None else y + self.bias

    @property
    def threshold(self) -> float:
        """What inputs must exceed."""
        return self.product.threshold

    def dense(self) -> nn.Linear:
        """The linear layer that this one stands for."""
        W = self.product.W.split(self.product.sizes, dim=1)[self.place]
        layer = nn.utils.skip_init(nn.Linear, *W.shape, self.bias is not None, device=W.device, dtype=W.dtype)
        with torch.no_grad():
            layer.weight.copy_(W.T)
            if self.bias is not None:
                layer.bias.copy_(self.bias)
        return layer

    def extra_repr(self) -> str:
        """What `print(model)` says of it."""
        K, N = len(self.product.W), self.product.sizes[self.place]
        return f"in_features={K}, out_features={N}, bias={self.bias is not None}, threshold={self.threshold:.3g}"


class SharedProduct(nn.Module):
    """The product of one input with the weights of several layers, worked out when the first of them is called.

    Q, K and V of a block have the same input, as have gate and up. Finding what to skip once for all of them, and launching
    once, is a good part of what a small layer costs.

    Args:
        layers: linear layers with the same input. Their weights are copied, transposed, side by side.
        threshold: as for `gemv_threshold`.
        prefill: see `dense_tokens`.
    """

    def __init__(self, layers: Sequence[nn.Linear], threshold: float, prefill: str = "all") -> None:
        super().__init__()
        dense_tokens(1, prefill)  # says now what is wrong
        self.prefill = prefill
        self.register_buffer("W", torch.cat([layer.weight.detach().T for layer in layers], dim=1).contiguous())
        self.sizes, self.threshold = [layer.out_features for layer in layers], float(threshold)
        self._x, self._version, self._results = None, None, {}

    def result(self, x: Tensor, place: int) -> Tensor:
        """(..., K) to the (..., N) of one layer. What the others will ask for waits for them; a second question starts anew."""
        if len(self.sizes) == 1:
            return self._product(x)
        version = None if x.is_inference() else x._version  # counts changes in place; inference tensors keep no count
        if x is not self._x or version != self._version or place not in self._results:
            self._x, self._version = x, version
            self._results = dict(enumerate(self._product(x).split(self.sizes, dim=-1)))
        result = self._results.pop(place)
        if not self._results:
            self._x = None
        return result

    def _product(self, x: Tensor) -> Tensor:
        """On a CPU never in Triton's interpreter, where a model would take minutes for a word."""
        W, threshold = self.W, self.threshold
        if self.prefill != "all" and x.ndim > 1 and x.shape[-2] > 1:
            first = dense_tokens(x.shape[-2], self.prefill)
            last = x[..., first:, :]
            return torch.cat([x[..., :first, :], torch.where(last.abs().float() > threshold, last, 0)], dim=-2) @ W
        if x.numel() > FEW_TOKENS * len(W):
            return torch.where(x.abs().float() > threshold, x, 0) @ W
        if x.is_cuda:
            return gemv_threshold(W, x.contiguous(), threshold)
        return cpu.threshold(W, x, (threshold,), W.shape[1:])


SHARED_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # as Llama, Mistral, Qwen and Gemma name them


def threshold_linear_(model: nn.Module, thresholds: dict[str, float] | float, prefill: str = "all") -> None:
    """Let the linear layers of a model's blocks skip small inputs, in place.

    Args:
        model: a Hugging Face decoder, or any module.
        thresholds: by layer name, or one for all linear layers that pruning would touch. Q, K and V, or gate and up, become
            one product where theirs are equal.
        prefill: which tokens of a prompt skip small inputs, see `dense_tokens`.

    Raises:
        ValueError: a name is that of no linear layer, or `prefill` is unknown.
    """
    dense_tokens(1, prefill)
    layers = {name: layer for name, layer in prunable_layers(model).items() if isinstance(layer, nn.Linear)}
    if not isinstance(thresholds, dict):
        thresholds = dict.fromkeys(layers, thresholds)
    if unknown := [name for name in thresholds if name not in layers]:
        raise ValueError(f"thresholds must name linear layers of the model's blocks, got {unknown[0]!r}")
    together: dict[tuple, list[str]] = {}
    for name, threshold in thresholds.items():
        parent, _, own = name.rpartition(".")
        siblings = next((names for names in SHARED_INPUT if own in names), own)
        together.setdefault((parent, siblings, threshold), []).append(name)
    for (_, _, threshold), names in together.items():
        product = SharedProduct([layers[name] for name in names], threshold, prefill)
        for place, name in enumerate(names):
            model.set_submodule(name, ThresholdLinear(product, place, layers[name].bias))


def unthreshold_linear_(model: nn.Module) -> None:
    """Undo `threshold_linear_`, in place."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, ThresholdLinear):
            model.set_submodule(name, layer.dense())
