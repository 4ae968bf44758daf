"""Running a block again and again with other thresholds, where only the last tokens' outputs are looked at.

What a search needs of a block is exact, and less than the block: its MLP and its output projection read each token by itself,
so they run on the tokens that are compared only; and attention is not worked out again while none of its thresholds changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager

from torch import Tensor, nn
from torch.nn import functional as F

from sparsity_edu.activations.dense import replaced_forward
from sparsity_edu.kernels.sparse_gemv import dense_tokens


class Trials:
    """A block, and the outputs of its last tokens for any thresholds. Of one in Llama's layout only what they need is run.

    Args:
        block: the block.
        layers: its linear layers by name.
        run: runs it on hidden states (1, tokens, hidden).
        hidden: the hidden states that reach it, for each window.
        last: the share of tokens whose outputs are wanted, from the end.
        prefill: which tokens' inputs are zeroed, see `teal.sparsify`.
    """

    def __init__(
        self,
        block: nn.Module,
        layers: Mapping[str, nn.Linear],
        run: Callable[[Tensor], Tensor],
        hidden: list[Tensor],
        last: float,
        prefill: str,
    ) -> None:
        self.block, self.layers, self.run, self.hidden = block, dict(layers), run, hidden
        self.last, self.prefill = last, prefill
        attention = getattr(block, "self_attn", nn.Module())
        self.inside_attention = [name for name, layer in layers.items() if layer in set(attention.modules())]
        both = (getattr(attention, "o_proj", None), getattr(block, "mlp", None))
        self.by_token = [module for module in both if module is not None]
        self.attended: dict[tuple, object] = {}  # what attention gave, by its thresholds and the window

    def outputs(self, limits: Mapping[str, float]) -> list[Tensor]:
        """Outputs (1, last tokens, hidden) for each window, with thresholds by layer name; 0 is dense."""
        outputs = []
        for window, states in enumerate(self.hidden):
            count = max(1, int(states.shape[1] * self.last))
            key = (window, *(limits.get(name, 0.0) for name in self.inside_attention))
            with ExitStack() as stack:
                for name, layer in self.layers.items():
                    stack.enter_context(self._zeroing(layer, limits.get(name, 0.0), states.shape[1]))
                for module in self.by_token:
                    stack.enter_context(_on_last(module, count, states.shape[1]))
                if self.inside_attention:
                    stack.enter_context(self._remembering(key))
                outputs.append(self.run(states)[:, -count:])
        while len(self.attended) > 8 * len(self.hidden):  # a round of a search tries few of them, all from one state
            self.attended.pop(next(iter(self.attended)))
        return outputs

    @contextmanager
    def _zeroing(self, layer: nn.Linear, limit: float, tokens: int) -> Iterator[None]:
        if limit <= 0:  # nothing is below it
            yield
            return

        def zero(_, args: tuple[Tensor]) -> tuple[Tensor]:
            x = args[0]  # (1, tokens, channels) or (tokens, channels), of all tokens or of the last ones only
            goes = x.abs().float() <= limit
            goes[..., : max(0, dense_tokens(tokens, self.prefill) - (tokens - x.shape[-2])), :] = False
            return (x.masked_fill(goes, 0),)

        handle = layer.register_forward_pre_hook(zero)
        try:
            yield
        finally:
            handle.remove()

    def _remembering(self, key: tuple) -> AbstractContextManager:
        original = self.block.self_attn.forward

        def forward(*args, **kwargs):
            if key not in self.attended:
                self.attended[key] = original(*args, **kwargs)
            return self.attended[key]

        return replaced_forward(self.block.self_attn, forward)


@contextmanager
def _on_last(module: nn.Module, count: int, tokens: int) -> Iterator[None]:
    """A module that reads the last tokens only, and gives zeros for those before them."""
    before = module.register_forward_pre_hook(lambda _, args: (args[0][:, -count:],), prepend=True)
    after = module.register_forward_hook(lambda _, args, out: F.pad(out, (0, 0, tokens - count, 0)))
    try:
        yield
    finally:
        before.remove()
        after.remove()
