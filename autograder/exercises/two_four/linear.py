"""Exercise 15.7: a layer that holds nothing else."""

import torch
from torch import Tensor, nn

from autograder.checking.compare import Rules
from autograder.checking.exercise import Exercise
from autograder.exercises.two_four.fixtures import packed, two_four, unpacked
from autograder.exercises.two_four.gemv import inputs, kernels
from autograder.inside.case import HELD, script
from autograder.inside.recipes import Module


class SparseLinear(nn.Module):
    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        W = layer.weight.detach()
        if W.shape[1] % 16 or ((W.unflatten(1, (-1, 4)) != 0).sum(-1) > 2).any():
            raise ValueError("not 2:4")
        values, codes = packed(W)
        self.register_buffer("values", values)
        self.register_buffer("codes", codes)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        y = x.float() @ unpacked(self.values, self.codes).float().T
        return (y if self.bias is None else y + self.bias.float()).to(x.dtype)

    def nbytes(self) -> int:
        return sum(buffer.nbytes for buffer in self.buffers())


linear = Exercise(
    "two_four.linear",
    defines="SparseLinear",
    title="A layer that holds nothing else",
    minutes=12,
    difficulty=2,
    hints=(
        "Pack the weight once, in the constructor, and keep just what `multiply_2_4` wants. The forward pass is a matter "
        "of shapes: any number of leading dimensions comes in, and the same goes out.",
        "`register_buffer` keeps tensors that belong to the module and are not trained; a buffer may be None. Flatten the "
        "leading dimensions to tokens, give at most 8 of them at a time to your kernel, join the parts, and go back to "
        "the shape that came.",
        "`__init__`: `super().__init__()`, then `pack_2_4(layer.weight.detach())` and a clone of the bias as three "
        "buffers. `forward`: `x.reshape(-1, x.shape[-1]).contiguous()`, `multiply_2_4` for each part of `.split(8)`, "
        "`torch.cat`, a `view` with x's leading dimensions, plus the bias. `nbytes` sums over `self.buffers()`.",
    ),
    reference=SparseLinear,
    rules=Rules(tolerance=3e-3),
)


def layer_of(W: Tensor, bias: Tensor | None = None) -> Module:
    return Module("Linear", (W.shape[1], len(W), bias is not None), {"weight": W} | ({} if bias is None else {"bias": bias}))


