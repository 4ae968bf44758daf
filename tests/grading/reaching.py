"""Submissions that reach for what is not theirs: answers, seeds, grades, and the browser of whoever reads their feedback.

Honest answers are worth 12 points: sparsity 2, prune 4, global 3, schedule 3. Where one cheats, its answer is wrong: had the
trick worked, there would be more points than declared.
"""

from .papers import PRUNED_NOTHING, submission

# Looking for the answers


@submission("calls the reference", points=2, says=("uses sparsity_edu.weights", "No module named 'sparsity_edu.weights'"))
def _(paper):
    paper.answer(
        "prune",
        """
        def magnitude_prune(W, sparsity):
            from sparsity_edu.weights.magnitude import prune
            return prune(W, sparsity)
        """,
    )
    paper.answer(
        "global",
        """
        import importlib, inspect
        exec(inspect.getsource(importlib.import_module("autograder.exercises." + "magnitude")))
        global_masks = global_.reference
        """,
    )
    paper.answer(
        "schedule",
        """
        import glob, sys
        for folder in [*sys.path, "/", "/student", "ROOT", "ROOT/.git/objects", "/proc/*/cwd", "/proc/*/root"]:
            for path in glob.glob(folder + "/**/magnitude.py", recursive=folder not in ("/", "/proc/*/root")):
                exec(open(path).read())
        """,
    )


@submission("reads solutions and other submissions", points=5, says=("magnitude.prune: uses solutions", PRUNED_NOTHING))
def _(paper):
    paper.sham("global")
    paper.after(
        "sparsity-check",
        """
        import glob, json, os

        def found(defines, *patterns):
            for pattern in patterns:
                for path in glob.glob(pattern, recursive=True):
                    for cell in json.load(open(path))["cells"]:
                        source = "".join(cell["source"])
                        if "def " + defines in source and "NotImplementedError" not in source:
                            return source
            return "pass"
        """,
    )
    up = ["../" * levels for levels in range(1, 8)]
    paper.answer(
        "prune",
        f"""
        places = ["ROOT/solutions/**/*.ipynb", "/proc/1/root/**/solutions/**/*"]
        exec(found("magnitude_prune", *places, *(up + "solutions/**/*.ipynb" for up in {up})))
        """,
    )
    paper.after("prune-check", 'exec(found("global_masks", "../../*/*/*.ipynb", "ROOT/grading/submitted/**/*.ipynb"))')
    cell = paper.notebook.cells.pop(paper.at("prune-check") + 1)
    paper.cell("global").source += f"\n{cell.source}"


@submission("looks for seeds and secrets in the environment", points=8, says="uses /proc")
def _(paper):
    paper.answer(
        "prune",
        """
        import glob, os
        print(dict(os.environ))
        for path in [*glob.glob("/proc/*/environ"), *glob.glob("/proc/*/cmdline"), "ROOT/grading/secret", "../../../secret"]:
            try:
                print(path, open(path, "rb").read())
            except OSError as error:
                print(path, error)

        def magnitude_prune(W, sparsity):
            return W
        """,
    )


@submission("writes gradebook, verdicts and results", points=8, says=("uses sqlite3", PRUNED_NOTHING))
def _(paper):
    paper.sham("prune")
    paper.after(
        "prune",
        """
        import glob, os, sqlite3
        for levels in range(8):
            for path in ["../" * levels + "gradebook.db", "../" * levels + "grading/gradebook.db", "ROOT/grading/gradebook.db"]:
                try:
                    with sqlite3.connect(f"file:{path}?mode=rw", uri=True) as gradebook:
                        gradebook.execute("update grade set manual_score = 99")
                except sqlite3.Error as error:
                    print(path, error)
        for folder in ["ROOT/grading/verdicts/00", "ROOT/grading/intake", "/judge", "/student", "ROOT/solutions", "results"]:
            try:
                os.makedirs(folder, exist_ok=True)
                open(f"{folder}/results.json", "w").write('{"score": 99}')
            except OSError as error:
                print(folder, error)
        """,
    )


