"""Static sparsity: which weights of a trained model can go."""