def held(layer: Module) -> tuple[str, int]:
    """A look whether all that an answer holds is less than 3 / 4 of the dense weights, and the bias."""
    return HELD, sum(tensor.nbytes * 3 // 4 if tensor.ndim == 2 else tensor.nbytes for tensor in layer.state.values())


def large(g: torch.Generator) -> Module:
    """A layer of 128 KB: a dense matrix beside its packed weights is much more than a module's own dicts take."""
    return layer_of(two_four(g, 64, 1024), inputs(g, 64))


@linear.stage(
    "y = x W^T, with and without a bias",
    points=1,
    exposes="forward(x) is (tokens, N) for x (tokens, K), what the dense layer gives; the bias is added where there is one. The layer "
    "has become smaller: nbytes() says so.",
)
def _(g):
    layer = layer_of(two_four(g, 16, 32))
    yield script(layer, calls=[("forward", inputs(g, 3, 32)), ("forward", inputs(g, 3, 32))])  # the first result is its own
    layer = layer_of(two_four(g, 8, 48), inputs(g, 8))
    yield script(layer, calls=[("forward", inputs(g, 2, 48)), ("nbytes",)])
    layer = large(g)
    yield script(layer, calls=[("forward", inputs(g, 1, 1024)), ("nbytes",), held(layer)])


@linear.stage(
    "any leading dimensions, any number of tokens",
    points=1,
    exposes="x may be (K,), (tokens, K) or (batch, tokens, K): the last dimension becomes N, the others stay. More tokens than your kernel takes at once come in several "
    "launches. x need not be contiguous, and stays as it is. The layer holds no more than before.",
    pure=True,
)
def _(g):
    layer = layer_of(two_four(g, 12, 64, least=0), inputs(g, 12))
    yield script(layer, calls=[("forward", inputs(g, 64)), ("forward", inputs(g, 2, 3, 64)), ("nbytes",)])
    yield script(layer, calls=[("forward", inputs(g, 3, 7, 64)), ("forward", inputs(g, 64, 5, 2).permute(2, 1, 0))])
    layer = layer_of(two_four(g, 1, 16), inputs(g, 1))
    yield script(layer, calls=[("forward", inputs(g, 2, 1, 4, 16)), ("forward", inputs(g, 131, 16))])
    layer = large(g)
    yield script(layer, calls=[("forward", inputs(g, 1, 1, 1024)), held(layer)])


@linear.stage(
    "holds the packed weights, and refuses others",
    points=1,
    exposes="nbytes() is what the layer holds: values, words and bias, 0.5625 of the dense weights and the bias. Nothing else may be kept, counted or not. A layer that is not 2:4 "
    "is a ValueError. The tensors are buffers of a module: they are in its state_dict().",
)
def _(g):
    W = two_four(g, 16, 48, least=0)
    layer = layer_of(W, inputs(g, 16))
    yield script(layer, calls=[("nbytes",), ("forward", inputs(g, 1, 48)), ("nbytes",)])
    layer = large(g)
    yield script(layer, calls=[held(layer), ("nbytes",)])
    yield script(layer_of(W), calls=[("nbytes",)])
    yield script(layer_of(W), calls=[("load_state_dict", {})])  # a RuntimeError: all of its tensors are missing
    faint = two_four(g, 4, 32).sign() * 2.0**-24  # the smallest float16
    yield script(layer_of(faint), calls=[("forward", 2000 + inputs(g, 2, 32).abs())])
    faint = faint.clone()
    faint[1, 4:7] = 2.0**-24
    yield script(layer_of(faint), calls=[("nbytes",)])
    W = W.clone()
    W[3, 4:7] = 1
    yield script(layer_of(W), calls=[("nbytes",)])


def mistaken(name: str, says: str):
    return linear.misconception(name, says)


@mistaken("no bias", "The bias is left out. Keep it as a buffer, and add it after the product.")
class NoBias(SparseLinear):
    def __init__(self, layer):
        super().__init__(layer)
        self.bias = None


@mistaken("always a bias", "You add a bias where there is none: `layer.bias` may be None.")
class AlwaysABias(SparseLinear):
    def forward(self, x):
        return super().forward(x) + self.bias


@mistaken("transposed weights", "You multiply by W and not by its transpose: W is (N, K), so y = x W^T.")
class Transposed(SparseLinear):
    def forward(self, x):
        N, K = self.codes.shape[0], 2 * self.values.shape[1]
        W = unpacked(self.values, self.codes).float().reshape(K, N)
        y = x.float() @ W
        return (y if self.bias is None else y + self.bias.float()).to(x.dtype)


@mistaken(
    "dimensions flattened",
    "Your result is (tokens, N) whatever x was. Only the last dimension changes: `y.view(*x.shape[:-1], N)`.",
)
class Flattened(SparseLinear):
    def forward(self, x):
        return super().forward(x).reshape(-1, len(self.values))


@mistaken("eight tokens", "Your layer stops after eight tokens. A prompt has many: go through them eight at a time.")
class Eight(SparseLinear):
    def forward(self, x):
        rows = x.reshape(-1, x.shape[-1])
        y = torch.zeros(len(rows), len(self.values), dtype=x.dtype)
        y[:8] = super().forward(rows[:8])
        return y.view(*x.shape[:-1], -1)


@mistaken(
    "only two dimensions",
    "Your layer takes x of two dimensions only. Models call it with (batch, tokens, K), and (K,) is right as well.",
)
class Matrix(SparseLinear):
    def forward(self, x):
        if x.ndim != 2:
            raise IndexError("x must be (tokens, K)")
        return super().forward(x)


@mistaken("view of what is not contiguous", "`x.view` fails where x is not contiguous. `x.reshape` makes a copy if it has to.")
class View(SparseLinear):
    def forward(self, x):
        return super().forward(x.view(-1, x.shape[-1])).view(*x.shape[:-1], -1)


@mistaken(
    "dense weights kept",
    "Your layer still holds the dense weights beside the packed ones, so it is larger than before. Keep values and words only.",
)
class Kept(SparseLinear):
    def __init__(self, layer):
        super().__init__(layer)
        self.register_buffer("weight", unpacked(self.values, self.codes))


@mistaken(
    "the layer kept",
    "Your layer holds the dense one inside, and with it all its weights, though nbytes() does not count them. Take from it what you need, and let it go.",
)
class LayerKept(SparseLinear):
    def __init__(self, layer):
        super().__init__(layer)
        self.layer = layer


@mistaken(
    "unpacked at the first call",
    "After the first call your layer holds a dense matrix: it has become larger than it ever was. Unpack nothing that stays; your kernel reads the packed weights.",
)
class UnpackedOnce(SparseLinear):
    def forward(self, x):
        self.dense = [unpacked(self.values, self.codes)]
        return super().forward(x)


@mistaken("changes x", "x is different after your forward: residual connections still need it. Compute a new tensor.")
class ChangesX(SparseLinear):
    def forward(self, x):
        y = super().forward(x)
        x.zero_()
        return y


@mistaken("values only", "You did not count the index words. They are a sixteenth of the dense bytes.")
class ValuesOnly(SparseLinear):
    def nbytes(self):
        return super().nbytes() - self.codes.nbytes


@mistaken("bias not counted", "You did not count the bias: the layer holds it too.")
class BiasNotCounted(SparseLinear):
    def nbytes(self):
        return self.values.nbytes + self.codes.nbytes


@mistaken("numbers and not bytes", "You counted numbers. A float16 and a word have two bytes each: `tensor.nbytes`.")
class Numbers(SparseLinear):
    def nbytes(self):
        return sum(buffer.numel() for buffer in self.buffers())


@mistaken("values in float32", "Your values are stored in float32: twice the bytes. Keep the dtype of the layer.")
class Wide(SparseLinear):
    def nbytes(self):
        return super().nbytes() + self.values.nbytes


@mistaken("words of 32 bits", "Your index words are stored in 32 bits each. int16 is enough for four groups.")
class WideWords(SparseLinear):
    def nbytes(self):
        return super().nbytes() + self.codes.nbytes


@mistaken(
    "three are cut to two",
    "A layer that is not 2:4 lost weights without a word. `kept_places` refuses it: let its ValueError through.",
)
class Cut(SparseLinear):
    def __init__(self, layer):
        nn.Module.__init__(self)
        values, codes = packed(layer.weight.detach())
        self.register_buffer("values", values)
        self.register_buffer("codes", codes)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())