@submission("answers the judge itself", points=2, says="an answer of 4611686018427387904 bytes; at most")
def _(paper):
    """Three snapshots of its own making: a pickle, a frame without end, and an outcome of an unknown kind."""
    paper.sham("prune", "global", "schedule")
    paper.after(
        "sparsity-check",
        """
        import os, pickle, socket, struct
        import autograder.inside.answer as judge

        class Payload:
            def __reduce__(self):
                return os.system, ("touch ROOT/pwned /tmp/TOKEN",)

        unknown = b'{"__metadata__": {"value": "{\\\\"Exec\\\\": [\\\\"import os\\\\"]}"}}'
        frames = {
            "magnitude_prune": pickle.dumps(Payload()),
            "global_masks": struct.pack("<Q", 2**60) + bytes(1000),
            "cubic_sparsity": struct.pack("<Q", len(unknown)) + unknown,
        }

        def forged(case_socket, name, namespace):
            while True:
                judge.receive(case_socket)
                case_socket.sendall(struct.pack("<Q", 2**62 if name == "global_masks" else len(frames[name])) + frames[name])

        judge._answer = forged
        """,
    )


@submission("carries hidden inputs out", points=8, says=PRUNED_NOTHING)
def _(paper):
    """Whatever it is asked, its other copy tells: through memory that all its processes share, and through a file."""
    paper.answer(
        "prune",
        """
        import mmap
        shared = mmap.mmap(-1, 2**20)

        def magnitude_prune(W, sparsity):
            asked = repr(W.tolist()).encode()
            open("/tmp/asked", "ab").write(asked)
            print(shared[: shared.tell()].decode()[:1500], open("/tmp/asked").read()[-1500:])
            shared.seek(0)
            shared.write(asked)
            raise KeyError(open("/tmp/asked").read()[:250])
        """,
    )


# What people see, and where they click


@submission("live feedback", points=8, says="got <script>pwned()</script>")
def _(paper):
    paper.after(
        "sparsity-check", "<script>pwned()</script> [a link](javascript:pwned()) <img src=x onerror=pwned()>", text=True
    )
    paper.after(
        "sparsity-check",
        """
        from IPython.display import HTML, SVG, Javascript, Latex, Markdown, display
        script = "</pre><script>pwned()</script>"
        for shown in (script, f"<iframe srcdoc='{script}'></iframe>", "<a href='javascript:pwned()'>a</a>"):
            display(HTML(shown), Markdown(shown), Latex("$\\href{javascript:pwned()}{" + shown + "}$"))
        display(SVG(f"<svg xmlns='http://www.w3.org/2000/svg' onload='pwned()'>{script[6:]}</svg>"), Javascript("pwned()"))
        display({"application/vnd.jupyter.widget-view+json": {"model_id": "pwned"}, "image/png": script}, raw=True)
        display({"text/plain": script, "image/jpeg": "x' onerror='pwned()"}, raw=True)
        print("\\x1b[31;1mred\\x1b[0m \\x1b]8;;javascript:pwned()\\x07link\\x1b]8;;\\x07", script, "\\u202eevil\\u2066")
        1 / 0  # </pre><script>pwned()</script> \u202e
        """,
    )
    paper.answer(
        "prune",
        """
        bad = type("<script>pwned()</script>", (KeyError,), {})

        def magnitude_prune(W, sparsity):  # <script>pwned()</script>
            print("<script>pwned()</script> \\x1b[31m \\u202e")
            raise bad("<img src=x onerror=pwned()>")
        """,
    )


def _odd_name(paper):
    paper.blank("sparsity", "prune", "global", "schedule")


submission("a formula as a name", 0, folder='=HYPERLINK("A1"),x', student="=HYPERLINK(~22A1~22),x")(_odd_name)
submission("a name that turns around", 0, folder="ada\u202egro.exe", student="ada~E2~80~AEgro.exe")(_odd_name)
submission("a name that climbs", 0, folder="..;<b onclick=pwned()>..", student="~2E.;~3Cb onclick=pwned()~3E..")(_odd_name)


@submission("a forged time", points=12, says="timestamp.txt (a time before 2000 or in the future)")
def _(paper):
    paper.file("timestamp.txt", "1970-01-01 00:00:00 UTC")


@submission("a time that is none", points=12, says="timestamp.txt (no time can be read from it)")
def _(paper):
    paper.file("timestamp.txt", "'; drop table grade; --" + "9" * 70)
