"""Reads a notebook file that anybody may have written, and says what of it can be graded.

    bytes -> text -> caps on depth and size -> JSON -> cells -> a valid notebook of format 4.5

What nbgrader reads without trouble is handed on byte for byte. From anything else the cells' sources and grade_ids are saved:
`intake.rebuild` takes the rest from the released notebook anyway.
"""

import json
import re
import warnings
from dataclasses import dataclass, field

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_raw_cell
from traitlets.log import get_logger

NEW_CELL = {"code": new_code_cell, "markdown": new_markdown_cell, "raw": new_raw_cell}
OLD_KINDS = {"heading": "markdown", "html": "markdown"}  # of notebook format 3
STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)  # a JSON string, also one that the file's end cuts off
CELLS = re.compile(r'"cells"\s*:\s*\[')
NEXT_CELL = re.compile(r"[\s,]*(?=\{)")
CELL_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")


@dataclass(frozen=True)
class Caps:
    """How much a submission may hold. Honest ones stay far below; beyond, memory and time of the grader are at stake."""

    notebook: int = 100_000_000  # bytes; an honest one may carry 50 MB of outputs
    file: int = 20_000_000  # bytes of any other file
    total: int = 200_000_000  # bytes of all files together
    files: int = 200  # files and folders, after which nobody looks further
    folders: int = 8  # levels of folders in folders
    depth: int = 50  # levels of lists and objects in a notebook's JSON
    containers: int = 200_000  # lists and objects in it; each costs about 1 kB of memory once read
    values: int = 5_000_000  # values in it
    cells: int = 2000
    source: int = 200_000  # characters of one code cell; nbconvert colours some 3000 of them in a second
    sources: int = 400_000  # of all code cells together
    attempts: int = 5  # notebooks of other names that are tried if the one that counts cannot be read


@dataclass(frozen=True)
class Reading:
    """What a notebook file came to."""

    data: bytes | None  # a notebook that nbgrader reads; None: there is nothing to grade
    notes: list[str] = field(default_factory=list)  # a sentence for each thing that was wrong with it


def read_notebook(data: bytes, caps: Caps | None = None) -> Reading:
    """Read a notebook file; never raises, whatever it holds.

    Args:
        data: the file's bytes.
        caps: how much it may hold; `Caps()` by default.

    Returns:
        The same bytes and no notes if nbgrader can read them. Otherwise a valid notebook of format 4.5 with the cells that
        could be read, without outputs; or no data at all.
    """
    caps = caps or Caps()
    if not data.strip(b"\0 \t\r\n"):
        return Reading(None, ["the notebook is an empty file"])
    text, notes = _decode(data)
    content, more = _parse(text, caps)
    notes += more
    if content is None:
        return Reading(None, notes or ["the file is JSON, but not a notebook"])
    cells, more = _cells(content, caps)
    notes += more
    if cells is None:
        return Reading(None, notes)
    if not notes and _nbgrader_reads(text):
        return Reading(data)
    notes = notes or ["the notebook's file was not as it should be; the text of its cells was kept, the rest left out"]
    rewritten = _write(cells)
    if len(rewritten) > caps.notebook or _excess(rewritten.decode(), caps):
        return Reading(None, [*notes, "the notebook is too large to be repaired"])
    return Reading(rewritten, notes)


def clean_text(source: object) -> str | None:
    """The text of a cell, whether one string or a list of lines, with plain line ends and only what UTF-8 can hold.

    Args:
        source: a cell's source, as found in a notebook file.

    Returns:
        The text; None if there is none.
    """
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        source = "".join(source)
    if not isinstance(source, str):
        return None
    source = source.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")
    return source.encode("utf-8", "replace").decode("utf-8")  # JSON may hold halves of surrogate pairs


