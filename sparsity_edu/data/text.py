"""Text for language models: the Python documentation every CPython carries, WikiText-2 and C4 from the hub.

The Python docs corpus is made of documents. A document is one topic of `help()` or one standard-library module, all its
docstrings joined. A hash of the document's *name* gives it a place on the unit interval, the same on every machine:

    0 ---- validation ---- 0.05 ---- calibration ---- 0.10 ---- train ---- 1

so a document never changes its split when Python is updated. A paragraph that occurs twice is kept only at the lower
place, so no two splits share one.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import json
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from sparsity_edu.models.hub import fetch_file

SPLITS = {"validation": (0.0, 0.05), "calibration": (0.05, 0.10), "train": (0.10, 1.0)}

# Not prose about Python, or not installed everywhere.
SKIPPED = {
    *("test", "tests", "idle_test", "idlelib", "lib2to3", "encodings", "pydoc_data", "ensurepip", "distutils"),
    *("turtledemo", "tkinter", "msilib", "site-packages", "dist-packages"),
}


def python_docs(split: str = "train") -> str:
    """Return one split of the Python documentation: the topics of `help()` and the standard library's docstrings.

    The text depends on the version of the running Python (wording changes, modules come and go); which split a document
    belongs to does not. Reading the train split parses the whole standard library once, a matter of seconds.

    Args:
        split: "train" (about 1.5 MB), "calibration" or "validation" (about 0.1 MB each).

    Returns:
        The documents, in an order that mixes topics and modules, separated by two blank lines.

    Raises:
        ValueError: `split` is none of the three.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(sorted(SPLITS))}, got {split!r}")
    return "\n\n\n".join(document_texts(split).values())


@cache
def document_texts(split: str) -> dict[str, str]:
    """Return the documents of a split by name, in the order of their places, each paragraph that occurred before dropped."""
    low, high = SPLITS[split]
    seen: set[str] = set()
    texts = {}
    for name, read in sorted(_documents().items(), key=lambda item: place(item[0])):
        if place(name) >= high:
            break
        paragraphs = [p.rstrip() for p in re.split(r"\n\s*\n", read()) if _new(p, seen)]
        if place(name) >= low and paragraphs:
            texts[name] = "\n\n".join(paragraphs)
    return texts


def place(name: str) -> float:
    """Return the place of a document in [0, 1): the first 32 bits of a SHA-256 as a fraction."""
    # The salt was chosen so that the two small splits hold topics and modules, about 0.1 MB each, in CPython 3.11 to 3.13.
    return int.from_bytes(hashlib.sha256(f"python_docs 5:{name}".encode()).digest()[:4]) / 2**32


def _new(paragraph: str, seen: set[str]) -> bool:
    """Say whether a paragraph has words and was not seen before, white space aside; from now on it was seen."""
    words = " ".join(paragraph.split())
    known = not words or words in seen
    seen.add(words)
    return not known


def _documents() -> dict[str, Callable[[], str]]:
    """Return every document's name with a function that reads its text."""
    from pydoc_data.topics import topics

    documents = {f"topic:{name}": lambda text=text: text for name, text in topics.items()}
    library = Path(sysconfig.get_path("stdlib"))
    for path in library.rglob("*.py"):
        parts = path.relative_to(library).with_suffix("").parts
        if parts[0] in sys.stdlib_module_names and SKIPPED.isdisjoint(parts):
            name = ".".join(parts).removesuffix(".__init__")
            documents[name] = lambda path=path: "\n\n".join(_docstrings(ast.parse(path.read_bytes())))
    return documents


def _docstrings(node: ast.AST) -> Iterator[str]:
    """Yield the docstrings of a module, class or function and of all it defines, fallbacks in `except` clauses aside."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node)
        if text:
            yield text
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield from _docstrings(child)


def wikitext2(split: str = "validation") -> str:
    """Return one split of WikiText-2 (raw), the text most pruning papers report perplexity on, from the Hugging Face hub.

    Args:
        split: "train", "validation" or "test".

    Returns:
        The lines of the split joined by blank lines, as in the SparseGPT and Wanda evaluation code.

    Raises:
        ValueError: `split` is none of the three.
        ConnectionError: the file is not in the local cache and the hub cannot be reached.
        ImportError: the package pyarrow is not installed.
    """
    if split not in ("train", "validation", "test"):
        raise ValueError(f"split must be one of train, validation, test, got {split!r}")
    path = fetch_file("Salesforce/wikitext", f"wikitext-2-raw-v1/{split}-00000-of-00001.parquet", title="WikiText-2")
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError("wikitext2 reads a Parquet file, which needs the package pyarrow") from error
    return "\n\n".join(parquet.read_table(path)["text"].to_pylist())


def c4(split: str = "train", documents: int = 1000) -> list[str]:
    """Return the first documents of the first file of C4 (en), the usual calibration text, from the Hugging Face hub.

    Args:
        split: "train" or "validation".
        documents: how many documents to read, at least 1 (a file holds about 356 000 for train, 45 000 for validation).

    Returns:
        The documents' texts.

    Raises:
        ValueError: an argument is outside what is allowed.
        ConnectionError: the file is not in the local cache and the hub cannot be reached.
    """
    files = {"train": "en/c4-train.00000-of-01024.json.gz", "validation": "en/c4-validation.00000-of-00008.json.gz"}
    if split not in files:
        raise ValueError(f"split must be one of {', '.join(files)}, got {split!r}")
    if documents < 1:
        raise ValueError(f"documents must be at least 1, got {documents}")
    with gzip.open(fetch_file("allenai/c4", files[split], title="C4"), "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line, _ in zip(lines, range(documents), strict=False)]
