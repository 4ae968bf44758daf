"""Submissions in which something went wrong: what works is scored, and a sentence tells what does not.

Honest answers are worth 12 points: sparsity 2, prune 4, global 3, schedule 3.
"""

import json
from copy import deepcopy

from .papers import submission

# The file


@submission("a truncated notebook", points=6, says="the notebook was cut off or damaged")
def _(paper):
    text = paper.text()
    paper.data = text[: text.index("def global_masks")].encode()


@submission("merge conflicts", points=12, says="unresolved merge conflicts")
def _(paper):
    lines = paper.text().split("\n")
    at = next(i for i, line in enumerate(lines) if "def magnitude_prune" in line)
    ours, theirs = lines[at], lines[at].replace("sparsity", "amount")
    lines[at : at + 1] = ["<<<<<<< HEAD", ours, "=======", theirs, ">>>>>>> 1a2b3c4"]
    paper.data = "\n".join(lines).encode()


@submission("Windows line ends and a byte-order mark", points=12, says="byte-order mark")
def _(paper):
    paper.data = b"\xef\xbb\xbf" + paper.text().replace("\\n", "\\r\\n").replace("\n", "\r\n").encode()


@submission("not UTF-8", points=12, says="not saved as UTF-8")
def _(paper):
    paper.after("prune-check", "# Größe der Gewichte: é è ü", text=True)
    paper.data = paper.text().replace("·", " ").encode("latin-1", "replace")


@submission("emoji", points=12)
def _(paper):
    paper.cell("prune").source += "\nprint('🎉 fertig — 完了')  # 🎉"
    paper.file("märz 🎉.txt", "🎉")


@submission("50 MB of outputs", points=12)
def _(paper):
    cell = paper.cell("prune")
    cell.outputs = [{"output_type": "stream", "name": "stdout", "text": "x" * 50_000_000}]


@submission("an empty file", points=0, says="the notebook is an empty file")
def _(paper):
    paper.data = b""


@submission("a notebook without cells", points=0, says="magnitude-prune was missing")
def _(paper):
    paper.notebook.cells = []


@submission("no notebook", points=0, says="the submission holds no notebook")
def _(paper):
    paper.file("essay.txt", "I will hand it in tomorrow.")
    paper.name = ""


@submission("renamed", points=12, says="was taken as magnitude.ipynb")
def _(paper):
    paper.name = "Magnitude pruning (final).ipynb"


@submission("a copy beside it", points=12, says="magnitude-Copy1.ipynb was taken as magnitude.ipynb")
def _(paper):
    paper.name = "magnitude-Copy1.ipynb"


# What editors do


@submission("saved by Colab", points=12, says="recognised by what it defines")
def _(paper):
    for i, cell in enumerate(paper.notebook.cells):
        cell.metadata = {"id": f"colab{i}", "outputId": f"output{i}"}
        cell.source += "\n"
        del cell["id"]
    paper.notebook |= {"nbformat_minor": 0}
    paper.notebook.metadata = {"colab": {"provenance": []}, "kernelspec": {"name": "python3", "display_name": "Python 3"}}


@submission("saved by VS Code", points=12)
def _(paper):
    for cell in paper.notebook.cells:
        cell.metadata["vscode"] = {"languageId": "python"}
        del cell["id"]
    paper.notebook |= {"nbformat_minor": 4}


@submission("a check deleted, an answer duplicated", points=12, says=("prune-check was missing", "more than once"))
def _(paper):
    copy = deepcopy(paper.cell("global"))
    copy.id = "a-copy"
    paper.notebook.cells.insert(paper.at("global-check"), copy)
    paper.notebook.cells.remove(paper.cell("prune-check"))


@submission("turned into text and back", points=12, says="magnitude-prune had become a markdown cell; it is code again")
def _(paper):
    for name, kind, metadata in (("prune", "markdown", paper.cell("prune").metadata), ("global", "code", {})):
        cell = paper.cell(name)
        cell.update(cell_type=kind, metadata=metadata, id=f"new-{name}")
        if kind == "markdown":
            del cell["outputs"], cell["execution_count"]


