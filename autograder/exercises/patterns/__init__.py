"""Unit 01: sparsity patterns and what a sparse matrix costs to store."""

from autograder.exercises.patterns.bitmap import bitmap
from autograder.exercises.patterns.block import block
from autograder.exercises.patterns.break_even import even
from autograder.exercises.patterns.drop_smallest import drop
from autograder.exercises.patterns.n_m import n_m
from autograder.exercises.patterns.two_four import two_four

EXERCISES = (drop, n_m, block, bitmap, two_four, even)
