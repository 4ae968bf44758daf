"""Looks into a zip that anybody may have made: plain members, within the caps, and no zip in a zip."""

import io
import zipfile

from autograder.intake.reading import Caps

PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # of the others, one may ask for gigabytes before its first byte
ENTRY = b"PK\x01\x02"  # begins each entry of a zip's list


class NotAZip(Exception):
    """Why a zip is not opened, as a noun phrase."""


def members(data: bytes, caps: Caps) -> dict[tuple[str, ...], bytes]:
    """What a zip holds.

    Args:
        data: the zip's bytes.
        caps: how much may be in it.

    Returns:
        Content by path, name by name.

    Raises:
        NotAZip: it is none, or holds too much, something in code, or a zip.
    """
    if data.count(ENTRY) > caps.files:  # found before the list is read
        raise NotAZip(f"a zip of more than {caps.files} files and folders")
    found, room = {}, caps.total
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in archive.infolist():
                path = tuple(entry.filename.split("/"))
                if entry.is_dir() or "__MACOSX" in path:
                    continue
                if not all(name not in ("", ".", "..") and "\\" not in name for name in path):
                    raise NotAZip("a zip with a path that leads out of it")
                if entry.filename.lower().endswith(".zip"):
                    raise NotAZip("a zip with a zip in it")
                if entry.flag_bits & 1 or entry.compress_type not in PLAIN:
                    raise NotAZip("a zip that only its maker can open")
                with archive.open(entry) as file:
                    found[path] = file.read(room + 1)  # whatever the list says of its size
                room -= len(found[path])
                if room < 0:
                    raise NotAZip(f"a zip of more than {caps.total / 1e6:g} MB")
    except NotAZip:
        raise
    except Exception:  # zipfile raises all kinds
        raise NotAZip("not a zip, or a damaged one") from None
    return found
