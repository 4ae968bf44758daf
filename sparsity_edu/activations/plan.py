"""Thresholds in a file: JSON beside a checkpoint."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path

from sparsity_edu.kernels.sparse_gemv import PREFILL

FILE = "thresholds.json"


@dataclass(frozen=True)
class Plan:
    """What the layers of a model skip.

    Args:
        thresholds: by layer name: what |x| must exceed.
        levels: by layer name: the share of inputs that was asked for; may be empty.
        prefill: which tokens of a prompt skip theirs: "all", "last_half" or "none".
        about: what else is known, such as the model and the calibration text: anything that JSON holds.

    Raises:
        ValueError: a threshold is no finite number, or `prefill` is unknown.
    """

    thresholds: dict[str, float]
    levels: dict[str, float] = field(default_factory=dict)
    prefill: str = "last_half"
    about: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what in ("thresholds", "levels"):
            for name, number in getattr(self, what).items():
                if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
                    raise ValueError(f"{what} must be finite numbers, got {number!r} for {name!r}")
        if self.prefill not in PREFILL:
            raise ValueError(f"prefill must be one of {', '.join(PREFILL)}, got {self.prefill!r}")

    def save(self, path: str | PathLike) -> None:
        """Write the plan to a file, or to `FILE` in a folder, beside a checkpoint; numbers are read back as they are."""
        _file(path).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | PathLike) -> Plan:
        """Read a plan from a file, or from `FILE` in a folder.

        Raises:
            ValueError: the file is no such plan.
            OSError: it cannot be read.
        """
        text = _file(path).read_bytes()
        try:
            read = json.loads(text)
            if not isinstance(read, dict) or not all(
                isinstance(read[what], dict) for what in ("thresholds", "levels", "about")
            ):
                raise TypeError
            return cls(read["thresholds"], read["levels"], read["prefill"], read["about"])
        except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"path must be a file of thresholds that Plan.save wrote, got {path}") from error


def _file(path: str | PathLike) -> Path:
    return Path(path) / FILE if Path(path).is_dir() else Path(path)
