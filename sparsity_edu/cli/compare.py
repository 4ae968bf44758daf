"""`sparsity-edu compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsity_edu.cli.errors import Refused, at_least, named, need_file, writing
from sparsity_edu.cli.options import (
    Calibration,
    Few,
    FewTokens,
    MinTokens,
    Model,
    Sequential,
    Window,
    Windows,
    calibration_title,
    list_of,
    need_calibration,
    need_columns,
    need_windows,
    pattern_of,
    prepare,
    sparsity_of,
)
from sparsity_edu.cli.prune import Method
from sparsity_edu.cli.show import Rows, fact, sentence, what_was_covered, what_was_read, where_from

ENDINGS = ("png", "pdf", "svg", "jpg", "jpeg", "webp")


def compare(
    model: Model,
    out: Annotated[Path, typer.Option(help="The figure.")] = Path("compare.png"),
    methods: Annotated[str, typer.Option(help="Methods, with commas between them.")] = "magnitude,wanda,sparsegpt",
    sparsities: Annotated[str, typer.Option(help='Sparsities, with commas, or "none".')] = "0.3,0.5,0.6,0.7",
    patterns: Annotated[str, typer.Option(help='Patterns, with commas, or "none".')] = "2:4,4:8",
    calibration: Calibration = "python_docs",
    windows: Windows = 16,
    window: Window = 512,
    true_sequential: Sequential = False,
    few_tokens: FewTokens = Few.all,
    min_tokens: MinTokens = 16,
) -> None:
    """Prune a language model in several ways, print a table, and draw perplexity against sparsity.

    In a mixture of experts each expert is pruned by the tokens that are routed to it; routers are left alone.
    """
    chosen = list_of("--methods", methods, _method, "wanda,sparsegpt")
    numbers = [] if sparsities == "none" else list_of("--sparsities", sparsities, sparsity_of, "0.3,0.5 or none")
    shapes = [] if patterns == "none" else list_of("--patterns", patterns, pattern_of, "2:4,4:8 or none")
    if not numbers and not shapes:
        raise Refused('--sparsities and --patterns must not both be "none"')
    need_windows(windows, window)
    at_least(1, min_tokens=min_tokens)
    need_calibration(calibration)
    need_file(out, ENDINGS)
    from tqdm import tqdm

    from sparsity_edu.models import perplexity
    from sparsity_edu.plots import style
    from sparsity_edu.weights.comparison import compare as runs_of
    from sparsity_edu.weights.comparison import draw, explain, in_order

    (language_model, _), read, validation = prepare(model, calibration, windows, window)
    need_columns("--patterns", shapes, language_model)
    settings = in_order([*numbers, *shapes])
    dense = perplexity(language_model, validation.flatten(), window)
    table = Rows(model, setting=9, method=11, sparsity=10, covered=9, perplexity=12, seconds=9)
    table.add("dense", "", "", "", f"{dense:.2f}", "")
    runs = []
    options = {"true_sequential": true_sequential, "few_tokens": few_tokens.value, "min_tokens": min_tokens}
    found = runs_of(language_model, chosen, settings, read, validation, **options)
    with named("MODEL", "model"), named("--few-tokens", "few_tokens"):
        for run in tqdm(found, total=len(chosen) * len(settings), desc="compare", unit="run", leave=False):
            setting = run.setting if isinstance(run.setting, str) else f"{run.setting:.4g}"
            measured = f"{run.sparsity:.2%}", run.coverage.share, f"{run.perplexity:.2f}", f"{run.seconds:.1f}"
            table.add(setting, run.method, *measured)
            runs.append(run)
    for remark in explain(runs):
        sentence(remark)
    what_was_covered(runs, min_tokens)
    what_was_read(None if chosen == ["magnitude"] else calibration_title(calibration), windows, window)
    where_from(model)
    style()
    figure = draw(runs, dense, model)
    with writing(out):
        figure.savefig(out, dpi=150)
    fact("figure", str(out))


def _method(option: str, name: str) -> str:
    if name not in set(Method):
        raise Refused(f"{option} must be {', '.join(Method)} with commas between them, got {name!r}")
    return name
