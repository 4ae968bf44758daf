"""Mixtures of experts: sparsity whose pattern is chosen for each token."""
