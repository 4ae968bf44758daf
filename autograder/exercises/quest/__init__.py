"""Unit 11: Quest."""

from autograder.exercises.quest.attend import attend
from autograder.exercises.quest.bounds import bounds
from autograder.exercises.quest.cost import cost
from autograder.exercises.quest.merge import merge
from autograder.exercises.quest.select_pages import select
from autograder.exercises.quest.upper_bound import upper

EXERCISES = (bounds, upper, select, attend, merge, cost)
