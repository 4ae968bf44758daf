"""Unit 02: magnitude pruning and retraining."""

from autograder.exercises.magnitude.global_masks import global_
from autograder.exercises.magnitude.iterative import iterative
from autograder.exercises.magnitude.masked_step import masked_step
from autograder.exercises.magnitude.prune import prune
from autograder.exercises.magnitude.schedule import schedule
from autograder.exercises.magnitude.sparsity import sparsity

EXERCISES = (sparsity, prune, global_, masked_step, schedule, iterative)
