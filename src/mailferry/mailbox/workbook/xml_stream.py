"""XML parts read as a stream: events of interest in, rows out, nothing kept. Entities of a document's own are refused."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar
from xml.parsers import expat

from mailferry.errors import Reject

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_Item = TypeVar("_Item")


class XmlStream(Generic[_Item]):
    """A parser that hands out items as soon as they are complete; to be subclassed.

    Names come as `local name` where `spaces` has their namespace, else as `namespace local`.
    """

    #: Namespaces whose names come without it.
    spaces: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._items: deque[_Item] = deque()
        #: Set by the subclass: no more is wanted.
        self.done = False

    def emit(self, item: _Item) -> None:
        """Hand out an item."""
        self._items.append(item)

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """An element begins."""

    def end(self, name: str) -> None:
        """An element ends."""

    def text(self, data: str) -> None:
        """Text of an element, or a piece of it."""

    def items(self, pieces: Iterable[bytes]) -> Iterator[_Item]:
        """Parse. Raises ExpatError on what is not XML, Reject on a document that defines entities."""
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        parser.EntityDeclHandler = _refuse
        known: dict[str, str] = {}

        def local(name: str) -> str:
            found = known.get(name)
            if found is None:
                space, _, own = name.rpartition(" ")
                found = known[name] = own if space in self.spaces else name
            return found

        def started(name: str, attributes: dict[str, str]) -> None:
            self.start(
                local(name),
                {local(key): value for key, value in attributes.items()} if attributes else attributes,
            )

        parser.StartElementHandler = started
        parser.EndElementHandler = lambda name: self.end(local(name))
        parser.CharacterDataHandler = self.text
        for piece in pieces:
            parser.Parse(piece, False)
            while self._items:
                yield self._items.popleft()
            if self.done:
                return
        parser.Parse(b"", True)
        yield from self._items


def _refuse(*_: object) -> None:
    raise Reject("its XML defines entities of its own, which no spreadsheet program does")
