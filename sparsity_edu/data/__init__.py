"""Data that lessons build on: text for language models and small classical data sets."""

from sparsity_edu.data.small import ClassificationData, mnist1d, monks, xor
from sparsity_edu.data.text import c4, python_docs, wikitext2

__all__ = ["ClassificationData", "c4", "mnist1d", "monks", "python_docs", "wikitext2", "xor"]
