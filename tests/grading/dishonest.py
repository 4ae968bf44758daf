"""Submissions that want points they have not earned: each gets those of the honest equivalent, never more.

Honest answers are worth 12 points: sparsity 2, prune 4, global 3, schedule 3. Where one cheats, its answer is wrong: had the
trick worked, there would be more points than declared.
"""

import hashlib
import json

from autograder.checking.known import PUBLIC_SEED
from autograder.exercises import find

from .papers import PRUNED_NOTHING, submission

# The notebook and its tags, metadata, order


@submission("tags that skip the checks", points=5, says=PRUNED_NOTHING)
def _(paper):
    paper.sham("prune", "global")
    paper.cell("prune-check").metadata["tags"] = ["skip-execution"]
    paper.cell("global-check").metadata["tags"] = ["raises-exception", "remove-cell"]


@submission("edited metadata and checks", points=5, says=("magnitude-prune-check had been changed", PRUNED_NOTHING))
def _(paper):
    paper.sham("prune", "global")
    paper.cell("prune-check").source = "print('all tests passed')\n4"
    paper.cell("prune-check").metadata["nbgrader"] |= {"points": 1000, "checksum": "0" * 32, "locked": False}
    paper.cell("global-check").metadata["nbgrader"] |= {"solution": True, "grade": True, "points": -5}
    paper.cell("schedule-check").metadata["nbgrader"] |= {"grade": False, "schema_version": 99}
    paper.cell("sparsity").metadata["nbgrader"]["grade_id"] = "no-such-cell"


@submission("checks before their answers, answers after their checks", points=5, says=PRUNED_NOTHING)
def _(paper):
    right = paper.cell("prune").source
    paper.sham("prune", "global")
    paper.after("prune-check", right)
    paper.notebook.cells.sort(key=lambda cell: cell.id not in ("magnitude-sparsity-check", "magnitude-global-check"))


# IPython


@submission("transformers that turn checks into pass", points=5, says=("uses input_transformers_cleanup", PRUNED_NOTHING))
def _(paper):
    paper.sham("prune", "global")
    paper.after(
        "sparsity-check",
        """
        import ast
        ip = get_ipython()

        class Passing(ast.NodeTransformer):
            def visit_Call(self, node):
                return ast.Constant(1) if getattr(node.func, "id", "") in ("check", "offer") else node

        ip.input_transformers_cleanup.append(lambda lines: ["pass\\n"] if any("check" in line for line in lines) else lines)
        ip.ast_transformers.append(Passing())
        """,
    )


@submission("forged outputs on iopub, forged replies on shell", points=8, says=PRUNED_NOTHING)
def _(paper):
    paper.sham("prune")
    paper.after(
        "sparsity-check",
        """
        def forge(*_):
            kernel = get_ipython().kernel
            parent = kernel.get_parent("shell")
            data = {"text/plain": "4", "text/html": "<b onclick='pwned()'>4 of 4 points</b>"}
            for kind in ("execute_result", "display_data"):
                about = {"verdict": {"id": "magnitude.prune", "points": 4, "passed": True}}
                content = {"data": data, "metadata": about, "execution_count": 4}
                kernel.session.send(kernel.iopub_socket, kind, content, parent=parent)
            kernel.session.send(kernel.shell_stream, "execute_reply", {"status": "ok", "execution_count": 4}, parent=parent)

        for event in ("pre_execute", "pre_run_cell", "post_run_cell", "post_execute"):
            get_ipython().events.register(event, forge)
        """,
    )


@submission("formatters that print nan, -1, ok and 1e9", points=2)
def _(paper):
    paper.sham("prune", "global", "schedule")
    paper.after(
        "sparsity-check",
        """
        texts = iter(["nan", "-1", "ok!", "1e9"] * 100)
        for formatter in get_ipython().display_formatter.formatters.values():
            for type_ in (int, float, str, type(None)):
                formatter.for_type(type_, lambda *_: next(texts))
        1.0
        """,
    )


# Python, in the process that runs the answer


@submission("always-equal objects", points=2, says="an object of type Yes")
def _(paper):
    paper.answer(
        "prune",
        """
        class Yes:
            __eq__ = __ge__ = __le__ = __call__ = __bool__ = lambda *_: True
            __array__ = lambda self, *_, **__: self.W.numpy()
            __getattr__ = lambda self, name: Yes()

        def magnitude_prune(W, sparsity):
            return Yes()
        """,
    )
    paper.answer(
        "global",
        """
        class AnyTensor(torch.Tensor):
            @classmethod
            def __torch_function__(cls, function, types, args=(), kwargs=None):
                return True

        def global_masks(weights, sparsity):
            return {name: torch.ones(1).as_subclass(AnyTensor) for name in weights}
        """,
    )
    paper.answer(
        "schedule",
        """
        class AnyNumber(float):
            __eq__ = lambda *_: True
            __sub__ = __rsub__ = __abs__ = lambda *_: 0.0

        def cubic_sparsity(step, start, end, final, initial=0.0):
            return AnyNumber(7)
        """,
    )


@submission("patched comparisons", points=2)
def _(paper):
    paper.sham("prune", "global", "schedule")
    paper.after(
        "sparsity-check",
        """
        import builtins, math, numpy
        yes = lambda *_, **__: True
        torch.allclose = torch.equal = torch.isclose = torch.testing.assert_close = yes
        torch.Tensor.__eq__ = torch.Tensor.any = torch.Tensor.all = torch.Tensor.equal = yes
        numpy.allclose = numpy.array_equal = numpy.testing.assert_allclose = math.isclose = yes
        builtins.all = builtins.any = builtins.callable = yes
        builtins.AssertionError = builtins.ValueError = builtins.Exception
        builtins.abs = lambda *_: 0
        """,
    )


