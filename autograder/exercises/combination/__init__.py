"""Unit 17: techniques together in one model."""

from autograder.exercises.combination.allocate import allocate
from autograder.exercises.combination.front import front
from autograder.exercises.combination.interaction import interaction
from autograder.exercises.combination.order import order
from autograder.exercises.combination.read import read
from autograder.exercises.combination.speedup import speedup

EXERCISES = (read, order, allocate, front, speedup, interaction)
