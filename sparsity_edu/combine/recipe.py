"""A recipe: plain data that name what is done to a model.

    name = "2:4, skipped inputs, pages"

    [weights]                 # pruned ...
    method = "sparsegpt"      # magnitude, wanda or sparsegpt
    pattern = "2:4"           # or sparsity = 0.5

    [weights]                 # ... or cut out of the model, as in Minitron
    method = "shrink"
    params = 100_000_000
    distill = 200             # steps in which the large model teaches the small one

    [activations]             # inputs below a threshold are skipped, as in TEAL
    sparsity = 0.4

    [cache]                   # of keys and values
    policy = "quest"          # window, sinks, h2o or quest
    budget = 256              # tokens that are held, or of "quest" read

    kernels = "auto"          # what is zero or skipped is not read, where this machine can; or "dense": all is

Every section may be left out. A file is TOML or JSON. What is wrong with one is said in one sentence, before a model is loaded.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from difflib import get_close_matches
from hashlib import sha256
from os import PathLike
from pathlib import Path

from sparsity_edu.kernels.sparse_gemv import PREFILL
from sparsity_edu.patterns import parse_n_m

FILE = "recipe.toml"
FOLDER = Path(__file__).parent / "recipes"  # those of the course; in other_texts/ some of them, calibrated on other texts
TECHNIQUES = ("weights", "activations", "cache")
LARGEST = 100_000  # bytes of a file
PRUNE, SHRINK = ("magnitude", "wanda", "sparsegpt"), "shrink"
LEAST = {"window": 1, "sinks": 5, "h2o": 1, "quest": 16}  # tokens of a cache: four sinks and one, a page


@dataclass(frozen=True)
class Weights:
    """What becomes of the weights: pruned at a sparsity or a pattern, or cut down to a number of parameters."""

    method: str
    sparsity: float | None = None
    pattern: str | None = None
    params: int | None = None
    distill: int = 0

    def __post_init__(self) -> None:
        _choice("method", self.method, (*PRUNE, SHRINK))
        given = [name for name in ("sparsity", "pattern", "params") if getattr(self, name) is not None]
        if self.method == SHRINK:
            if given != ["params"]:
                raise ValueError(f"params must be given for shrink, and neither sparsity nor pattern, got {given or 'none'}")
            _count("params", self.params, 1)
            _count("distill", self.distill, 0)
            return
        if len(given) != 1 or given == ["params"]:
            raise ValueError(f"sparsity or pattern must be given for {self.method}, one of them, got {given or 'neither'}")
        if self.distill:
            raise ValueError(f"distill must be left out for {self.method}: only a model that was cut is taught")
        if self.pattern is None:
            _number("sparsity", self.sparsity, 0, 1)
        elif not isinstance(self.pattern, str):
            raise ValueError(f'pattern must be a text such as "2:4", got {self.pattern!r}')
        else:
            parse_n_m(self.pattern)


@dataclass(frozen=True)
class Activations:
    """Which inputs are skipped: a share of them, alike in all layers or as a greedy search finds; and when in a prompt."""

    sparsity: float
    allocation: str = "uniform"
    step: float = 0.1  # of the search
    prefill: str = "last_half"

    def __post_init__(self) -> None:
        _number("sparsity", self.sparsity, 0, 1)
        _choice("allocation", self.allocation, ("uniform", "greedy"))
        _number("step", self.step, 0.01, 1)
        _choice("prefill", self.prefill, PREFILL)


@dataclass(frozen=True)
class Cache:
    """What is held of keys and values, or read of them."""

    policy: str
    budget: int

    def __post_init__(self) -> None:
        _choice("policy", self.policy, tuple(LEAST))
        _count("budget", self.budget, LEAST[self.policy], f" for {self.policy}")


@dataclass(frozen=True)
class Calibration:
    """The text that methods look at: "python_docs", or a text file."""

    text: str = "python_docs"
    windows: int = 8
    window: int = 512
    first: int = 0  # windows of the text that are left out: others show by how much the text matters

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text:
            raise ValueError(f'text must be "python_docs" or a file, got {self.text!r}')
        _count("windows", self.windows, 1)
        _count("window", self.window, 4)
        _count("first", self.first, 0)


@dataclass(frozen=True)
class Recipe:
    """What is done to a model, as plain data; see the top of this file."""

    name: str = "dense"
    weights: Weights | None = None
    activations: Activations | None = None
    cache: Cache | None = None
    calibration: Calibration = field(default_factory=Calibration)
    kernels: str = "auto"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip() or not self.name.isprintable() or len(self.name) > 80:
            raise ValueError(f"name must be a line of text, at most 80 characters, got {self.name!r}")
        _choice("kernels", self.kernels, ("auto", "dense"))

    @classmethod
    def of(cls, data: Mapping) -> Recipe:
        """A recipe from plain data, as TOML and JSON give it.

        Raises:
            ValueError: a key is unknown or missing, or a value is not allowed.
        """
        return _read(cls, data, "")

    @classmethod
    def load(cls, path: str | PathLike) -> Recipe:
        """Read a recipe from a file in TOML or JSON, or from `recipe.toml` in a folder. Its name is by default the file's.

        Raises:
            ValueError: the file is no recipe; the message begins with its name.
            OSError: it cannot be read.
        """
        path = Path(path) / FILE if Path(path).is_dir() else Path(path)
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise ValueError(f"{path.name} must be a recipe of at most {LARGEST:,} bytes, got a longer file")
        try:
            text = content.decode()
            data = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # what both parsers, and the decoder, raise is a ValueError
            kind = "JSON" if path.suffix.lower() == ".json" else "TOML"
            raise ValueError(f"{path.name} must be {kind} in UTF-8: {' '.join(str(error).split())}") from error
        if isinstance(data, dict):
            data.setdefault("name", path.stem)
        try:
            return cls.of(data)
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from error

    def save(self, path: str | PathLike) -> None:
        """Write the recipe to a file of TOML, or to `recipe.toml` in a folder."""
        import tomli_w

        path = Path(path) / FILE if Path(path).is_dir() else Path(path)
        path.write_text(tomli_w.dumps(self.data()), encoding="utf-8")

    @property
    def techniques(self) -> tuple[str, ...]:
        """The sections that do something, of weights, activations and cache."""
        return tuple(name for name in TECHNIQUES if getattr(self, name) is not None)

    def data(self) -> dict:
        """The recipe as plain data, without what was left out."""
        return _without_none(asdict(self))

    def digest(self) -> str:
        """16 hexadecimal digits that tell what is done, whatever it is called and whether a default is written out."""
        data = {key: _not_default(value) for key, value in vars(self).items() if key != "name"}
        return sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


SECTIONS = {"weights": Weights, "activations": Activations, "cache": Cache, "calibration": Calibration}


def _read(kind: type, data: object, where: str):
    """A section, or the whole recipe where `where` is empty."""
    if not isinstance(data, Mapping):
        raise ValueError(f"{where or 'a recipe'} must be a table, got {data!r}")
    names = [one.name for one in fields(kind)]
    at = f"{where}." if where else ""
    for key in data:
        if key not in names:
            close = get_close_matches(str(key), names, n=1)
            meant = f"; did you mean {close[0]}?" if close else f"; allowed are {', '.join(names)}"
            raise ValueError(f"{at}{key} is not known{meant}")
    for one in fields(kind):
        if one.name not in data and one.default is MISSING and one.default_factory is MISSING:
            raise ValueError(f"{at}{one.name} must be given")
    given = {key: _read(SECTIONS[key], value, key) if not where and key in SECTIONS else value for key, value in data.items()}
    try:
        return kind(**given)
    except ValueError as error:
        raise ValueError(f"{at}{error}") from error


def _not_default(part: object):
    """A section's entries without those that have their default: so one that is added later changes no digest."""
    if part is None or isinstance(part, str):
        return part
    return {one.name: value for one in fields(part) if (value := getattr(part, one.name)) != one.default}


def _without_none(data: dict) -> dict:
    inner = {key: _without_none(value) if isinstance(value, dict) else value for key, value in data.items()}
    return {key: value for key, value in inner.items() if value is not None}


def _number(name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value < high or not math.isfinite(value):
        raise ValueError(f"{name} must be a number in [{low:g}, {high:g}), got {value!r}")


def _count(name: str, value: object, least: int, why: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**53:
        raise ValueError(f"{name} must be a whole number of at least {least}{why}, got {value!r}")


def _choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
