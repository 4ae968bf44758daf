"""What people may see of a student's program: text and pictures, nothing that a browser or a terminal would obey."""

import base64
import binascii
import json
from collections.abc import Iterable, Iterator
from itertools import groupby

from autograder.inside.wire import printable

MAX_OUTPUTS = 50  # per cell
MAX_CHARACTERS = 20_000  # of one output
MAX_PICTURE = 2 * 2**20  # bytes of one PNG
MAX_CELL = 4 * 2**20  # bytes of all outputs of a cell
_PNG = b"\x89PNG\r\n\x1a\n"


def clean(outputs: Iterable[dict]) -> list[dict]:
    """Outputs of a student's cell, rebuilt from their text and PNG pictures.

    HTML, SVG, JavaScript, LaTeX and Markdown are dropped, ANSI, control and bidirectional characters removed from text.

    Args:
        outputs: of one cell, as a kernel sent them: of any type and size.

    Returns:
        Outputs in nbformat's form, built anew; the last one says how many were left out.
    """
    kept, size, dropped = [], 0, 0
    for output in _joined(output for output in outputs if isinstance(output, dict)):
        cleaned = _clean(output)
        if cleaned is None:
            continue
        size += len(json.dumps(cleaned))
        if len(kept) >= MAX_OUTPUTS or size > MAX_CELL:
            dropped += 1
        else:
            kept.append(cleaned)
    return [*kept, stream(f"({dropped} more outputs are not shown)\n")] if dropped else kept


def stream(text: str) -> dict:
    """Text as an output."""
    return {"output_type": "stream", "name": "stdout", "text": text}


def _joined(outputs: Iterable[dict]) -> Iterator[dict]:
    """Streams that follow each other as one, without what a carriage return overwrites: of a progress bar, its last state."""
    for is_stream, group in groupby(outputs, lambda output: output.get("output_type") == "stream"):
        if is_stream:
            lines = "".join(_plain(output.get("text")) for output in group).split("\n")
            yield stream("\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines))
        else:
            yield from group


def _clean(output: dict) -> dict | None:
    match output.get("output_type"):
        case "stream":
            return stream(_text(output.get("text")))
        case "error":
            name, value = _text(output.get("ename"), 200), _text(output.get("evalue"), 2000)
            lines = output.get("traceback")
            lines = [_text(line, 4000) for line in lines[:40]] if isinstance(lines, list) else []
            return {"output_type": "error", "ename": name, "evalue": value, "traceback": lines}
        case "display_data" | "execute_result":
            data = output.get("data")
            shown = _shown(data) if isinstance(data, dict) else {}
            return {"output_type": "display_data", "data": shown, "metadata": {}} if shown else None
    return None


def _shown(data: dict) -> dict[str, str]:
    shown = {"text/plain": _text(data["text/plain"])} if "text/plain" in data else {}
    written = data.get("image/png")
    try:
        picture = base64.b64decode("".join(written.split()) if isinstance(written, str) else "", validate=True)
    except (binascii.Error, ValueError):
        picture = b""
    if picture.startswith(_PNG) and len(picture) <= MAX_PICTURE:
        shown["image/png"] = base64.b64encode(picture).decode()
    return shown


def _text(value: object, most: int = MAX_CHARACTERS) -> str:
    return printable(_plain(value), most)


def _plain(value: object) -> str:
    if isinstance(value, list):
        value = "".join(part for part in value if isinstance(part, str))
    return value if isinstance(value, str) else ""
