"""Products that skip the weights of inputs and outputs that do not count: y = W x for one token, or a few.

When a token is decoded every weight is read once, for one multiplication. A weight whose input is zero need not be read, nor
one whose output nobody asks for. Whole rows of a stored matrix are skipped, so the matrix is stored such that these are rows:

    gemv_threshold   W (K, N), input-major: only the rows of inputs with |x| > threshold (TEAL)
    gemv_rows        W (N, K), output-major: only the outputs asked for (Deja Vu's gate and up, heads of Q)
    gemv_columns     W (K, N), input-major: only the rows of inputs that are there (Deja Vu's down, heads of O)

Each file needs those below it alone:

    threshold_linear   linear layers that skip small inputs, and `threshold_linear_`, which puts them into a model
    products           the products above: checks of arguments, and the choice between the next two
    launch             on a GPU, and in the interpreter: launches the kernels of ../sparse_gemv_kernels.py
    cpu                on a CPU: the choice between the next two
    loops              compiled loops, in float32 and bfloat16
    in_torch           torch, in every dtype, in a way that saves time there
"""

from sparsity_edu.kernels.sparse_gemv.products import FEW_TOKENS, compact, gemv_columns, gemv_rows, gemv_threshold
from sparsity_edu.kernels.sparse_gemv.threshold_linear import (
    PREFILL,
    SharedProduct,
    ThresholdLinear,
    dense_tokens,
    threshold_linear_,
    unthreshold_linear_,
)

__all__ = [
    "FEW_TOKENS",
    "PREFILL",
    "SharedProduct",
    "ThresholdLinear",
    "compact",
    "dense_tokens",
    "gemv_columns",
    "gemv_rows",
    "gemv_threshold",
    "threshold_linear_",
    "unthreshold_linear_",
]
