"""What an exercise's check says of an answer: plain data, and its plain text."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Problem:
    """Why a stage fails: the first case that does, and how."""

    case: str  # the call, as far as it can be printed
    difference: str
    printed: str = ""  # what the student's code printed in that case
    which: tuple = ()  # stage and number of the case, and its probe


@dataclass(frozen=True)
class StageVerdict:
    """One stage of one answer."""

    name: str
    points: float
    max_points: float
    passed: bool
    exposes: str
    problem: Problem | None = None

    @property
    def score(self) -> str:
        """Its points, as people read them."""
        waits = self.passed and self.points < self.max_points
        return f"{self.points:g}/{self.max_points:g}" + (", counts once a result is right" if waits else "")


@dataclass(frozen=True)
class Verdict:
    """What an exercise's check says of an answer."""

    id: str
    title: str
    points: float
    max_points: float
    stages: tuple[StageVerdict, ...]
    started: bool = True
    misconception: str = ""  # name of the declared mistake that gives the same results
    says: str = ""  # what a teacher says to it

    @property
    def passed(self) -> bool:
        """Whether every stage passed."""
        return all(stage.passed for stage in self.stages)

    @property
    def first_failure(self) -> StageVerdict | None:
        """The most basic stage that failed."""
        return next((stage for stage in self.stages if not stage.passed), None)

    def to_dict(self) -> dict:
        """Plain data, for JSON."""
        return {**asdict(self), "passed": self.passed}

    @property
    def sign(self) -> str:
        """Right, wrong or not begun, in one character."""
        return "✓" if self.passed else "✗" if self.started else "○"

    @property
    def explanation(self) -> list[tuple[str, str]]:
        """Labelled sentences on the first failing stage: what was called, how it differs, why, what it printed."""
        stage = self.first_failure
        if stage is None:
            return []
        rows = [("call", stage.problem.case), ("difference", stage.problem.difference)] if stage.problem else []
        rows = [(label, text) for label, text in rows if text]  # hidden cases are not shown
        rows.append(("why", self.says) if self.says else ("hint", stage.exposes))
        if stage.problem and stage.problem.printed.strip():
            rows.append(("printed", stage.problem.printed.strip()))
        return rows

    def __repr__(self) -> str:
        lines = [f"{self.sign} {self.id} - {self.title}: {self.points:g} of {self.max_points:g} points"]
        if not self.started:
            lines.append("  not started: the function still raises NotImplementedError")
        else:
            lines += [f"  {'✓' if stage.passed else '✗'} {stage.name} ({stage.score})" for stage in self.stages]
            lines += [f"  {label + ':':<12}{text}".replace("\n", "\n" + " " * 14) for label, text in self.explanation]
        return "\n".join(lines)