def _decode(data: bytes) -> tuple[str, list[str]]:
    notes = []
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = data.decode("utf-16", "replace")
        notes.append("the notebook was saved as UTF-16; it was converted")
    else:
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            text = data.decode("latin-1")
            notes.append("the notebook was not saved as UTF-8; letters beyond ASCII may have changed")
    if text.startswith("\ufeff"):
        text = text.removeprefix("\ufeff")
        notes.append("the notebook began with a byte-order mark, which was removed")
    if "\0" in text:
        text = text.replace("\0", "")
        notes.append("the notebook held NUL bytes, which were removed")
    return text, notes


def _parse(text: str, caps: Caps) -> tuple[object, list[str]]:
    """The JSON in a text, if need be that of one side of a merge conflict, or of the cells before a cut; and notes."""
    versions = [(text, [])]
    if re.search(r"^<{7}", text, re.MULTILINE):  # at the start of a line: never inside of JSON
        said = "the notebook held unresolved merge conflicts; the %s side of each was taken"
        versions = [(_side(text, "<"), [said % "first"]), (_side(text, "="), [said % "second"])]
    for version, notes in versions:
        if problem := _excess(version, caps):
            return None, [problem]
        try:
            return DECODER.decode(version), notes
        except ValueError:
            continue
    text, notes = versions[0]
    cells = _before_the_cut(text, caps)
    if not cells:
        return None, [*notes, "the notebook could not be read: it is not JSON"]
    cut = f"the notebook was cut off or damaged; {len(cells)} of its cells could be read"
    return {"cells": cells}, [*notes, cut]


def _side(text: str, wanted: str) -> str:
    """One side of git's conflicts: the lines after <<<<<<< or after =======."""
    lines, at = [], None
    for line in text.split("\n"):
        mark = line[:1] if line[:7] in {"<" * 7, "|" * 7, "=" * 7, ">" * 7} else ""
        if mark:
            at = None if mark == ">" else mark
        elif at in (None, wanted):
            lines.append(line)
    return "\n".join(lines)


def _excess(text: str, caps: Caps) -> str | None:
    """What of a JSON text is over the caps. Found without recursion and before it is parsed: parsing is what it would harm."""
    bare = STRING.sub("", text)
    containers = bare.count("[") + bare.count("{")
    if containers > caps.containers or bare.count(",") > caps.values:
        return f"the notebook's JSON holds more than {caps.containers:,} lists and objects or {caps.values:,} values"
    depth = 0
    for bracket in re.findall(r"[\[\]{}]", bare):
        depth = depth + 1 if bracket in "[{" else max(depth - 1, 0)
        if depth > caps.depth:
            return f"the notebook's JSON is nested more than {caps.depth} levels deep"
    return None


def _int(digits: str) -> int:
    return int(digits) if len(digits) < 100 else 0  # Python refuses to read more than 4300 digits


DECODER = json.JSONDecoder(parse_int=_int, strict=False)


def _before_the_cut(text: str, caps: Caps) -> list:
    found = CELLS.search(text)
    if not found or _excess(text[found.end() :], caps):  # again: from here on, other quotes may pair up
        return []
    cells, position = [], found.end()
    while cell := NEXT_CELL.match(text, position):
        try:
            content, position = DECODER.raw_decode(text, cell.end())
        except ValueError:
            break
        cells.append(content)
    return cells


