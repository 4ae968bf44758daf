"""Data that lessons build on: text for language models and small classical data sets."""

from sparsity_edu.data.parts import PiecewiseData, piecewise, vowels
from sparsity_edu.data.small import ClassificationData, mnist1d, monks, xor
from sparsity_edu.data.text import c4, python_docs, wikitext2

__all__ = [
    "ClassificationData",
    "PiecewiseData",
    "c4",
    "mnist1d",
    "monks",
    "piecewise",
    "python_docs",
    "vowels",
    "wikitext2",
    "xor",
]
