"""A verdict for people: compact HTML that follows JupyterLab's light and dark themes, and plain text."""

from html import escape

from autograder.verdict import Verdict

# JupyterLab's theme variables, with plain fallbacks for other front ends and nbgrader's feedback pages
_GOOD = "var(--jp-success-color1, #388e3c)"
_BAD = "var(--jp-error-color1, #d32f2f)"
_QUIET = "var(--jp-ui-font-color2, #757575)"
_RULE = "var(--jp-border-color2, #e0e0e0)"
_TINT = "var(--jp-layout-color2, #f5f5f5)"
_MONO = "font-family:var(--jp-code-font-family, monospace);font-size:0.92em;white-space:pre-wrap;overflow-wrap:anywhere"


def to_text(verdict: Verdict) -> str:
    """The verdict in plain text.

    Args:
        verdict: the verdict.

    Returns:
        A few lines.
    """
    lines = [
        f"{_sign(verdict)} {verdict.id} - {verdict.title}: {_points(verdict.points)} of {_points(verdict.max_points)} points"
    ]
    if not verdict.started:
        lines.append("  not started: the function still raises NotImplementedError")
    else:
        lines += [f"  {'✓' if stage.passed else '✗'} {stage.name} ({_stage_points(stage)})" for stage in verdict.stages]
        lines += [f"  {label + ':':<12}{text}".replace("\n", "\n" + " " * 14) for label, text in _explanation(verdict)]
    if verdict.progress:
        lines.append(f"  {_progress(verdict.progress)}")
    return "\n".join(lines)


def to_html(verdict: Verdict) -> str:
    """The verdict as HTML; every text that may come from a learner is escaped.

    Args:
        verdict: the verdict.

    Returns:
        One `<div>`.
    """
    color = _GOOD if verdict.passed else _BAD if verdict.started else _QUIET
    parts = [
        f'<div class="tex2jax_ignore" style="border-left:4px solid {color};padding:6px 12px;margin:4px 0;line-height:1.45">',
        f'<div><b style="color:{color}">{_sign(verdict)}</b> <b>{escape(verdict.title)}</b> '
        f'<span style="color:{_QUIET}">{escape(verdict.id)}</span>'
        f'<span style="float:right"><b>{_points(verdict.points)}</b> / {_points(verdict.max_points)} points</span></div>',
    ]
    if not verdict.started:
        parts.append(f'<div style="color:{_QUIET}">Not started yet: the function still raises NotImplementedError.</div>')
    else:
        parts += [_stage_html(stage) for stage in verdict.stages]
        if rows := _explanation(verdict):
            cells = "".join(
                f'<div style="color:{_QUIET}">{label}</div>'
                f'<div style="{"" if label in ("why", "hint") else _MONO}">{escape(text)}</div>'
                for label, text in rows
            )
            parts.append(
                f'<div style="display:grid;grid-template-columns:max-content 1fr;gap:2px 12px;background:{_TINT};'
                f'padding:6px 10px;margin:6px 0">{cells}</div>'
            )
    if verdict.progress:
        share = 100 * verdict.progress["points"] / verdict.progress["max_points"]
        parts.append(
            f'<div style="display:flex;align-items:center;gap:8px;color:{_QUIET};font-size:0.92em;margin-top:4px">'
            f'<div style="flex:0 0 120px;height:6px;background:{_RULE};border-radius:3px">'
            f'<div style="width:{share:.0f}%;height:6px;background:{_GOOD};border-radius:3px"></div></div>'
            f"{escape(_progress(verdict.progress))}</div>"
        )
    return "".join(parts) + "</div>"


def _stage_html(stage) -> str:
    sign, color = ("✓", _GOOD) if stage.passed else ("✗", _BAD)
    return (
        f'<div><span style="color:{color}">{sign}</span> {escape(stage.name)} '
        f'<span style="color:{_QUIET}">{_stage_points(stage)}</span></div>'
    )


def _stage_points(stage) -> str:
    waits = stage.passed and stage.points < stage.max_points
    return f"{_points(stage.points)}/{_points(stage.max_points)}" + (", counts once the first one passes" if waits else "")


def _explanation(verdict: Verdict) -> list[tuple[str, str]]:
    """Labelled sentences on the first failing stage: what was called, how it differs, why, what it printed."""
    stage = verdict.first_failure
    if stage is None:
        return []
    rows = [("call", stage.problem.case), ("difference", stage.problem.difference)] if stage.problem else []
    rows = [(label, text) for label, text in rows if text]  # hidden cases are not shown
    rows.append(("why", verdict.says) if verdict.says else ("hint", stage.exposes))
    if stage.problem and stage.problem.printed.strip():
        rows.append(("printed", stage.problem.printed.strip()))
    return rows


def _sign(verdict: Verdict) -> str:
    return "✓" if verdict.passed else "✗" if verdict.started else "○"


def _points(points: float) -> str:
    return f"{points:g}"


def _progress(progress: dict) -> str:
    return (
        f"best so far in {progress['unit']}: {progress['done']} of {progress['exercises']} exercises done, "
        f"{_points(progress['points'])} of {_points(progress['max_points'])} points"
    )
