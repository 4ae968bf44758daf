"""Techniques together: a recipe names them, in the right order they are applied, and a model runs with all of them.

from sparsity_edu import combine, models

made = combine.make(models.load("smollm2"), combine.Recipe.load("recipe.toml"))
with combine.running(made) as run:
    made.model.generate(**prompt, past_key_values=run.new_cache())

recipe      plain data: weights, activations, cache
making      a recipe applied to a model, saved and loaded
packed      checkpoints without zeros
running     the product of each projection, and the bytes that it reads
"""

from sparsity_edu.combine.making import Made, load, make
from sparsity_edu.combine.recipe import Recipe
from sparsity_edu.combine.running import running

__all__ = ["Made", "Recipe", "load", "make", "running"]
