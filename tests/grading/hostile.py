"""Submissions that harm: nothing for what they did not answer before, and no harm to anything else.

Honest answers are worth 12 points: sparsity 2, prune 4, global 3, schedule 3. Where a cell ends the notebook after the check of
prune, 6 remain. `AFTER` marks a file that nobody outside of the sandbox may ever see.
"""

import json
import os
import stat
import zipfile

from .papers import NOTEBOOK, submission

# Time


@submission("infinite loops", points=9, says="took longer than", hangs=True)
def _(paper):
    """In a cell: interrupted, and the notebook goes on. In an answer: that exercise is lost."""
    paper.after("prune-check", "while True:\n    pass")
    paper.answer("schedule", "def cubic_sparsity(*args, **kwargs):\n    while True:\n        pass")


@submission("an infinite loop that ignores interrupts", points=6, says="could not be interrupted", hangs=True)
def _(paper):
    paper.after(
        "prune-check",
        """
        import signal
        for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN)
        while True:
            pass
        """,
    )


@submission("stuck inside C", points=9, says=("could not be interrupted", "no answer within"), hangs=True)
def _(paper):
    """Sleeping in an answer with all signals blocked, and one huge torch operation in a cell."""
    paper.answer(
        "global",
        """
        import ctypes, signal

        def global_masks(weights, sparsity):
            signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
            ctypes.CDLL(None).sleep(1000)
        """,
    )
    paper.after("schedule-check", "torch.linalg.svd(torch.randn(5000, 5000))")


@submission("catches every exception", points=9, says=("could not be interrupted", "no answer within"), hangs=True)
def _(paper):
    paper.answer(
        "global",
        """
        import time

        def global_masks(weights, sparsity):
            while True:
                try:
                    time.sleep(1)
                except BaseException:
                    pass
        """,
    )
    paper.after("schedule-check", "global_masks({}, 0)")


@submission("objects that never come to an end", points=2, hangs=True)
def _(paper):
    paper.first(
        """
        class Endless:
            def forever(self, *_):
                while True:
                    pass
            __repr__ = __str__ = __len__ = __iter__ = __eq__ = __hash__ = __bool__ = __del__ = __getattr__ = forever

        class EndlessDict(dict):
            items = __len__ = __iter__ = Endless.forever
        """
    )
    paper.after("sparsity-check", "class Shown:\n    __repr__ = Endless.forever\n\nShown()")
    paper.answer("prune", "def magnitude_prune(W, sparsity):\n    return Endless()")
    paper.answer("global", "def global_masks(weights, sparsity):\n    return EndlessDict()")
    paper.blank("schedule")


# Memory, disk, processes, output


@submission("64 GB, and memory that counts for nobody", points=9, says="used more than 2 GB of memory")
def _(paper):
    paper.after("sparsity-check", "everything = bytearray(64 * 2**30)")  # refused; the notebook goes on
    paper.after(
        "global-check",
        """
        import mmap
        held = [mmap.mmap(-1, 2**28) for _ in range(16)]
        for block in held:
            for page in range(0, len(block), mmap.PAGESIZE):
                block[page] = 1
        """,
    )


@submission("fills the disk", points=12)
def _(paper):
    paper.after(
        "prune-check",
        """
        for folder in ("/submission", "/tmp", "/dev/shm", "/", "/usr", "ROOT"):
            try:
                for i in range(10_000):
                    with open(f"{folder}/TOKEN-{i}", "wb") as file:
                        file.write(bytes(2**24))
            except OSError as error:
                print(folder, i, error)
        """,
    )


@submission("a million files", points=6, says="made more than 20000 files")
def _(paper):
    paper.after("prune-check", "for i in range(1_000_000):\n    open(f'/tmp/{i}', 'w').close()")


@submission("a fork bomb", points=6)
def _(paper):
    paper.blank("global", "schedule")
    paper.after(
        "prune-check",
        """
        import os
        while True:
            try:
                os.fork()
            except OSError:
                pass
        """,
    )


