"""Adaptive mixtures of local experts, 1991: the first mixture, and why its experts specialise.

Experts o_i and a gate p = softmax(.) read the same input; the target is d. What is minimised decides what experts become:

    cooperating    |d - sum_i p_i o_i|^2                        eq. 1.1: each expert makes up for the errors of all others
    expected       sum_i p_i |d - o_i|^2                        eq. 1.2: each expert is to give the whole answer
    competing      -log sum_i p_i exp(-|d - o_i|^2 / 2)         eq. 1.3: the same, and the one that is best already learns most

    gradient of the competing objective by o_i:  -h_i (d - o_i),   h_i = p_i exp(-|d - o_i|^2 / 2) / sum_j p_j exp(...)

h_i, the responsibility of expert i after the target was seen, is what routers of today no longer compute.

Jacobs, Jordan, Nowlan and Hinton 1991, "Adaptive mixtures of local experts".
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def cooperating(outputs: Tensor, gate_logits: Tensor, target: Tensor) -> Tensor:
    """The error of the mixture's mean answer.

    Args:
        outputs: (samples, E, out) of all experts.
        gate_logits: (samples, E).
        target: (samples, out).

    Returns:
        (samples,).

    Source: Jacobs et al. 1991, eq. 1.1.
    """
    return (target - mean_answer(outputs, gate_logits)).square().sum(dim=-1)


def expected(outputs: Tensor, gate_logits: Tensor, target: Tensor) -> Tensor:
    """The expected error, if the gate draws one expert; arguments as in `cooperating`.

    Returns:
        (samples,).

    Source: Jacobs et al. 1991, eq. 1.2.
    """
    return (gate_logits.softmax(dim=-1) * _errors(outputs, gate_logits, target)).sum(dim=-1)


def competing(outputs: Tensor, gate_logits: Tensor, target: Tensor) -> Tensor:
    """The negative log-likelihood of the target under a mixture of Gaussians of unit variance, but for a constant.

    Arguments as in `cooperating`.

    Returns:
        (samples,).

    Source: Jacobs et al. 1991, eq. 1.3.
    """
    return -_joint(outputs, gate_logits, target).logsumexp(dim=-1)


def responsibilities(outputs: Tensor, gate_logits: Tensor, target: Tensor) -> Tensor:
    """How likely it is that each expert made the target: the gate's probability before, corrected by the error after.

    Arguments as in `cooperating`.

    Returns:
        (samples, E), sums to 1.
    """
    return _joint(outputs, gate_logits, target).softmax(dim=-1)


def mean_answer(outputs: Tensor, gate_logits: Tensor) -> Tensor:
    """The mixture's answer: sum_i p_i o_i, (samples, out)."""
    return torch.einsum("se,seo->so", gate_logits.softmax(dim=-1), outputs)


def _errors(outputs: Tensor, gate_logits: Tensor, target: Tensor) -> Tensor:
    if outputs.shape[:2] != gate_logits.shape or target.shape != outputs.shape[::2]:
        given = f"{tuple(outputs.shape)}, {tuple(gate_logits.shape)} and {tuple(target.shape)}"
        raise ValueError(f"outputs must be (samples, E, out), gate_logits (samples, E), target (samples, out), got {given}")
    return (target[:, None] - outputs).square().sum(dim=-1)  # (samples, E)


def _joint(outputs: Tensor, gate_logits: Tensor, target: Tensor) -> Tensor:
    """log p_i - |d - o_i|^2 / 2, (samples, E)."""
    return gate_logits.log_softmax(dim=-1) - _errors(outputs, gate_logits, target) / 2


class AdaptiveMixture(nn.Module):
    """Experts and a linear gate that read the same input.

    Args:
        inputs: width of the input.
        n_experts: E.
        make_expert: makes one expert, a module from (samples, inputs) to (samples, out): for the vowels of the paper a linear
            layer.
    """

    def __init__(self, inputs: int, n_experts: int, make_expert: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.experts = nn.ModuleList(make_expert() for _ in range(n_experts))
        self.gate = nn.Linear(inputs, n_experts)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Ask all experts.

        Args:
            x: (samples, inputs).

        Returns:
            Outputs (samples, E, out) and gate logits (samples, E), as the objectives take them.
        """
        return torch.stack([expert(x) for expert in self.experts], dim=1), self.gate(x)
