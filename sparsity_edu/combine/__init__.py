"""Techniques together in one model: what a step reads, in which order they are applied, and what is worth it.

    from sparsity_edu import combine, models

    made = combine.make(models.load("smollm2"), combine.Recipe.load("recipe.toml"))
    with combine.running(made) as run:
        made.model.generate(**prompt, past_key_values=run.new_cache())

Pure functions, which the course teaches:

    costs        bytes that a decode step reads, and the least time that it takes
    order        pruned weights and skipped inputs, either one calibrated first
    allocation   the cheapest settings of several techniques within a budget of quality
    front        the points that no other beats in both cost and loss
    interaction  whether two techniques hurt more together than their errors add up to

And what does it with a model:

    recipe       plain data: weights, activations, cache
    making       a recipe applied to a model, saved and loaded
    packed       checkpoints without zeros
    execution    the product of each projection, and the bytes that it reads
    choices      multiple-choice items of a text
    harness      a task of lm-eval
    evaluation   what a recipe costs and saves, a row of a table
    search       the best combination within a budget of bytes, by prediction and measurement

recipes/ and other_texts/ hold the recipes that unit 17 compares, smollm2.csv what they cost and save.
"""

from sparsity_edu.combine.execution import running
from sparsity_edu.combine.making import Made, load, make
from sparsity_edu.combine.recipe import Recipe

__all__ = ["Made", "Recipe", "load", "make", "running"]
