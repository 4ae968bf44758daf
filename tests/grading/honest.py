"""Students who did nothing but their work, with more and with less success: the others must not cost them anything."""

from autograder.classroom.demo import submissions

from .papers import submission


@submission("honest", points=20)
def _(paper):
    paper.honest("masked_step", "iterative")


@submission("honest and partly right", points=15, says="expected ValueError")
def _(paper):
    paper.honest("iterative")
    head, _, rest = paper.cell("prune").source.partition("    if not 0 <=")
    paper.cell("prune").source = head + rest.partition("\n")[2].partition("\n")[2]


@submission("honest by another route", points=20)
def _(paper):
    paper.notebook = submissions(paper.root)["another-route"]


@submission("honest but mistaken", points=17, says="not |W|")
def _(paper):
    paper.notebook = submissions(paper.root)["signed-weights"]


@submission("honest but careless", points=14)
def _(paper):
    paper.notebook = submissions(paper.root)["mask-lost"]


@submission("honest and out of time", points=6)
def _(paper):
    paper.notebook = submissions(paper.root)["crashes"]


@submission("honest and not begun", points=0, says="not started")
def _(paper):
    paper.blank("sparsity", "prune", "global", "schedule")


@submission("honest with files, pictures and chance", points=12)
def _(paper):
    paper.file("notes.txt", "smallest first\n")
    paper.after(
        "prune-check",
        """
        import matplotlib.pyplot as plt
        W = torch.randn(50, 50)
        plt.hist(magnitude_prune(W, 0.5).flatten(), bins=40)
        plt.savefig("pruned.png")
        print(open("notes.txt").read(), len(open("pruned.png", "rb").read()) > 1000)""",
    )
    paper.after(
        "prune-check",
        """
        right = magnitude_prune
        def magnitude_prune(W, sparsity):
            torch.rand(3)  # moves the generator, which no result depends on
            return right(W, sparsity)""",
    )


@submission("honest with threads of torch", points=20)
def _(paper):
    """The snapshots are forks, in which a pool of threads is dead."""
    paper.honest("masked_step", "iterative")
    paper.first("import torch\ntorch.set_num_threads(4)\nA = torch.randn(700, 700)\nprint((A @ A).shape, (A.exp() + A).sum())")


@submission("honest with a variable named globals", points=20)
def _(paper):
    paper.honest("masked_step", "iterative")
    paper.after("prune-check", "globals = locals = vars = {}")


@submission("honest with processes of its own", points=12)
def _(paper):
    paper.answer(
        "prune",
        """
        import multiprocessing

        def magnitude_prune(W, sparsity):
            if not 0 <= sparsity < 1:
                raise ValueError(f"sparsity must be in [0, 1), got {sparsity}")
            with multiprocessing.get_context("fork").Pool(2) as pool:
                magnitudes = torch.tensor(pool.map(abs, W.double().flatten().tolist()), dtype=torch.float64)
            out = W.clone().flatten()
            out[magnitudes.argsort()[: int(sparsity * W.numel())]] = 0
            return out.view(W.shape)""",
    )
