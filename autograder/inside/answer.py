"""Runs in the sandbox, inside the student's kernel: makes of the student's program something that answers cases.

`offer` forks. The child is a snapshot of the whole program: it connects to the judge and answers cases with the function or
class that the name stands for at this moment. The kernel goes on with the next cell and never sees a case, so no output of the
notebook can hold one; and whatever an answer does, it does to its own copy.
"""

import os
import resource
import signal
import socket
from functools import partial

import torch
from IPython import get_ipython

from autograder.inside.outcome import UNDEFINED, Outcome, Raised
from autograder.inside.runner import run
from autograder.inside.wire import decode_case, encode, receive, send

SOCKET = "AUTOGRADER_JUDGE"  # environment variable: path of the judge's socket


def offer(name: str, seconds: int) -> None:
    """Offer the judge what a name stands for.

    Args:
        name: of the exercise's function or class.
        seconds: processor time that the snapshot may use.
    """
    if os.fork() == 0:
        try:
            os.setsid()  # interrupting a later cell does not interrupt this process
            torch.set_num_threads(1)  # the program's others are not in here, and a convolution would wait
            _mute()
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
            with socket.socket(socket.AF_UNIX) as judge:
                judge.connect(os.environ[SOCKET])
                send(judge, name.encode())
                _answer(judge, name, get_ipython().user_ns)
        finally:
            os._exit(0)


def _mute() -> None:
    """Drop what an answer displays: nobody takes it any more, and each picture or progress bar would wait seconds for that."""
    if kernel := getattr(get_ipython(), "kernel", None):
        kernel.iopub_thread.send_multipart = lambda *_, **__: None


def _answer(judge: socket.socket, name: str, namespace: dict) -> None:
    while True:
        try:
            case = decode_case(receive(judge))
        except EOFError:
            return
        answer = namespace.get(name)
        outcome = run(case, answer, ask=partial(_ask, judge)) if callable(answer) else _no_answer(name, namespace)
        send(judge, _encoded(outcome))


def _ask(judge: socket.socket, launch: dict) -> dict:
    """What comes of a launch. No time limit strikes here, where it would tear a frame in two; the bench has its own."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    try:
        send(judge, encode(launch))
        return decode_case(receive(judge))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _encoded(outcome: Outcome) -> bytes:
    try:
        return encode(outcome)
    except Exception as error:  # nested too deep, for one
        return encode(Outcome(error=Raised((type(error).__name__,), "the result cannot be handed over")))


def _no_answer(name: str, namespace: dict) -> Outcome:
    message = f"{name} is not defined" if name not in namespace else f"{name} is no function or class"
    return Outcome(error=Raised(UNDEFINED, message))