@submission("processes that stay", points=12)
def _(paper):
    paper.after(
        "prune-check",
        """
        import os, subprocess
        for _ in range(5):
            subprocess.Popen(["sh", "-c", "trap '' HUP INT TERM; : TOKEN; sleep 1000; :"], start_new_session=True)
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.execvp("sh", ["sh", "-c", "trap '' HUP INT TERM; : TOKEN; while :; do :; done"])
            os._exit(0)
        """,
    )


@submission("a flood of text", points=6, says="printed more than 32 MB")
def _(paper):
    paper.after("prune-check", "while True:\n    print('flood ' * 10_000)")


@submission("one line of 1 GB", points=6)
def _(paper):
    paper.blank("global", "schedule")
    paper.after("prune-check", "print('line' * 2**26 * 2)")
    paper.after("prune-check", "print('line' * 2**22)")


@submission("100,000 pictures", points=6, hangs=True)
def _(paper):
    paper.blank("global", "schedule")
    paper.after(
        "prune-check",
        """
        from IPython.display import Image, display
        picture = Image(b"\\x89PNG\\r\\n\\x1a\\n" + bytes(1000))
        for _ in range(100_000):
            display(picture)
        """,
    )


# The end


@submission("crashes and exits", points=9, says=("the process ended", "The kernel died in cell"))
def _(paper):
    paper.answer("global", "import os\n\ndef global_masks(weights, sparsity):\n    os._exit(0)")
    paper.after("schedule-check", "import ctypes\nctypes.string_at(0)")


@submission("deletes everything, and shuts down", points=6, says="The kernel died in cell")
def _(paper):
    paper.file("cell.py", "print('run')\n")
    paper.after("prune-check", "get_ipython().kernel.do_shutdown(restart=False)\nexit()\nimport os\nos.kill(os.getpid(), 9)")
    everything = "/submission /tmp /student /judge ROOT ~ .."
    paper.after("prune-check", f"%%bash\nrm -rf --no-preserve-root {everything} &> /dev/null; echo gone")
    paper.after("prune-check", "%run cell.py\n!rm -rf /submission/* ROOT/solutions ROOT/grading ../../..")


@submission("loads its own pickle", points=12)
def _(paper):
    paper.file("weights.pt", b"cos\nsystem\n(S'touch " + f"{paper.root}/pwned {paper.root.parent}/pwned".encode() + b"'\ntR.")
    paper.after(
        "sparsity-check", "import pickle\npickle.load(open('weights.pt', 'rb'))\ntorch.load('weights.pt', weights_only=False)"
    )


# The network


@submission("calls home", points=8)
def _(paper):
    """The wrong answer becomes right as soon as anything can be reached."""
    right = paper.cell("prune").source
    paper.sham("prune")
    paper.after(
        "prune",
        f"""
        import socket
        reached = []
        targets = [(socket.AF_INET, ("127.0.0.1", int("PORT"))), (socket.AF_INET, ("1.1.1.1", 53))]
        paths = (chr(0) + "TOKEN", "ROOT/../socket", "/run/docker.sock", "/run/dbus/system_bus_socket")
        targets += [(socket.AF_UNIX, path) for path in paths]
        for family, address in targets:
            with socket.socket(family) as connection:
                connection.settimeout(1)
                if connection.connect_ex(address) == 0:
                    reached.append(address)
        try:
            reached.append(socket.getaddrinfo("example.org", 80))
        except OSError:
            pass
        if reached:
            exec({right!r})
        """,
    )


# What lies in the folder


