"""`python -m sparsity_edu` is `sparsity-edu`."""

from sparsity_edu.cli import app

app(prog_name="sparsity-edu")
