"""Unit 04: SparseGPT."""

from autograder.exercises.sparsegpt.block import block
from autograder.exercises.sparsegpt.column import column
from autograder.exercises.sparsegpt.factor import factor
from autograder.exercises.sparsegpt.hessian import hessian
from autograder.exercises.sparsegpt.n_m import n_m
from autograder.exercises.sparsegpt.prune import prune

EXERCISES = (hessian, factor, column, block, prune, n_m)
