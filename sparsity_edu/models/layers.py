"""Which layers of a model are pruned: its linear and convolution layers; in a language model only those inside the blocks."""

from torch import Tensor, nn


def prunable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers whose weights pruning touches.

    In a Hugging Face decoder these are the linear layers inside the decoder blocks; embeddings, norms, biases and the output
    head are left alone, as in SparseGPT's and Wanda's code (`left_alone` lists them). In any other module they are all
    linear and convolution layers.

    Args:
        model: any module.

    Returns:
        Layer by module name, in the model's order; of layers that share one weight only the first.
    """
    blocks = decoder_blocks(model)
    inside = None if blocks is None else {id(module) for module in blocks.modules()}
    layers, weights = {}, set()
    for name, module in model.named_modules():
        if _is_linear_map(module) and (inside is None or id(module) in inside) and id(module.weight) not in weights:
            layers[name] = module
            weights.add(id(module.weight))
    return layers


def left_alone(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that pruning does not touch: all that are no weight of `prunable_layers(model)`.

    Args:
        model: any module.

    Returns:
        Parameter by name.
    """
    touched = {id(layer.weight) for layer in prunable_layers(model).values()}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) not in touched}


def decoder_blocks(model: nn.Module) -> nn.ModuleList | None:
    """The transformer blocks of a Hugging Face language model.

    Llama, Mistral and Qwen keep them in `model.layers`, OPT in `model.decoder.layers`, GPT-2 in `transformer.h`: in each the
    list of modules that holds the most parameters (a block's list of experts holds fewer).

    Args:
        model: any module.

    Returns:
        The list of blocks, or None for a module that is no transformers model.
    """
    if not hasattr(model, "get_input_embeddings"):  # every transformers model has it; no need to import transformers
        return None
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=lambda blocks: sum(p.numel() for p in blocks.parameters()), default=None)


def weight_matrix(layer: nn.Module) -> Tensor:
    """A layer's weight as a matrix (outputs, inputs).

    Args:
        layer: a linear layer, a convolution (flattened to (out_channels, in_channels * kernel)) or transformers' `Conv1D`
            (GPT-2's linear layer, which stores its weight as (inputs, outputs)).

    Returns:
        (outputs, inputs), detached; a view of `layer.weight` (for a convolution in channels-last layout a copy).
    """
    weight = layer.weight.detach()
    return weight.T if _is_conv1d(layer) else weight.flatten(1)


def from_matrix(layer: nn.Module, matrix: Tensor) -> Tensor:
    """Inverse of `weight_matrix` for anything of its shape, a mask for instance.

    Args:
        layer: the layer.
        matrix: (outputs, inputs).

    Returns:
        `matrix` in the shape of `layer.weight`.
    """
    return matrix.T if _is_conv1d(layer) else matrix.view_as(layer.weight)


def _is_linear_map(module: nn.Module) -> bool:
    is_layer = isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) or _is_conv1d(module)
    return is_layer and isinstance(module.weight, nn.Parameter)  # not the output of a parametrization: writing to it is lost


def _is_conv1d(module: nn.Module) -> bool:
    # by name, so that transformers need not be imported
    return (type(module).__module__, type(module).__name__) == ("transformers.pytorch_utils", "Conv1D")
