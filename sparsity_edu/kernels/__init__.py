"""Kernels that turn sparsity into time, in Triton; each has a torch path that gives the same result on any machine.

    two_four           2:4 weights: 0.5625 of the bytes, read once per token; packed24 is how they are stored
    sparse_gemv        weights of small inputs, and of outputs that nobody asked for, are not read; a folder: products,
                       how they run on a GPU and on a CPU, and layers for a model
    sparse_attention   of a long cache only the pages that matter
    compiled           loops that numba compiles for the CPU: for the last two
    roofline           how fast a call can be at best, and a picture of it

Without a GPU the kernels themselves run in Triton's interpreter: set TRITON_INTERPRET=1 before anything imports triton.
"""
