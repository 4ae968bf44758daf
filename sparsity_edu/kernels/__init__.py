"""Kernels that turn sparsity into time, in Triton; each has a torch path that gives the same result on any machine.

    two_four     2:4 weights: 0.5625 of the bytes, read once per token

Without a GPU the kernels themselves run in Triton's interpreter: set TRITON_INTERPRET=1 before anything imports triton.
"""
