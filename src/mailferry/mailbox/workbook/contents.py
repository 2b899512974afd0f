"""What a received file is and holds, and which parts a message has: the reading child's answers to `inspector`.

Spreadsheets themselves are read elsewhere, in `tables`.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mailferry.config.spreadsheet import Limits
from mailferry.mailbox.containers.kinds import PACKED, Container
from mailferry.mailbox.containers.recognise import container_of, held_by
from mailferry.mailbox.mime.file_buffer import FileBuffer
from mailferry.mailbox.mime.scanner import from_message
from mailferry.mailbox.mime.tree import structure
from mailferry.mailbox.workbook.archive import entries, open_zip, unpacked
from mailferry.mailbox.workbook.formats import PlainZip, kind_of
from mailferry.mailbox.workbook.text_kind import BEGINNING

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Iterator

    from mailferry.mailbox.mime.headers import Buffer

#: Archives that stay open, as their files are asked for one by one, and archives may lie in archives.
_MOST_OPEN = 4


class Contents:
    """Answers requests about files; it keeps the archives open that were looked at last."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, int, int], zipfile.ZipFile] = {}

    def answer(self, request: dict[str, Any]) -> Iterator[bytes | dict[str, Any]]:
        """Bytes where a file is unpacked, then what there is to say. Raises Reject with what is wrong with the file."""
        path = Path(request["path"])
        if request["do"] == "structure":
            with FileBuffer.open(path) as message:
                yield asdict(structure(from_message(message), request["charsets"]))
            return
        if request["do"] == "unpack":
            archive = self._archive(path, Limits(**request["limits"]))
            yield from unpacked(archive, request["number"], request["largest"])
            yield {}
            return
        yield self._look(path, request)

    def _look(self, path: Path, request: dict[str, Any]) -> dict[str, Any]:
        """Its `kind`, or the `container` that it is and what is `held` there; nothing for text that people are to read."""
        limits = Limits(**request["limits"])
        with FileBuffer.open(path) as buffer:
            start = buffer[0:BEGINNING]
            container = _container(buffer, start, request)
            held = held_by(container, buffer, (request["charset"],)) if container else []
            # Text that was only thought to have files in it may still be a table.
            if container and (held or container is not Container.UUENCODED):
                return {"container": container.name, "held": [asdict(inner) for inner in held]}
        if request["is_body"] and not start.startswith(PACKED):
            return {}
        try:
            return {"kind": kind_of(path, limits)}
        except PlainZip:
            found = entries(self._archive(path, limits), request["largest"])
            return {"container": Container.ZIP.name, "entries": [asdict(entry) for entry in found]}

    def _archive(self, path: Path, limits: Limits) -> zipfile.ZipFile:
        # Its name is the same for every file; the file itself is not.
        stat = path.stat()
        key = (stat.st_dev, stat.st_ino, stat.st_size)
        if key not in self._open:
            while len(self._open) >= _MOST_OPEN:
                self._open.pop(next(iter(self._open))).close()
            self._open[key] = open_zip(path, limits)
        return self._open[key]


def _container(buffer: Buffer, start: bytes, request: dict[str, Any]) -> Container | None:
    container = container_of(start, request["name"], request["mime"])
    if request["is_body"] and container is Container.MESSAGE:
        return None
    if container is None and request["mime"] == "text/plain" and len(buffer) > BEGINNING:
        return Container.UUENCODED  # it may begin anywhere in a long text
    return container
