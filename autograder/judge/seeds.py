"""Seeds of the hidden cases: each answer of each student has its own; only who holds the course's secret can compute them."""

import hashlib
import hmac
import json
import os
import secrets
import stat
from pathlib import Path


def seed_for(student: str, unit: str, secret: bytes) -> str:
    """The seed of one student in a unit; the answer is mixed in by `seed_of_answer`, exercise and stage by `Exercise.cases`.

    Args:
        student: the student's id.
        unit: the unit, which is the public part.
        secret: from `secret_of`.

    Returns:
        Text for `seed_of_answer`.
    """
    return hmac.new(secret, f"{unit}/{student}".encode(errors="surrogateescape"), hashlib.sha256).hexdigest()


def seed_of_answer(seed: str, *answer: object) -> str:
    """The seed of one answer's hidden cases: who hands in something else is asked something else, so that what is told of one
    attempt says nothing of the next, and the same submission is always asked the same.

    Args:
        seed: the student's, from `seed_for`.
        *answer: what is judged, in plain values: code and files.

    Returns:
        Text for `Exercise.cases`.
    """
    return hmac.new(seed.encode(), json.dumps(answer, sort_keys=True).encode(), hashlib.sha256).hexdigest()


def secret_of(grading: Path) -> bytes:
    """The course's secret, made on first use and readable by its owner only.

    Args:
        grading: the course's grading folder, which git ignores.

    Returns:
        32 bytes.

    Raises:
        PermissionError: others may read the file.
        ValueError: it holds no secret.
    """
    path = grading / "secret"
    grading.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        draft = path.with_name(f".secret.{os.getpid()}")
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        try:
            os.link(draft, path)  # fails if another process was quicker: then its secret counts
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise PermissionError(f"{path} must be readable by you alone (chmod 600): who knows it knows the hidden inputs")
    secret = bytes.fromhex(path.read_text())
    if len(secret) < 32:
        raise ValueError(f"{path} must hold 32 bytes as hexadecimal digits, got {len(secret)}")
    return secret