def _cells(content: object, caps: Caps) -> tuple[list | None, list[str]]:
    """(kind, source, grade_id, id) of each usable cell, and what is wrong with the notebook; no cells at all if it is none."""
    if not isinstance(content, dict):
        return None, ["the file is JSON, but not a notebook"]
    found, notes = content.get("cells"), []
    if not isinstance(found, list) and isinstance(sheets := content.get("worksheets"), list):  # format 3
        found = [cell for sheet in sheets if isinstance(sheet, dict) for cell in _listed(sheet.get("cells"))]
        notes.append("the notebook was saved in an old format; it was converted")
    if not isinstance(found, list):
        return None, ["the file is JSON, but not a notebook"]
    if len(found) > caps.cells:
        notes.append(f"the notebook has {len(found)} cells; only the first {caps.cells} were taken")
    cells, dropped, broken, left = [], 0, 0, caps.sources
    for cell in found[: caps.cells]:
        cell = cell if isinstance(cell, dict) else {}
        kind, metadata = cell.get("cell_type"), cell.get("metadata", {})
        kind = OLD_KINDS.get(kind, kind) if isinstance(kind, str) else None
        source = clean_text(cell.get("source", cell.get("input")))
        size = len(source or "") if kind == "code" else 0
        if kind not in NEW_CELL or source is None or size > min(caps.source, left):
            dropped += 1
            continue
        left -= size
        broken += not isinstance(metadata, dict)
        nbgrader = metadata.get("nbgrader") if isinstance(metadata, dict) else None
        name = nbgrader.get("grade_id") if isinstance(nbgrader, dict) else None
        cells.append((kind, source, name if isinstance(name, str) else None, cell.get("id")))
    if dropped:
        notes.append(f"{dropped} of the notebook's cells could not be used: no text, too much of it, or no known kind of cell")
    if broken:
        notes.append(f"the metadata of {broken} of the notebook's cells could not be used and was left out")
    return cells, notes


def _listed(value: object) -> list:
    return value if isinstance(value, list) else []


def _nbgrader_reads(text: str) -> bool:
    """Whether the first steps of nbgrader, up to our own preprocessor, get through, and without delay.

    Where something is wrong, nbformat takes milliseconds for each output to find out what. So outputs are looked at here.
    """
    found: dict = {}
    logger = get_logger()
    was_disabled, logger.disabled = logger.disabled, True  # nbformat logs each invalid notebook at length
    try:
        content = json.loads(text)
        cells = [cell for cell in content["cells"] if "outputs" in cell]
        outputs = [output for cell in cells for output in cell["outputs"]]
        if not all(map(_is_output, outputs)) or not all(isinstance(cell["outputs"], list) for cell in cells):
            return False
        for cell in cells:
            cell["outputs"] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            light = nbformat.reads(json.dumps(content), as_version=4, capture_validation_error=found)
            nbformat.validator.normalize(light)
        return not found or len(outputs) < 100  # what it only warns of may stay
    except Exception:  # whatever it trips over, the cells are saved instead
        return False
    finally:
        logger.disabled = was_disabled


def _is_output(output: object) -> bool:
    """Whether it is what nbformat takes for an output."""
    match output:
        case {"output_type": "stream", "name": str(), "text": text, **rest}:
            return not rest and _is_text(text)
        case {"output_type": "error", "ename": str(), "evalue": str(), "traceback": list(lines), **rest}:
            return not rest and _is_text(lines)
        case {"output_type": "display_data", "data": dict(data), "metadata": dict(), **rest}:
            return not rest and all(map(_is_shown, data.items()))
        case {"output_type": "execute_result", "data": dict(data), "metadata": dict(), "execution_count": count, **rest}:
            return not rest and all(map(_is_shown, data.items())) and (count is None or isinstance(count, int))
    return False


def _is_shown(item: tuple[str, object]) -> bool:
    kind, value = item
    return _is_text(value) or kind.endswith("json")


def _is_text(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(line, str) for line in value))


def _write(cells: list) -> bytes:
    notebook, seen = new_notebook(), set()
    for i, (kind, source, name, id) in enumerate(cells):
        if not isinstance(id, str) or not CELL_ID.fullmatch(id) or id in seen or id.startswith("saved-"):
            id = f"saved-{i}"
        seen.add(id)
        metadata = {"nbgrader": {"grade_id": clean_text(name)}} if name else {}
        notebook.cells.append(NEW_CELL[kind](source, id=id, metadata=metadata))
    return nbformat.writes(notebook, version=4).encode()
