"""What a user did wrong, in one sentence and in the name of the option; and whether a result can be written."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile

import typer
from rich.console import Console


class Refused(ValueError):
    """An option that cannot be. The message is one sentence that names it."""


def one_sentence(command: Callable) -> Callable:
    """A command that prints an expected error as its one sentence and leaves with exit code 1."""

    @functools.wraps(command)
    def run(*args, **kwargs):
        try:
            return command(*args, **kwargs)
        except (RuntimeError, ValueError, OSError, ImportError) as error:
            if isinstance(error, typer.Exit):
                raise
            Console(stderr=True, soft_wrap=True, markup=False, highlight=False).print(f"error: {error}")
            raise typer.Exit(1) from error

    return run


@contextmanager
def named(option: str, argument: str):
    """Say the name of the option where the library says that of an argument."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        message = str(error)
        if not message.startswith(f"{argument} "):
            raise
        raise Refused(option + message.removeprefix(argument)) from error


def at_least(least: float, **options: float | None) -> None:
    """Refuse an option that is less, or NaN."""
    for name, value in options.items():
        if value is not None and not least <= value < float("inf"):
            raise Refused(f"--{name.replace('_', '-')} must be at least {least:g}, got {value:g}")


def need_folder(out: Path) -> None:
    """Refuse --out unless it can become a folder and a file can be written there; nothing is left behind."""
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise Refused(f"--out must be a new or empty folder, got {out}")
    _try(out, out)


def need_file(out: Path, endings: tuple[str, ...], option: str = "--out") -> None:
    """Refuse a file unless it can be written and is of one of the kinds; a file of that name is not touched yet."""
    if out.suffix.lower().removeprefix(".") not in endings:
        raise Refused(f"{option} must end in one of .{', .'.join(endings)}, got {out}")
    if out.is_dir():
        raise Refused(f"{option} must be a file, got the folder {out}")
    _try(out.parent, out, option)
    if out.exists():
        try:
            out.open("ab").close()
        except OSError as error:
            raise _cannot_be_written(out, error, option) from error


def _try(folder: Path, out: Path, option: str = "--out") -> None:
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder) as file:
            file.write(b"can this be written?")
    except OSError as error:
        raise _cannot_be_written(out, error, option) from error
    finally:
        with suppress(OSError):
            for parent in made:
                parent.rmdir()


def _cannot_be_written(out: Path, error: OSError, option: str) -> Refused:
    return Refused(f"{option} cannot be written, {error.strerror or error}: {out}")


@contextmanager
def writing(out: Path, option: str = "--out"):
    """What is written in the end: an error names the option."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise _cannot_be_written(out, error, option) from error