@submission("another kernel", points=12)
def _(paper):
    paper.notebook.metadata = {"kernelspec": {"name": "julia-1.10", "display_name": "Julia", "language": "julia"}}


# The code


@submission("one not begun, one with a syntax error", points=5, says=("not started", "its cell ended with SyntaxError"))
def _(paper):
    paper.blank("prune")
    paper.answer("global", "def global_masks(weights, sparsity:\n    return {}")


@submission("run out of order", points=8, says="NameError: name 'smallest' is not defined")
def _(paper):
    paper.answer("prune", "def magnitude_prune(W, sparsity):\n    return W * smallest(W, sparsity)")
    paper.after("prune-check", "def smallest(W, sparsity):\n    return W.abs() > 0.1")
    for i, cell in enumerate(cell for cell in paper.notebook.cells if cell.cell_type == "code"):
        cell.execution_count = 1000 - i


@submission("warnings, prints, plots and progress bars", points=12)
def _(paper):
    paper.after(
        "sparsity-check",
        """
        import logging, sys, warnings
        import matplotlib.pyplot as plt
        from tqdm.auto import tqdm

        def noise():
            warnings.warn("deprecated")
            logging.warning("noted")
            print("working", file=sys.stderr)
            for _ in tqdm(range(3)):
                pass
            plt.plot([1, 2, 3])
            plt.show()

        noise()
        """,
    )
    head, docstring, body = paper.cell("prune").source.partition('    """')
    paper.cell("prune").source = f"{head}    noise()\n{docstring}{body}"


@submission("wrong dtypes and shapes", points=5, says=("expected float32, got float64", "expected (3, 4), got (12,)"))
def _(paper):
    paper.cell("sparsity").source = paper.cell("sparsity").source.replace(
        "return zeros", "return torch.tensor(1.0).double() * zeros"
    )
    paper.cell("prune").source = paper.cell("prune").source.replace("return pruned", "return pruned.double()")
    paper.cell("global").source = paper.cell("global").source.replace("piece.view(W.shape)", "piece")


@submission("strided, transposed and sparse results", points=12)
def _(paper):
    pruned, piece = (
        "torch.stack([pruned, pruned], 1)[:, 0].view(W.shape).t().contiguous().t()",
        "piece.view(W.shape).to_sparse()",
    )
    paper.cell("prune").source = paper.cell("prune").source.replace("pruned.view(W.shape)", pruned)
    paper.cell("global").source = paper.cell("global").source.replace("piece.view(W.shape)", piece)


@submission("code for a GPU", points=8, says="CUDA")
def _(paper):
    paper.cell("prune").source = paper.cell("prune").source.replace("W.flatten()", 'W.to("cuda").flatten()')


@submission("noise within the tolerance", points=12)
def _(paper):
    source = paper.cell("schedule").source.replace("return final", "return (torch.rand(()).item() - 0.5) * 1e-6 + final")
    paper.cell("schedule").source = source


@submission("slow but right", points=12)
def _(paper):
    paper.cell("prune").source = paper.cell("prune").source.replace(
        "pruned = ", "import time\n    time.sleep(0.1)\n    pruned = "
    )


@submission("a missing data file", points=8, says=("magnitude_prune is not defined", "its cell ended with FileNotFoundError"))
def _(paper):
    paper.answer(
        "prune", "THRESHOLDS = open('thresholds.csv').read()\n\ndef magnitude_prune(W, s):\n    return W * (W > THRESHOLDS)"
    )


@submission("another name for a function", points=9, says="its cell defines smoothly, and no cubic_sparsity")
def _(paper):
    paper.cell("schedule").source = paper.cell("schedule").source.replace("cubic_sparsity", "smoothly")


@submission("handed in again after manual grading", points=10)
def _(paper):
    """First without the last two exercises, for which a person gives one point of pity; then with all of the four."""
    paper.file("note.txt", json.dumps("the first version"))
    paper.blank("global", "schedule")
