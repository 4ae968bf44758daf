"""Small models of several kinds, each trained with several seeds by a script, and the record that a lesson draws."""

import argparse
import json
import platform
from collections.abc import Callable, Mapping
from pathlib import Path

import torch


def run(
    description: str,
    module: str,
    record: Path,
    kinds: Mapping,
    train: Callable[..., dict],
    says: Callable[[dict], str],
    settings: dict,
    seeds: int,
    steps: int,
) -> None:
    """Read the command line, and train: all kinds, or those that are named, with each seed. The record grows with every run.

    Args:
        description: of the script.
        module: its name, such as "sparsity_edu.experts.train_router".
        record: the JSON file. Runs that are there already stay, but for those that are made again. A record of another number
            of seeds or steps is refused.
        kinds: what is trained, by name.
        train: called with a kind, a seed, steps= and tick=, which it calls after each step; returns a run, with its "seed".
        says: a line about a run that has ended.
        settings: what the record says besides.
        seeds: how many, by default.
        steps: of each training, by default.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="kind", help=f"one of {', '.join(map(repr, kinds))} (default: all)")
    parser.add_argument("--seeds", type=int, default=seeds, help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=steps, help="(default: %(default)s)")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in kinds]:
        parser.error(f"kind must be one of {', '.join(map(repr, kinds))}, got {unknown[0]!r}")
    command = f"python -m {module} --seeds {given.seeds} --steps {given.steps}"
    earlier = json.loads(record.read_text()) if record.exists() else {"command": command, "runs": {}}
    if earlier["command"] != command:
        parser.error(f"{record.name} is of {earlier['command']!r}: delete it to begin another one")
    from tqdm.auto import tqdm

    torch.set_num_threads(1)
    names, kept = given.names or list(kinds), earlier["runs"]
    with tqdm(total=len(names) * given.seeds * given.steps, desc="training", unit="step", mininterval=5) as bar:
        for seed in range(given.seeds):
            for name in names:
                made = train(kinds[name], seed, steps=given.steps, tick=bar.update)
                others = [run for run in kept.get(name, []) if run["seed"] != seed]
                kept[name] = sorted([*others, made], key=lambda run: run["seed"])
                bar.write(f"{name:<26} seed {seed}: {says(made)}")
                written = {
                    "command": command,
                    "data": "sparsity_edu.data.python_docs",
                    **settings,
                    "threads": 1,
                    "python": platform.python_version(),
                    "torch": torch.__version__,
                    "runs": {known: kept[known] for known in kinds if known in kept},
                }
                record.write_text(json.dumps(written) + "\n")
