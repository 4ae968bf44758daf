"""Unit 14: activations, TEAL."""

from autograder.exercises.teal.allocate import allocate
from autograder.exercises.teal.error import error
from autograder.exercises.teal.histogram import histogram
from autograder.exercises.teal.layers import layers
from autograder.exercises.teal.read import read
from autograder.exercises.teal.sparsify import sparsify
from autograder.exercises.teal.threshold import threshold

EXERCISES = (histogram, threshold, sparsify, layers, error, allocate, read)