@submission(
    "links, pipes and devices",
    points=12,
    says=("a link", "a hard link", "a FIFO", "a socket or a device" if os.getuid() else ""),
)
def _(paper):
    paper.folder.mkdir(parents=True)
    (paper.folder / "solution.ipynb").symlink_to(paper.root / "solutions" / "02_magnitude" / NOTEBOOK)
    (paper.folder / "course").symlink_to(paper.root)
    os.link(paper.root / "nbgrader_config.py", paper.folder / "settings.py")
    os.mkfifo(paper.folder / "data.csv")
    if os.getuid() == 0:
        os.mknod(paper.folder / "disk", stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero


@submission("a notebook that is a link", points=0, says="it is a link")
def _(paper):
    paper.folder.mkdir(parents=True)
    (paper.folder / NOTEBOOK).symlink_to(paper.root / "solutions" / "02_magnitude" / NOTEBOOK)


@submission("a notebook that is a pipe", points=0, says="it is a FIFO")
def _(paper):
    paper.folder.mkdir(parents=True)
    os.mkfifo(paper.folder / NOTEBOOK)


@submission("a folder that is a link", points=0, says="which is not followed")
def _(paper):
    paper.folder.parent.symlink_to(paper.folder.parents[1] / "honest")


@submission("a zip bomb", points=12)
def _(paper):
    with zipfile.ZipFile(paper.file("data.zip"), "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(10):
            archive.writestr(f"../../{i}.csv", bytes(2**26))


@submission("a notebook nested 100,000 deep", points=0, says="nested more than 50 levels deep")
def _(paper):
    text = json.dumps(paper.json() | {"metadata": {"nested": "HERE"}})
    paper.data = text.replace('"HERE"', "[" * 100_000 + "]" * 100_000).encode()


@submission("a notebook of 1 GB", points=0, says="more than the 100 MB allowed")
def _(paper):
    os.truncate(paper.file(NOTEBOOK, paper.text()), 10**9)


@submission("burns every processor there is", points=12)
def _(paper):
    """Others are not slowed down: each worker has processors of its own. What comes after such a cell may be."""
    paper.after(
        "iterative-check",
        """
        import os
        try:
            os.sched_setaffinity(0, range(64))
            print("escaped")
        except OSError as error:
            print("held:", error)
        for _ in range(45):
            if os.fork() == 0:
                os.setsid()
                while True:
                    pass""",
    )


@submission("memory that belongs to nobody", points=12)
def _(paper):
    paper.after(
        "prune-check",
        """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        print(libc.memfd_create(b"memory", 0), libc.shmget(0, 2**28, 0o1600), libc.syscall(248, b"user", b"a", b"b", 1, -3))""",
    )


@submission("words in the judge's pipe", points=12)
def _(paper):
    paper.after(
        "iterative-check",
        """
        import ctypes, os, time
        libc = ctypes.CDLL(None, use_errno=True)
        running = filter(str.isdigit, os.listdir("/proc"))
        shell = next(pid for pid in running if open(f"/proc/{pid}/cmdline").read().startswith("/bin/sh"))
        for number in range(3, 20):
            with open(f"/proc/{shell}/fd/{number}", "wb", buffering=0) as pipe:
                pipe.write(b"7")
                time.sleep(2)""",
    )


@submission("kernel sockets that lead outside", points=6)
def _(paper):
    paper.after(
        "prune-check",
        """
        import os, socket
        for port in range(1, 6):
            os.rename(f"/tmp/kernel-socket-{port}", f"/tmp/{port}.old")
            os.symlink(os.path.normpath("ROOT/../socket"), f"/tmp/kernel-socket-{port}")
        for number in map(int, os.listdir("/proc/self/fd")):
            try:
                end = socket.socket(fileno=os.dup(number))
                if "kernel-socket" in str(end.getsockname()) and not end.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass""",
    )


@submission("half a megabyte of one cell", points=12, says="could not be used")
def _(paper):
    paper.after("prune-check", "a=1;" * 130_000)


@submission("10,000 outputs and one that is none", points=12, says="the text of its cells was kept")
def _(paper):
    content = paper.json()
    wrong = [{"output_type": "stream", "name": "stdout", "text": "x"}] * 10_000 + [{"output_type": "stream"}]
    content["cells"][paper.at("prune")]["outputs"] = wrong
    paper.data = json.dumps(content).encode()


@submission("pages in the feedback's place", points=12, says="left out: ")
def _(paper):
    paper.file("magnitude.html/x.txt", "x")
    paper.file("index.html", "<script>pwned()</script>")
