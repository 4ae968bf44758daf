"""Data that lessons build on: text for language models and one small classical data set."""

from sparsity_edu.data.small import ClassificationData, mnist1d
from sparsity_edu.data.text import c4, python_docs, wikitext2

__all__ = ["ClassificationData", "c4", "mnist1d", "python_docs", "wikitext2"]
