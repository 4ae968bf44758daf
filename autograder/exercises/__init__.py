"""The declarations: the name of a unit, or the id of an exercise, comes in; exercises go out.

There is a package per unit, found by the unit's name, with a file per exercise. Where the misconceptions would make `prune.py`
long, they stand in `prune_mistakes.py`, which `prune.py` imports.
"""

import difflib
import importlib

from autograder.checking.exercise import Exercise

# in lecture order; "02_magnitude" is declared in magnitude/
UNITS = (
    "01_patterns",
    "02_magnitude",
    "03_optimal_brain",
    "04_sparsegpt",
    "05_wanda",
    "06_lottery_tickets",
    "07_minitron",
    "08_mixture_of_experts",
    "09_training_the_router",
    "10_h2o",
    "11_quest",
    "12_mla",
    "13_deja_vu",
    "14_teal",
    "15_two_four",
    "16_sparse_gemv",
    "17_combination",
)


def unit_named(name: str) -> str:
    """The unit that somebody means.

    Args:
        name: "05_wanda", "wanda", "05" or "5".

    Returns:
        One of `UNITS`.

    Raises:
        ValueError: none is called so.
    """
    found = [unit for unit in UNITS if name in (unit, *unit.split("_", 1), unit.split("_")[0].lstrip("0"))]
    if not found:
        raise ValueError(f"unit must be one of {', '.join(UNITS)}, or its number, got {name!r}")
    return found[0]


def exercises_of(unit: str) -> tuple[Exercise, ...]:
    """The exercises of a unit, in order.

    Args:
        unit: one of `UNITS`.

    Returns:
        Its exercises.

    Raises:
        ValueError: the unit is unknown.
    """
    if unit not in UNITS:
        raise ValueError(f"unit must be one of {', '.join(UNITS)}, got {unit!r}")
    return importlib.import_module(f"autograder.exercises.{unit.split('_', 1)[1]}").EXERCISES


def all_exercises() -> tuple[Exercise, ...]:
    """Every exercise of the course, in order."""
    return tuple(exercise for unit in UNITS for exercise in exercises_of(unit))


def unit_of(id: str) -> str:
    """The unit that an exercise belongs to."""
    return next(unit for unit in UNITS if unit.split("_", 1)[1] == id.split(".")[0])


def number_of(id: str) -> str:
    """The number that an exercise has in the notebooks, such as "2.5"."""
    unit = unit_of(id)
    return f"{int(unit.split('_')[0])}.{exercises_of(unit).index(find(id)) + 1}"


def find(id: str) -> Exercise:
    """The exercise with an id.

    Args:
        id: such as "magnitude.prune".

    Returns:
        The exercise.

    Raises:
        ValueError: there is none; the message names the nearest ones.
    """
    known = {exercise.id: exercise for exercise in all_exercises()}
    if id not in known:
        near = difflib.get_close_matches(str(id), known, n=3, cutoff=0.4)
        advice = f"did you mean {' or '.join(near)}?" if near else f"the units are {', '.join(UNITS)}"
        raise ValueError(f"unknown exercise {id!r}; {advice}")
    return known[id]
