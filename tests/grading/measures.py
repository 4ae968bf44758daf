"""Submissions that reach for what measures them, or hold what nobody seems to count.

Honest answers are worth 12 points: sparsity 2, prune 4, global 3, schedule 3.
"""

from .papers import submission


@submission(
    "changes its argument and patches the comparison",
    points=11,
    says=("the argument W: expected left as it was", "uses autograder", "uses gc.get_objects", "uses sys.setprofile"),
)
def _(paper):
    """By a computed name, through the garbage collector, and through the frames of a profiler."""
    kept = "return pruned.view(W.shape)"
    paper.answer("prune", paper.cell("prune").source.replace(kept, f"W.copy_(pruned.view(W.shape))\n    {kept}"))
    paper.after(
        "sparsity-check",
        """
        import gc, importlib, sys

        def always(*_):
            return True

        def patch(space):
            if str(space.get("__name__")).startswith("autograder") and "equal" in space:
                space["equal"] = always

        for name in ("emoctuo", "esu", "rennur"):
            patch(vars(importlib.import_module("autograder.inside." + name[::-1])))
        for thing in gc.get_objects():
            if type(thing) is dict:
                patch(thing)
        sys.setprofile(lambda frame, *_: patch(frame.f_globals))
        """,
    )


@submission("memory in sockets", points=9, says="used more than 2 GB of memory")
def _(paper):
    """They could hold it; here they stay empty, for the sake of this machine."""
    paper.after(
        "global-check",
        """
        import os, socket, time
        for _ in range(9):
            if os.fork() == 0:
                kept = []
                try:
                    while True:
                        kept.append(socket.socketpair())
                except OSError:
                    time.sleep(100)
        time.sleep(40)
        """,
    )
