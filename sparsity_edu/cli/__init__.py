"""The command line `sparsity-edu`: fetch a model, measure its perplexity, prune it, compare ways to prune it,
shrink it; write with it, and find needles, with caches of few tokens; let its layers skip small inputs;
evaluate recipes that do several of these together, and search for the best.

A file per command. Heavy imports wait until an option has been looked at: `--help`, and what is wrong, come at once.
"""

import typer

from sparsity_edu.cli.compare import compare
from sparsity_edu.cli.errors import one_sentence
from sparsity_edu.cli.evaluate import evaluate
from sparsity_edu.cli.fetch import fetch
from sparsity_edu.cli.generate import generate
from sparsity_edu.cli.needle import needle
from sparsity_edu.cli.perplexity import perplexity
from sparsity_edu.cli.prune import prune
from sparsity_edu.cli.search import search
from sparsity_edu.cli.shrink import shrink
from sparsity_edu.cli.sparsify import sparsify
from sparsity_edu.cli.with_recipe import apply

app = typer.Typer(
    help="Sparsity for efficient LLM inference: models and measurements of the course.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (fetch, perplexity, prune, compare, shrink, sparsify, generate, needle, apply, evaluate, search):
    app.command()(one_sentence(command))
