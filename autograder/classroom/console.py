"""What the instructor's commands share."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from autograder.exercises import UNITS, unit_named

console = Console(emoji=False)  # "n:m:" is no picture
Unit = Annotated[
    str, typer.Argument(help=f"A unit such as {UNITS[-1]}, or {UNITS[-1].split('_')[0]} for short.", callback=unit_named)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite what is there without asking.")]


def course_config(root: Path, no_sandbox: bool = False, retry: bool = False):
    """The settings in the course's nbgrader_config.py.

    Args:
        root: the course folder.
        no_sandbox: run student code unprotected.
        retry: judge again what was cut short by a limit.
    """
    from traitlets.config import PyFileConfigLoader

    config = PyFileConfigLoader("nbgrader_config.py", path=str(root)).load_config()
    if no_sandbox:
        config.Judge.sandbox = False
    if retry:
        config.Judge.retry = True
    return config


def may_write(path: Path, force: bool) -> Path:
    """A path that may be written: nothing is there, or somebody says that it may go.

    Args:
        path: a file or folder.
        force: do not ask.

    Returns:
        The path.

    Raises:
        ValueError: the folder that it lies in is not there, or it is there and nobody can be asked.
        typer.Abort: somebody says no.
    """
    if not path.absolute().parent.is_dir():
        raise ValueError(f"--to must lie in a folder that exists, got {path}")
    if path.exists() and not force:
        if not console.is_terminal:
            raise ValueError(f"{path} is there already; --force overwrites it")
        typer.confirm(f"{path} is there already. Overwrite it?", abort=True)
    return path
