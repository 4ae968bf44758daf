"""Unit 10: H2O."""

from autograder.exercises.h2o.accumulate import accumulate
from autograder.exercises.h2o.attend import attend
from autograder.exercises.h2o.cache import cache
from autograder.exercises.h2o.choose import choose
from autograder.exercises.h2o.evict import evict
from autograder.exercises.h2o.worth import worth

EXERCISES = (attend, accumulate, worth, choose, evict, cache)
