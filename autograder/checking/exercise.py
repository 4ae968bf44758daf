"""What an exercise is: one declaration that serves the notebook, the grading, the solution test and the mutation test.

    prune = Exercise("magnitude.prune", defines="magnitude_prune", reference=magnitude.prune, ...)

    @prune.stage("keeps the largest weights", points=2, exposes="...")
    def _(g):                                   # g: torch.Generator, seeded per stage
        yield call(torch.randn(5, 7, generator=g), 0.4)

    @prune.misconception("signed", "You ranked the weights themselves, not their magnitudes: ...")
    def _(W, sparsity):
        ...                                     # a plausible wrong implementation

    @prune.accepts("by threshold")
    def _(W, sparsity):
        ...                                     # a right answer in another style

An exercise with many misconceptions declares them in a second file: see `Mistakes`.

Stages go from the most basic property to the subtlest. What must hold of every use of an answer needs no case of its own: each
case is probed (`Exercise.probe`, `score.probe_difference`), and one stage is charged (`Exercise.careful`). The tests prove
that the reference and every accepted answer get full marks, that every misconception is rejected, and that the untouched stub
gets nothing.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from autograder.checking.compare import Rules
from autograder.inside.case import AGAIN, STRIDED, Case


@dataclass(frozen=True)
class Stage:
    """One property of a right answer, and the cases that show it."""

    name: str
    points: float
    exposes: str  # the sentence a learner reads when it fails
    pure: bool  # whether arguments must be as they were after the call (all but those that a case `changes`)
    cases: Callable[[torch.Generator], Iterable[Case]]


@dataclass(frozen=True)
class Misconception:
    """A plausible wrong implementation, and what a good teacher would say to it."""

    name: str
    says: str
    wrong: Callable


class Mistakes(list[Misconception]):
    """Misconceptions in order, which can be declared before their exercise, in a file of their own:

        mistakes = Mistakes()

        @mistakes("signed", "You ranked the weights themselves, not their magnitudes: ...")
        def _(W, sparsity):
            ...

    The exercise takes them as `misconceptions=mistakes`. Its file imports theirs, never the other way round: a verdict that is
    kept holds as long as the exercise's file, and all that it imports, stay the same.
    """

    def __call__(self, name: str, says: str) -> Callable:
        """Declare the next plausible mistake; decorates a wrong implementation."""

        def declare(wrong):
            self.append(Misconception(name, says, wrong))
            return wrong

        return declare


@dataclass
class Known:
    """What has been worked out for a seed, and is the same for every answer."""

    cases: dict[str, list[Case]]  # by stage
    probes: dict[int, Case] = field(default_factory=dict)  # of the cases that have one, by id()
    outcomes: dict[tuple, object] = field(default_factory=dict)  # of the reference and declared mistakes


@dataclass
class Exercise:
    """A task, its cases, and the ways in which it goes wrong."""

    id: str  # "unit.task"
    defines: str  # the name the learner's cell defines
    title: str
    minutes: int
    difficulty: int  # 1 to 3
    hints: tuple[str, ...]  # markdown; in the notebook each unfolds the next: the idea, the key step, nearly the code
    reference: Callable
    reads: Callable[..., dict[int, Tensor]] | None = None  # which rows of each watched argument kernels must read; None: all
    scratch: bool = True  # whether kernels may leave as many bytes to each other as the watched arguments have
    meets: int = 0  # from so many rows of weights on, programs of a launch must add to one place; 0: they need not
    ordered: bool = False  # whether they must not, so that two runs give the same bits
    rules: Rules = field(default_factory=Rules)
    contiguous: bool = False  # whether the contract says that tensors are contiguous; else a right answer works on any
    shares: bool = False  # whether results may share memory with arguments; else they are copies
    leaves_open: tuple[tuple[int, str], ...] = ()  # positions of models, and which of their settings the answer may change
    forbids: tuple[str, ...] = ()  # dotted names whose use is flagged for a person, such as "torch.nn.utils.prune"
    stages: list[Stage] = field(default_factory=list)
    misconceptions: Mistakes = field(default_factory=Mistakes)
    accepted: dict[str, Callable] = field(default_factory=dict)
    known: dict[str, "Known"] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )  # by seed, see score.worked_out

    @property
    def unit(self) -> str:
        """The part of the id before the dot."""
        return self.id.split(".")[0]

    @property
    def points(self) -> float:
        """Points for a right answer: the sum over the stages."""
        return sum(stage.points for stage in self.stages)

    @property
    def is_class(self) -> bool:
        """Whether the learner defines a class (otherwise a function)."""
        return isinstance(self.reference, type)

    @property
    def careful(self) -> Stage:
        """The stage that is charged with the probes: the last that is about what a call may not do, else the last."""
        return next((stage for stage in reversed(self.stages) if stage.pure), self.stages[-1])

    def probe(self, case: Case, others: list[Case]) -> Case | None:
        """A case's probe, in which the answer is used twice, in turns; kernels take too long for that.

        Args:
            case: a case that gives a result.
            others: those of its stage; of a class, the next one makes the second object, so that it holds something else.

        Returns:
            The probe, or None if its kernels are watched.
        """
        kind, at = AGAIN if self.contiguous else STRIDED, [other is case for other in others].index(True)
        beside = others[(at + 1) % len(others)] if self.is_class else None
        return replace(case, probe=kind, beside=beside, gradients=()) if case.watched is None else None

    def stage(self, name: str, *, points: float, exposes: str, pure: bool = False) -> Callable:
        """Declare the next stage; decorates the generator of its cases, which is given a seeded `torch.Generator`."""

        def declare(cases):
            self.stages.append(Stage(name, points, exposes, pure, cases))
            return cases

        return declare

    def misconception(self, name: str, says: str) -> Callable:
        """Declare the next plausible mistake; decorates a wrong implementation."""
        return self.misconceptions(name, says)

    def accepts(self, style: str) -> Callable:
        """Declare a right answer in another style; decorates the implementation."""

        def declare(right):
            self.accepted[style] = right
            return right

        return declare

    def cases(self, stage: Stage, seed: str) -> list[Case]:
        """The cases of a stage for a seed; equal seeds give equal cases on every machine.

        Args:
            stage: one of `self.stages`.
            seed: any text; "public" in the notebook.

        Returns:
            The cases.
        """
        digest = hashlib.sha256(f"{seed}/{self.id}/{stage.name}".encode()).digest()
        number = int.from_bytes(digest[:8], "little") >> 1
        with torch.random.fork_rng(devices=[]):  # layers draw their first weights from torch's own generator
            torch.default_generator.manual_seed(number)
            return list(stage.cases(torch.Generator().manual_seed(number)))
