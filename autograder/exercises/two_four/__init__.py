"""Unit 15: the 2:4 format and its kernels."""

from autograder.exercises.two_four.gemv import gemv
from autograder.exercises.two_four.linear import linear
from autograder.exercises.two_four.places import places
from autograder.exercises.two_four.time import time
from autograder.exercises.two_four.tokens import tokens
from autograder.exercises.two_four.unpack import unpack
from autograder.exercises.two_four.words import words

EXERCISES = (places, words, unpack, time, gemv, tokens, linear)
