"""What slips in an editor, a mail program, or at the end of a long day: whatever the student saw run counts.

Honest answers are worth 12 points: sparsity 2, prune 4, global 3, schedule 3; with masked_step and iterative, 4 each, it is 20.
"""

import io
import zipfile
from copy import deepcopy

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from autograder.lessons.layout import notebook_path, without_outputs
from tests.courses import ROOT

from .papers import NOTEBOOK, SHAM, submission

ALL = ("sparsity", "prune", "global", "masked_step", "schedule", "iterative")
IMPORTS = "import copy\nimport torch\nimport torch.nn.functional as F\nfrom torch import nn"


def paste(paper, name, source, below=False):
    """A cell with the grade_id of another one, beside it."""
    cell = deepcopy(paper.cell(name))
    cell.id, cell.source = f"pasted-{len(paper.notebook.cells)}", source
    paper.notebook.cells.insert(paper.at(name) + below, cell)


def split(paper, name, at):
    """What Split Cell does."""
    source = paper.cell(name).source
    paste(paper, name, source[:at].strip("\n"))
    paper.cell(name).source = source[at:].strip("\n")


def as_colab_does(paper):
    """All of nbgrader's metadata gone, in an older format."""
    for i, cell in enumerate(paper.notebook.cells):
        cell.metadata = {"id": f"colab{i}"}
        del cell["id"]
    paper.notebook |= {"nbformat_minor": 0, "metadata": {"colab": {"provenance": []}}}


def all_of(paper):
    return "\n\n".join([IMPORTS, *(paper.solutions[f"magnitude-{name}"] for name in ALL)])


@submission(
    "split and pasted cells", points=20, says=("magnitude-prune was split into 2 cells", "all of it runs, in its order")
)
def _(paper):
    paper.honest("masked_step", "iterative")
    split(paper, "prune", paper.cell("prune").source.index("    pruned = "))
    split(paper, "iterative", paper.cell("iterative").source.index("for ") + 2)
    paste(paper, "sparsity", paper.released["magnitude-sparsity"])
    paste(paper, "global", SHAM["global"])
    paste(paper, "masked_step", paper.released["magnitude-masked_step"], below=True)
    right = paper.cell("schedule").source
    helper = right.replace("cubic_sparsity", "smooth")
    paper.cell("schedule").source = "def cubic_sparsity(*args, **kwargs):\n    return smooth(*args, **kwargs)"
    paste(paper, "schedule", helper)
    paste(paper, "schedule-check", "rate = 3")


@submission("all in one cell at the bottom, saved by Colab", points=20, says="was answered in another cell")
def _(paper):
    paper.blank("sparsity", "prune", "global", "schedule")
    paper.notebook.cells += [new_markdown_cell("# My answers"), new_code_cell(all_of(paper))]
    as_colab_does(paper)


@submission("nothing but one cell", points=20, says=("recognised by what it defines", "magnitude.ipynb.txt was taken"))
def _(paper):
    paper.name = f"{NOTEBOOK}.txt"  # as a mail program calls it
    paper.notebook = new_notebook(cells=[new_code_cell(all_of(paper))])


@submission(
    "an untouched notebook beside the solved one",
    points=12,
    says="magnitude (1).ipynb was taken as magnitude.ipynb, which is without",
)
def _(paper):
    paper.file("magnitude (1).ipynb", paper.text())
    paper.blank("sparsity", "prune", "global", "schedule")
    paper.data = paper.text().rstrip().encode()


@submission("a zip of the folder", points=12, says="02_magnitude/magnitude.IPYNB in Hand-in.zip was taken as magnitude.ipynb")
def _(paper):
    paper.answer("sparsity", f"from data.helper import *\n\n{paper.cell('sparsity').source}\n\nassert helped() == 3")
    with zipfile.ZipFile(data := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("02_magnitude/magnitude.IPYNB", paper.text())
        archive.writestr("02_magnitude/data/helper.py", "def helped(): return 3")
        archive.writestr("__MACOSX/02_magnitude/._magnitude.IPYNB", "x")
    paper.file("Hand-in.zip", data.getvalue())
    paper.name = ""


@submission("helpers in odd places", points=20, says="magnitude-prune-check had been changed; it is as released")
def _(paper):
    """In a check; in test.py, which Python has too; a function with the name of one of Python's; a compiled one."""
    paper.honest("masked_step", "iterative")
    right = paper.cell("prune").source
    paper.cell("prune").source = "def magnitude_prune(W, sparsity):\n    return pruned_by_size(W, sparsity)"
    check = paper.cell("prune-check")
    check.source = f"{right.replace('magnitude_prune', 'pruned_by_size')}\n\n{check.source}"
    paper.file("test.py", paper.cell("schedule").source.replace("cubic_sparsity", "cubic"))
    paper.answer(
        "schedule", "from test import cubic\n\ndef cubic_sparsity(*args, **kwargs):\n    return cubic(*args, **kwargs)"
    )
    paper.after("sparsity", "def __import__(name, *args):\n    return 'mine'")
    paper.cell("sparsity").source = f"@torch.compile\n{paper.cell('sparsity').source}"


@submission("four noisy figures", points=20)
def _(paper):
    paper.honest("masked_step", "iterative")
    paper.after(
        "prune-check",
        """
        import io
        from IPython.display import Image, display
        from PIL import Image as Picture
        for _ in range(4):
            noise = torch.randint(0, 256, (1800, 1800, 3), dtype=torch.uint8)
            Picture.fromarray(noise.numpy()).save(file := io.BytesIO(), "png")
            display(Image(file.getvalue()))""",
    )


@submission(
    "the notebook of another unit", points=0, says="this is the notebook of unit 04 (SparseGPT); nothing of it counts here"
)
def _(paper):
    paper.notebook = without_outputs(nbformat.read(notebook_path(ROOT / "solutions", "04_sparsegpt"), as_version=4))
