"""Unit 16: kernels that skip the weights of small inputs, and the roofline."""

from autograder.exercises.sparse_gemv.atomic import atomic
from autograder.exercises.sparse_gemv.gather import gather
from autograder.exercises.sparse_gemv.gemv import gemv
from autograder.exercises.sparse_gemv.partials import partials
from autograder.exercises.sparse_gemv.reduce import reduce
from autograder.exercises.sparse_gemv.rows import rows
from autograder.exercises.sparse_gemv.work import work

EXERCISES = (work, rows, partials, reduce, gemv, atomic, gather)
