"""Language models that lessons work on, and how well they predict."""

from sparsity_edu.models.cache import ModelError, cache_dir
from sparsity_edu.models.loading import LanguageModel, load
from sparsity_edu.models.perplexity import bits_per_byte, perplexity, tokens

__all__ = ["LanguageModel", "ModelError", "bits_per_byte", "cache_dir", "load", "perplexity", "tokens"]