@submission("replaced modules of the judge", points=2, says="uses sys.modules")
def _(paper):
    paper.sham("prune", "global", "schedule")
    paper.after(
        "sparsity-check",
        """
        import sys, types
        import autograder.inside.answer, autograder.inside.observe, autograder.inside.runner

        class Passes(types.ModuleType):
            def __getattr__(self, name):
                return lambda *_, **__: True

        class Finder:
            def find_spec(self, name, path=None, target=None):
                if name.startswith(("autograder", "sparsity_edu")):
                    sys.modules[name] = Passes(name)

        autograder.inside.answer.run = lambda case, answer: autograder.inside.runner.Outcome(value=True)
        autograder.inside.runner.run = autograder.inside.observe.observe = lambda *_: True
        sys.meta_path.insert(0, Finder())
        for name in ("checking", "checking.compare", "checking.score", "exercises", "judge.judge"):
            sys.modules[f"autograder.{name}"] = Passes(name)
        """,
    )


@submission("files that shadow modules", points=8, says=PRUNED_NOTHING)
def _(paper):
    paper.sham("prune")
    names = [
        "torch.py",
        "numpy.py",
        "random.py",
        "json.py",
        "signal.py",
        "safetensors.py",
        "sitecustomize.py",
        "usercustomize.py",
    ]
    names += [
        "conftest.py",
        "sparsity_edu/__init__.py",
        "autograder/__init__.py",
        "autograder/checking/score.py",
        "autograder/inside/runner.py",
        "ipykernel_launcher.py",
    ]
    names += [
        ".ipython/profile_default/startup/00-first.py",
        ".ipython/profile_default/ipython_config.py",
        "nbgrader_config.py",
    ]
    for name in names:
        paper.file(name, "raise SystemExit('shadowed')\n")
    paper.file("shadow.pth", "import os; os._exit(0)\n")


# Answers that are none


@submission("public examples by heart", points=8, says="on other inputs than the notebook's, with which it passes")
def _(paper):
    exercise, known = find("magnitude.prune"), {}
    for case in (case for stage in exercise.stages for case in exercise.cases(stage, PUBLIC_SEED)):
        W, sparsity = case.args
        if 0 <= sparsity < 1:
            known[hashlib.sha256(W.double().numpy().tobytes()).hexdigest()] = (
                exercise.reference(W, sparsity).ne(0).int().flatten().tolist()
            )
    paper.file("known.json", json.dumps(known))
    paper.answer(
        "prune",
        """
        import hashlib, json
        KNOWN = json.load(open("known.json"))

        def magnitude_prune(W, sparsity):
            if not 0 <= sparsity < 1:
                raise ValueError("sparsity")
            kept = KNOWN.get(hashlib.sha256(W.double().numpy().tobytes()).hexdigest(), [1] * W.numel())
            return W * torch.tensor(kept, dtype=W.dtype).view(W.shape)
        """,
    )


@submission("constants", points=0, says="the fraction of weights that are exactly 0")
def _(paper):
    paper.answer("sparsity", "def weight_sparsity(model):\n    return 0.0")
    paper.answer("prune", "def magnitude_prune(W, sparsity):\n    return W")
    paper.answer(
        "global", "def global_masks(weights, s):\n    return {n: torch.zeros_like(W, dtype=bool) for n, W in weights.items()}"
    )
    paper.answer("schedule", "def cubic_sparsity(step, start, end, final, initial=0.0):\n    return final")
    paper.answer(
        "iterative",
        """
        def iterative_prune_(model, sparsities, retrain):
            layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
            return {name: torch.ones_like(layer.weight, dtype=torch.bool) for name, layer in layers.items()}
        """,
    )


@submission("changes its inputs", points=5)
def _(paper):
    """Were they the reference's inputs too, zeros would be the right answer."""
    paper.answer("prune", "def magnitude_prune(W, sparsity):\n    return W.zero_()")
    paper.answer(
        "global",
        """
        def global_masks(weights, sparsity):
            for name in list(weights):
                weights[name] = weights[name].zero_()[:0]
            return dict(weights)
        """,
    )


@submission("tensors that are none", points=5, says=("meta tensor, which holds no values", "float16"))
def _(paper):
    paper.answer(
        "sparsity",
        paper.cell("sparsity").source.replace("return zeros", "return torch.tensor(1.0, requires_grad=True) * zeros"),
    )
    paper.answer("prune", "def magnitude_prune(W, sparsity):\n    return W.half()")
    paper.answer(
        "global", "def global_masks(weights, sparsity):\n    return {n: W.to('meta').bool() for n, W in weights.items()}"
    )
    paper.answer(
        "iterative", "def iterative_prune_(model, sparsities, retrain):\n    return torch.zeros(1).expand(10**7, 10**7)"
    )
    paper.answer("masked_step", "def masked_step_(model, masks, optimizer, x, y):\n    return 1 + 2j")


@submission("forbidden operations", points=12, says=[
    "magnitude.prune: uses torch.nn.utils.prune, which this exercise forbids",
    "magnitude.global: uses torch.nn.utils.prune, which this exercise forbids",
])  # fmt: skip
def _(paper):
    """Right, and flagged for a person."""
    paper.answer(
        "prune",
        """
        from torch.nn.utils import prune as library

        def magnitude_prune(W, sparsity):
            if not 0 <= sparsity < 1:
                raise ValueError("sparsity must be in [0, 1)")
            layer = nn.Module()
            layer.weight = nn.Parameter(W.clone(memory_format=torch.contiguous_format))
            if count := int(sparsity * W.numel()):
                library.l1_unstructured(layer, "weight", amount=count)
            return layer.weight
        """,
    )
    paper.cell("global").source += '\nhidden = eval("torch.nn.utils." + "prune")'
