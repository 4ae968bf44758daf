"""Runs the kernels of students' answers, under the watcher, in a sandbox in which no student's cell ever runs.

python -I bench.py PROJECT
"""

import os
import socket
import sys


def main() -> None:
    """Connect to the judge when everything is imported. First comes a case, then its launches, then "done"; see `launches`."""
    from autograder.inside import dialect  # noqa: F401 - imports triton
    from autograder.inside.launches import Runner
    from autograder.inside.observe import observe
    from autograder.inside.outcome import Outcome
    from autograder.inside.runner import SECONDS_PER_CASE, raised, time_limit
    from autograder.inside.sanitizer import watch
    from autograder.inside.use import traffic
    from autograder.inside.wire import decode_case, encode, receive, send

    def reply(runner: Runner, launch: dict) -> dict:
        try:
            with time_limit(SECONDS_PER_CASE):
                return {"written": runner.launch(launch), "error": None}
        except BaseException as error:
            return {"written": {}, "error": raised(error, reply)}

    with socket.socket(socket.AF_UNIX) as judge:
        judge.connect(os.environ["AUTOGRADER_JUDGE"])
        while True:
            try:
                case = decode_case(receive(judge))
            except EOFError:
                return
            args, watched = case["args"], case["watched"]
            runner = Runner(args)
            with watch() as kernels:
                while "done" not in (launch := decode_case(receive(judge))):
                    send(judge, encode(reply(runner, launch)))
            counts = traffic(kernels, args, watched)
            send(judge, encode(Outcome(after={i: observe(args[i]) for i in watched}, traffic=counts)))


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)  # for what kernels print
    main()
