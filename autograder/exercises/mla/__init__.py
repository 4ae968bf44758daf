"""Unit 12: KV cache, MLA."""

from autograder.exercises.mla.absorbed import absorbed
from autograder.exercises.mla.cache_bytes import cache_bytes
from autograder.exercises.mla.cost import cost
from autograder.exercises.mla.decode import decode
from autograder.exercises.mla.latent import latent
from autograder.exercises.mla.naive import naive
from autograder.exercises.mla.rotate import rotate

EXERCISES = (latent, rotate, naive, absorbed, decode, cache_bytes, cost)
