"""Where fetched models are kept, and how they get there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

RECORD = "source.json"
REMEDY = ": fetch it again with `sparsity-edu fetch --force`"


class ModelError(RuntimeError):
    """A model cannot be fetched or read. The message is one sentence for a person."""


def cache_dir() -> Path:
    """Return the folder fetched models are kept in: `SPARSITY_EDU_CACHE` if set, else the user's cache folder."""
    return Path(os.environ.get("SPARSITY_EDU_CACHE") or platformdirs.user_cache_path("sparsity_edu")).expanduser()


@contextmanager
def building(target: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces `target` when the block ends, and vanishes if the block fails or is interrupted."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as temporary:
        new, old = Path(temporary, "new"), Path(temporary, "old")
        new.mkdir()
        yield new
        if target.exists():
            target.rename(old)
        new.rename(target)


def seal(folder: Path, source: str) -> None:
    """Write beside a model's files where they came from, and the size and SHA-256 of each."""
    Path(folder, "model.safetensors").chmod(0o644)  # safetensors writes for its owner only; a class may share a cache
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != RECORD
    }
    Path(folder, RECORD).write_text(json.dumps({"source": source, "files": files}, indent=1) + "\n")


def verify(folder: Path) -> dict:
    """Return the record of a sealed folder, after comparing every file with it.

    Raises:
        ModelError: the record cannot be read, or a file is missing, of another size or of other contents.
    """
    try:
        record = json.loads(Path(folder, RECORD).read_text())
        expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in record["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{folder / RECORD} is missing or damaged{REMEDY}") from error
    for name, (size, digest) in expected.items():
        path = folder / name
        if not path.is_file():
            raise ModelError(f"{path} is missing{REMEDY}")
        if path.stat().st_size != size:
            raise ModelError(f"{path} holds {path.stat().st_size} bytes instead of {size}{REMEDY}")
        if _sha256(path) != digest:
            raise ModelError(f"{path} was changed after it was fetched{REMEDY}")
    return record


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
