"""A verdict in a notebook: compact HTML that follows JupyterLab's light and dark themes, and how far the unit is done."""

import re
from dataclasses import dataclass, field
from html import escape

from autograder.checking.verdict import StageVerdict, Verdict
from autograder.learner.solved import Solved

PROSE = ("why", "hint", "inputs")  # rows that are sentences; the others are what was called, compared and printed
# JupyterLab's theme variables, with plain fallbacks for other front ends and nbgrader's feedback pages
_GOOD = "var(--jp-success-color1, #388e3c)"
_BAD = "var(--jp-error-color1, #d32f2f)"
_QUIET = "var(--jp-ui-font-color2, #757575)"
_RULE = "var(--jp-border-color2, #e0e0e0)"
_TINT = "var(--jp-layout-color2, #f5f5f5)"
_FONT = "font-family:var(--jp-code-font-family, monospace);font-size:0.92em"
_MONO = f"{_FONT};white-space:pre-wrap;overflow-wrap:anywhere"
_CODE = f"{_FONT};padding:0 2px;color:var(--jp-ui-font-color1, #212121);background:var(--jp-layout-color1, #ffffff)"


@dataclass(frozen=True, repr=False)
class Report(Verdict):
    """A verdict that shows itself in a notebook."""

    progress: dict = field(default_factory=dict, compare=False)  # of the unit; empty where nobody keeps it
    inputs: str = field(default="", compare=False)  # a statement that gives the arguments of the call that is shown
    solved: Solved = field(default=Solved(), compare=False)  # what to read now; only where the verdict is full marks

    @classmethod
    def of(cls, verdict: Verdict, progress: dict | None = None, inputs: str = "", solved: Solved | None = None) -> "Report":
        """The report on a verdict.

        Args:
            verdict: the verdict.
            progress: from `learner.progress.of_unit`.
            inputs: from `learner.inputs.remember`.
            solved: what to read now, if the verdict is full marks.

        Returns:
            The report.
        """
        return cls(**vars(verdict), progress=progress or {}, inputs=inputs, solved=solved or Solved())

    @property
    def explanation(self) -> list[tuple[str, str]]:
        """As of any verdict, and how to have the arguments of the call."""
        sentence = f"`{self.inputs}` gives the call's arguments, to print and step through."
        return super().explanation + ([("inputs", sentence)] if self.inputs else [])

    def _repr_html_(self) -> str:
        return to_html(self, self.progress) + self.solved.to_html()

    def __repr__(self) -> str:
        below = [_progress(self.progress) if self.progress else "", str(self.solved)]
        return "\n  ".join([super().__repr__(), *filter(None, below)])


def to_html(verdict: Verdict, progress: dict | None = None) -> str:
    """The verdict as HTML; every text that may come from a learner is escaped.

    Args:
        verdict: the verdict.
        progress: of the unit, shown as a bar.

    Returns:
        One `<div>`.
    """
    color = _GOOD if verdict.passed else _BAD if verdict.started else _QUIET
    parts = [
        f'<div class="tex2jax_ignore" style="border-left:4px solid {color};padding:6px 12px;margin:4px 0;line-height:1.45">',
        f'<div><b style="color:{color}">{verdict.sign}</b> <b>{_prose(verdict.title)}</b> '
        f'<span style="color:{_QUIET}">{escape(verdict.id)}</span>'
        f'<span style="float:right"><b>{verdict.points:g}</b> / {verdict.max_points:g} points</span></div>',
    ]
    if not verdict.started:
        parts.append(f'<div style="color:{_QUIET}">Not started yet: the function still raises NotImplementedError.</div>')
    else:
        parts += [_stage_html(stage) for stage in verdict.stages]
        if rows := verdict.explanation:
            cells = "".join(
                f'<div style="color:{_QUIET}">{label}</div>'
                + (f"<div>{_prose(text)}</div>" if label in PROSE else f'<div style="{_MONO}">{escape(text)}</div>')
                for label, text in rows
            )
            parts.append(
                f'<div style="display:grid;grid-template-columns:max-content 1fr;gap:2px 12px;background:{_TINT};'
                f'padding:6px 10px;margin:6px 0">{cells}</div>'
            )
    if progress:
        share = 100 * progress["points"] / progress["max_points"]
        parts.append(
            f'<div style="display:flex;align-items:center;gap:8px;color:{_QUIET};font-size:0.92em;margin-top:4px">'
            f'<div style="flex:0 0 120px;height:6px;background:{_RULE};border-radius:3px">'
            f'<div style="width:{share:.0f}%;height:6px;background:{_GOOD};border-radius:3px"></div></div>'
            f"{escape(_progress(progress))}</div>"
        )
    return "".join(parts) + "</div>"


def _prose(text: str) -> str:
    """Sentences as HTML, with what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", rf'<code style="{_CODE}">\1</code>', escape(text))


def _stage_html(stage: StageVerdict) -> str:
    sign, color = ("✓", _GOOD) if stage.passed else ("✗", _BAD)
    return (
        f'<div><span style="color:{color}">{sign}</span> {_prose(stage.name)} '
        f'<span style="color:{_QUIET}">{stage.score}</span></div>'
    )


def _progress(progress: dict) -> str:
    return (
        f"best so far in {progress['unit']}: {progress['done']} of {progress['exercises']} exercises done, "
        f"{progress['points']:g} of {progress['max_points']:g} points"
    )