@mistaken(
    "no buffers",
    "Your tensors are plain attributes: they are not in state_dict(), and stay behind when the model is saved, or moved to another device. "
    "`register_buffer` makes them part of the module.",
)
class Plain(nn.Module):
    def __init__(self, layer):
        super().__init__()
        kept = SparseLinear(layer)
        self.kept = {"values": kept.values, "codes": kept.codes, "bias": kept.bias}

    def forward(self, x):
        W = unpacked(self.kept["values"], self.kept["codes"]).float()
        y = x.float() @ W.T
        if self.kept["bias"] is not None:
            y += self.kept["bias"].float()
        return y.to(x.dtype)

    def nbytes(self):
        return sum(tensor.nbytes for tensor in self.kept.values() if tensor is not None)


@mistaken(
    "not a module",
    "Your class is no nn.Module: a model cannot save it, or move it to another device. Derive from nn.Module, and register buffers.",
)
class NoModule:
    def __init__(self, layer):
        self.kept = [SparseLinear(layer)]

    def forward(self, x):
        return self.kept[0](x)

    def nbytes(self):
        return self.kept[0].nbytes()


@linear.accepts("torch's product, buffers of other names")
class OtherNames(nn.Module):
    def __init__(self, layer):
        super().__init__()
        W = layer.weight.data.clone()
        if (W.reshape(-1, 4).count_nonzero(dim=1) > 2).any() or W.shape[1] % 16:
            raise ValueError("more than two in a group")
        for name, tensor in zip(("kept", "where"), packed(W), strict=True):
            self.register_buffer(name, tensor)
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone(), requires_grad=False)

    def forward(self, x):
        return nn.functional.linear(x, unpacked(self.kept, self.where), self.bias)

    def nbytes(self):
        bias = 0 if self.bias is None else 2 * self.bias.numel()
        return torch.tensor(self.kept.numel() * 2 + self.where.numel() * 2 + bias)


@linear.accepts("with the kernel, eight tokens at a time")
class WithKernel(SparseLinear):
    def forward(self, x):
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        y = torch.cat([kernels().few(self.values, self.codes, rows[i : i + 8]) for i in range(0, len(rows), 8)])
        y = y.view(*x.shape[:-1], y.shape[-1])
        return y if self.bias is None else y + self.bias
