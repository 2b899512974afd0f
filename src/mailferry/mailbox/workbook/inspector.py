"""What received files are and hold, and the structure of messages, found out in a reading child. The parent's side.

Nothing that the child says is trusted: code in a file may have taken it over.
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import orjson

from mailferry.config.spreadsheet import Limits
from mailferry.errors import Reject
from mailferry.mailbox.containers.inner import Inner
from mailferry.mailbox.containers.kinds import Container
from mailferry.mailbox.mime.tree import Part, Structure
from mailferry.mailbox.workbook.reader import Reader
from mailferry.mailbox.workbook.values import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import BinaryIO

    from mailferry.config.mailbox_feed import MailboxFeed

#: Characters of a name, type or reason that a child may send.
_LONGEST = 65_536


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """A file in a zip archive."""

    #: Its whole name, unique in the archive, and the same at every look; `name` is without folders. Not safe as paths.
    member: str
    name: str
    number: int
    #: Why it cannot be unpacked; "" where it can.
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a file is: a spreadsheet of a kind, or a container with what it holds; neither for text that people are to read."""

    kind: Kind | None = None
    container: Container | None = None
    #: Of a zip archive.
    packed: tuple[Packed, ...] = ()
    #: Of any other container.
    inners: tuple[Inner, ...] = ()


class Inspector:
    """Asks a reading child. It belongs to one thread, and to the mailbox whose messages it looks into."""

    def __init__(
        self,
        limits: Limits | None = None,
        acquire: Callable[[], AbstractContextManager[Reader]] | None = None,
    ) -> None:
        """`acquire` returns a Reader for a while; without it one of our own is started when it is needed."""
        self.limits = limits or Limits()
        self._acquire = acquire
        self._own: Reader | None = None

    def close(self) -> None:
        """End a child of our own."""
        if self._own:
            self._own.close()
            self._own = None

    def structure(self, message: Path | BinaryIO, size: int, charsets: Sequence[str] = ()) -> Structure:
        """The parts of a message of so many bytes. Raises Reject, Retry; FileNotFoundError where it is gone.

        `charsets` are tried for raw 8-bit names, see `headers.text`.
        """
        (said,) = self._ask(message, {"do": "structure", "charsets": list(charsets)})
        with _checked():
            parts = tuple(
                Part(**part | {"span": _span(part["span"], size) if part["span"] else None})
                for part in said["parts"]
            )
            for part in parts:
                _texts(part.section, part.mime, part.encoding, part.name, part.disposition, part.charset)
                _check(part.size is None or isinstance(part.size, int))
            _texts(said["charset"])
            return Structure(parts=parts, charset=said["charset"])

    def look(
        self, path: Path, *, name: str, mime: str, is_body: bool, charset: str, largest: int, limits: Limits
    ) -> Found:
        """What a file is and holds; `largest` bounds a file in an archive, in bytes. Raises Reject with what it is instead, Retry."""
        request = {"do": "look", "name": name, "mime": mime, "is_body": is_body, "charset": charset}
        (said,) = self._ask(path, {**request, "largest": largest, "limits": asdict(limits)})
        size = path.stat().st_size
        with _checked():
            container = Container[said["container"]] if "container" in said else None
            return Found(
                kind=Kind(said["kind"]) if "kind" in said else None,
                container=container,
                packed=tuple(map(_packed, said.get("entries", ()))),
                inners=tuple(_inner(inner, size) for inner in said.get("held", ())),
            )

    def unpack(self, path: Path, number: int, *, largest: int, limits: Limits) -> Iterator[bytes]:
        """A file in a zip archive, in pieces of at most 256 KiB. Raises Reject where it is damaged or larger."""
        request = {"do": "unpack", "number": number, "largest": largest, "limits": asdict(limits)}
        with contextlib.closing(self._answers(path, request)) as answers:
            for letter, content in answers:
                if letter == b"C":
                    yield content

    def _ask(self, file: Path | BinaryIO, request: dict[str, Any]) -> list[Any]:
        return [orjson.loads(content) for _, content in self._answers(file, request)]

    def _answers(
        self, file: Path | BinaryIO, request: dict[str, Any]
    ) -> Generator[tuple[bytes, bytes], None, None]:
        with self._reader() as reader:
            yield from reader.ask(file, request)

    @contextlib.contextmanager
    def _reader(self) -> Iterator[Reader]:
        if self._acquire:
            with self._acquire() as reader:
                yield reader
            return
        if self._own is None:
            self._own = Reader(self.limits)
        yield self._own


def borrowing(reader: Reader, feed: MailboxFeed) -> Inspector:
    """An inspector that asks the child of this reader."""
    return Inspector(feed.limits, lambda: contextlib.nullcontext(reader))


def look(inspector: Inspector, feed: MailboxFeed, path: Path, name: str) -> Found:
    """What a file on disk, called `name`, is and holds. Raises Reject with what it is instead, Retry."""
    return inspector.look(
        path,
        name=name,
        mime="",
        is_body=False,
        charset=feed.mailbox.charset,
        largest=feed.mailbox.max_file_bytes,
        limits=feed.limits,
    )


def spreadsheet_kind(reader: Reader, feed: MailboxFeed, path: Path, name: str) -> Kind:
    """The kind of a file, called `name`, that is a spreadsheet itself. Raises Reject with what it is instead, Retry."""
    found = look(borrowing(reader, feed), feed, path, name)
    if found.kind:
        return found.kind
    what = found.container.value if found.container else "text"
    raise Reject(f"not a spreadsheet but {what}: take the spreadsheet out of it first")


@contextlib.contextmanager
def _checked() -> Iterator[None]:
    """Whatever is wrong with an answer is Reject."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError):
        _refuse()


def _refuse() -> NoReturn:
    raise Reject("reading it made the reading process answer what it never should")


def _check(right: bool) -> None:
    if not right:
        _refuse()


def _texts(*values: object) -> None:
    _check(all(isinstance(value, str) and len(value) <= _LONGEST for value in values))


def _span(span: Sequence[int], size: int) -> tuple[int, int]:
    start, end = span
    _check(isinstance(start, int) and isinstance(end, int) and 0 <= start <= end <= size)
    return start, end


def _inner(plain: dict[str, Any], size: int) -> Inner:
    inner = Inner(**plain | {"spans": tuple(_span(span, size) for span in plain["spans"])})
    _texts(inner.name, inner.mime, inner.disposition, inner.encoding, inner.charset)
    return inner


def _packed(plain: dict[str, Any]) -> Packed:
    packed = Packed(**plain)
    _texts(packed.member, packed.name, packed.reason)
    _check(isinstance(packed.number, int) and packed.number >= 0)
    return packed
