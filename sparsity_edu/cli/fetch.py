"""`sparsity-edu fetch`."""

from __future__ import annotations

from typing import Annotated

import typer

from sparsity_edu.cli.errors import Refused


def fetch(
    name: Annotated[str, typer.Argument(help="The model to fetch.")] = "smollm2",
    force: Annotated[bool, typer.Option("--force", help="Fetch it again although it is there.")] = False,
) -> None:
    """Fetch a model into the cache, and say where it came from."""
    from sparsity_edu.models import smollm2

    if name != "smollm2":
        raise Refused(f'NAME must be "smollm2" ("tiny", "tiny-moe" and "tiny-relu" come with the package), got {name!r}')
    fetched = smollm2.fetch(force=force)
    typer.echo(f"smollm2 from {fetched.source}: {fetched.size / 1e6:.0f} MB in {fetched.folder}")
    if remark := smollm2.remark(fetched.source):
        typer.echo(remark)
