"""Sparsity for efficient LLM inference, every technique from first principles.

Start reading at `sparsity_edu.patterns` (which weights stay) and `sparsity_edu.weights.magnitude` (the simplest way to
choose them). Masks are boolean with True = kept; sparsity is the fraction of entries that are exactly zero.
"""

__version__ = "0.1.0"
