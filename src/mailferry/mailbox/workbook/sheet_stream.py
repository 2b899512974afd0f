"""The worksheet of a large .xlsx read as a stream, row after row as it is inflated: the fast path, which knows few forms.

A pattern made for the columns of the sheet has to match each row whole: numbered and in order, each cell at its row's number and of
a known type, no errors, no formulas without a value, nothing hidden. Numbers and dates become what calamine makes of them. Anything
else raises Unknown. Source: ECMA-376 part 1, 18.3.1 (worksheets), 18.17.4 (dates).
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from functools import partial
from itertools import islice
from operator import lt
from typing import TYPE_CHECKING, Any, TypeVar

from mailferry.mailbox.workbook.cells import column_letters
from mailferry.mailbox.workbook.plain_xml import Unknown, blocks, shown, unescaped
from mailferry.mailbox.workbook.sheet_parts import BROKEN, column_of

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Callable, Iterator, Sequence

    from mailferry.mailbox.workbook.cells import Cell
    from mailferry.mailbox.workbook.shared_strings import SharedStrings

    _Kind = Callable[[Sequence[bytes]], Sequence[Cell]]
    _Shape = tuple[re.Pattern[bytes], list[_Kind | None]]

_T = TypeVar("_T")

#: Bytes of the part that are inflated at a time: cells of so much are Python objects at one time.
PIECE = 128 * 1024
#: So much of the part is looked at before the first row is handed on.
AHEAD = 2 * 1024 * 1024
#: Rows from which the usual forms of cells are learned, at least.
_LEARNED = 20
_LAST_ROW = 1_048_576
_BEGIN = re.compile(rb"<sheetData>")
_HIDDEN = re.compile(rb"""hidden(?!=["'](?:0|false)["'])""", re.IGNORECASE)
_PLACE = re.compile(rb'<c r="([A-Z]{1,3})\d')
_DIMENSION = re.compile(rb'<dimension ref="A1:([A-Z]{1,3})\d+"/>')
_ATTRIBUTES = re.compile(rb'(?: s="(\d{1,5})")?(?: t="(\w+)")?|(?: t="(\w+)")(?: s="(\d{1,5})")')
_ROW = (
    rb'<row r="(\d{1,7})"(?: (?:spans|s|ht|customFormat|customHeight|outlineLevel|collapsed|thickTop|thickBot|ph|x14ac:dyDescent)'
    rb'="[^"<>&]*+"| hidden="(?:0|false)")*+'
)
_FORMULA = rb"(?:<f[^<>/]*+/>|<f[^<>/]*+>[^<]*+</f>)"
#: Attributes, value, and all of a cell that is neither a value alone nor absent.
_CELL = (
    rb'(?:<c r="%%b\1"([^<>/]*+)(?:><v>([^<]++)</v></c>|(/>|>%b<v>[^<]++</v></c>'
    rb'|><is><t(?: xml:space="preserve")?>[^<]++</t></is></c>)))?+' % _FORMULA
)
#: Value of one that has these attributes.
_PLAIN_CELL = rb'(?:<c r="%b\1"%b><v>([^<]++)</v></c>)?+'
_WITH_FORMULA = re.compile(rb">" + _FORMULA + rb"<v>([^<]+)</v></c>")
_INLINE = re.compile(rb'><is><t( xml:space="preserve")?>([^<]+)</t></is></c>')
_DAY_0 = dt.datetime(1899, 12, 30)  # noqa: DTZ001 - as spreadsheets have them
#: Of 1900 spreadsheets believe that it was a leap year: only from here on the days are counted alike.
_FIRST_DAY, _LAST_DAY = 61, 2_958_465
_MOST_MOMENTS = 100_000
_BOOLEANS = {b"0": False, b"1": True}
_EMPTY = (b"", b"/>")
_MARKS = (b"<preserve", b"<trim")


@dataclass(frozen=True, kw_only=True, slots=True)
class Styles:
    """By the numbers of styles, what numbers are shown as."""

    moments: frozenset[int]
    durations: frozenset[int]
    #: Days from the day 0 of 1900 to that of the workbook.
    days_before: int


class SheetStream:
    """A worksheet that can be read from its start any number of times."""

    def __init__(
        self, archive: zipfile.ZipFile, part: str, strings: Callable[[], SharedStrings], styles: Styles
    ) -> None:
        """Read ahead, `AHEAD` bytes, so that most of what is unknown is found before the first row. Raises Unknown."""
        self._archive = archive
        self._part = part
        self._kinds = _Kinds(strings, styles)
        self._width = self._widest()
        #: Patterns of a row, and how its groups become columns; a block is tried with each.
        self._shapes = [self._shape([None] * self._width)]
        if usual := self._usual():
            self._shapes.insert(0, self._shape(usual))
        for _ in self._ahead(map(self._cells, self._blocks())):
            pass

    def rows(self) -> Iterator[list[Cell]]:
        """Rows from row 1 to the last with a cell that holds anything, all of one length. Raises Unknown on the way."""
        seen = done = 0
        for block in self._blocks():
            numbers, rows = self._cells(block)
            if numbers and numbers[0] <= seen:
                raise Unknown("the order of rows")
            for number, row in zip(numbers, rows, strict=False):
                while done < number - 1:
                    done += 1
                    yield [""] * self._width
                yield row
                done = number
            seen = numbers[-1] if numbers else seen

    def _widest(self) -> int:
        """Columns, of which there may be 702: A to ZZ."""
        content = self._content()
        found = set(_DIMENSION.findall(next(content)))
        for block in self._ahead(content):
            found.update(_PLACE.findall(block))
        if any(len(letters) > 2 for letters in found):
            raise Unknown("so many columns")
        return max((column_of(letters.decode()) + 1 for letters in found), default=1)

    def _content(self) -> Iterator[bytes]:
        """What stands before the rows, then these, in blocks of whole ones."""
        try:
            with self._archive.open(self._part) as file:
                yield from blocks(iter(partial(file.read, PIECE), b""), _BEGIN, b"</row>", b"</sheetData>")
        except (KeyError, *BROKEN) as error:
            raise Unknown(str(error)) from None

    def _blocks(self) -> Iterator[bytes]:
        content = self._content()
        if _HIDDEN.search(next(content)):
            raise Unknown("hidden columns")
        return content

    @staticmethod
    def _ahead(items: Iterator[_T]) -> Iterator[_T]:
        return islice(items, AHEAD // PIECE)

    def _shape(self, usual: Sequence[bytes | None]) -> _Shape:
        """A pattern of rows, by the attributes that all cells of a column have; None where they may have any."""
        letters = [column_letters(place).encode() for place in range(self._width)]
        cells = [
            _CELL % (letter,) if own is None else _PLAIN_CELL % (letter, re.escape(own))
            for letter, own in zip(letters, usual, strict=True)
        ]
        pattern = re.compile(_ROW + rb"(?:/>|>" + b"".join(cells) + rb"</row>)|([\s\S]+)")
        return pattern, [None if own is None else self._kinds[own] for own in usual]

    def _usual(self) -> list[bytes | None]:
        """The attributes of each column's cells in the first rows, without the header; None where they are several."""
        found: list[tuple[bytes, ...]] = []
        for block in islice(self._blocks(), 2):
            found += self._shapes[0][0].findall(block)
        if len(found) < _LEARNED or found[-1][-1]:
            return []
        columns = list(zip(*found[len(found) // 2 :], strict=True))
        usual: list[bytes | None] = []
        for attributes, values, others in zip(columns[1:-1:3], columns[2:-1:3], columns[3:-1:3], strict=True):
            seen = {one for one, value in zip(attributes, values, strict=True) if value}
            usual.append(seen.pop() if len(seen) == 1 and not any(others) else None)
        return usual

    def _cells(self, block: bytes) -> tuple[list[int], list[list[Cell]]]:
        """Numbers of all rows, and the rows up to the last that is not blank."""
        if not block:
            return [], []
        kinds, found = self._matched(block)
        groups = iter(zip(*found, strict=True))
        numbers = list(map(int, next(groups)))
        if not all(map(lt, numbers, numbers[1:])) or not 0 < numbers[0] <= numbers[-1] <= _LAST_ROW:
            raise Unknown("the order of rows")
        columns = [
            _with_blanks(kind, next(groups))
            if kind
            else self._column(next(groups), next(groups), next(groups))
            for kind in kinds
        ]
        rows = list(map(list, zip(*columns, strict=True)))
        while rows and all(cell == "" for cell in rows[-1]):
            rows.pop()
        return numbers, rows

    def _matched(self, block: bytes) -> tuple[Sequence[_Kind | None], list[tuple[bytes, ...]]]:
        for pattern, kinds in self._shapes:
            found = pattern.findall(block)
            if not found[-1][-1]:
                return kinds, found
        raise Unknown("a row")

    def _column(
        self, attributes: Sequence[bytes], values: Sequence[bytes], others: Sequence[bytes]
    ) -> Sequence[Cell]:
        """Cells of several kinds."""
        if any(others):
            values = [value or _inner(other) for value, other in zip(values, others, strict=True)]
        places: dict[_Kind, list[int]] = {}
        for at, (one, value) in enumerate(zip(attributes, values, strict=True)):
            if value:
                places.setdefault(self._kinds[one], []).append(at)
        cells: list[Cell] = [""] * len(values)
        for kind, own in places.items():
            for at, cell in zip(own, kind([values[at] for at in own]), strict=True):
                cells[at] = cell
        return cells


def _with_blanks(kind: _Kind, values: Sequence[bytes]) -> Sequence[Cell]:
    if b"" not in values:
        return kind(values)
    present = iter(kind(list(filter(None, values))) if any(values) else ())
    return [next(present) if value else "" for value in values]


def _inner(cell: bytes) -> bytes:
    """The value beside a formula; a text of the cell's own behind `<`, with which no other value begins."""
    if cell in _EMPTY:
        return b""
    if found := _WITH_FORMULA.fullmatch(cell):
        return found[1]
    found = _INLINE.fullmatch(cell)
    assert found
    return (b"<preserve>" if found[1] else b"<trim>") + found[2]


class _Kinds(dict[bytes, "_Kind"]):
    """How values become cells, by a cell's attributes. Raises Unknown."""

    def __init__(self, strings: Callable[[], SharedStrings], styles: Styles) -> None:
        super().__init__()
        self._strings = strings
        self._styles = styles
        self._moments = _Moments(styles.days_before)
        self._by_type: dict[bytes, _Kind] = {
            b"s": self._shared,
            b"b": _booleans,
            b"str": unescaped,
            b"inlineStr": _inline,
        }

    def __missing__(self, attributes: bytes) -> _Kind:
        found = _ATTRIBUTES.fullmatch(attributes)
        if not found:
            raise Unknown("attributes of a cell")
        kind = self[attributes] = self._kind(found[2] or found[3] or b"n", int(found[1] or found[4] or 0))
        return kind

    def _kind(self, name: bytes, style: int) -> _Kind:
        if name == b"n":
            if style in self._styles.durations:
                return _durations
            return self._dates if style in self._styles.moments else _numbers
        if name not in self._by_type:
            raise Unknown("a type of cells")
        return self._by_type[name]

    def _shared(self, values: Sequence[bytes]) -> Sequence[Cell]:
        return self._strings().texts(values)

    def _dates(self, values: Sequence[bytes]) -> list[Cell]:
        return list(map(self._moments.__getitem__, values))


class _Moments(dict[bytes, Any]):
    """Dates and times by the number that a cell has; many cells have the same."""

    def __init__(self, days_before: int) -> None:
        super().__init__()
        #: Days from the day 0 of 1900 to that of the workbook.
        self._days_before = days_before

    def __missing__(self, value: bytes) -> dt.date | dt.time:
        if len(self) >= _MOST_MOMENTS:
            self.clear()
        (number,) = _numbers([value])
        moment = self[value] = self._moment(number)
        return moment

    def _moment(self, number: float) -> dt.date | dt.time:
        day = number + self._days_before
        if 0 <= number < 1:
            return (_DAY_0 + _rounded(number)).time()
        if not (number >= _FIRST_DAY and day <= _LAST_DAY):
            raise Unknown("a date")
        if number.is_integer():
            return (_DAY_0 + dt.timedelta(days=day)).date()
        return _DAY_0 + _rounded(day)


def _rounded(days: float) -> dt.timedelta:
    """To the millisecond, halves up."""
    milliseconds = days * 86_400_000
    whole = int(milliseconds)
    return dt.timedelta(milliseconds=whole + (milliseconds - whole >= 0.5))


def _durations(values: Sequence[bytes]) -> list[Cell]:
    numbers = _numbers(values)
    if not 0 <= min(numbers) <= max(numbers) <= _LAST_DAY:
        raise Unknown("a duration")
    return list(map(_rounded, numbers))


def _numbers(values: Sequence[bytes]) -> list[float]:
    # float() reads more: spaces, underscores, words.
    if b"".join(values).translate(None, b"0123456789.+-eE"):
        raise Unknown("a number")
    try:
        return list(map(float, values))
    except ValueError:
        raise Unknown("a number") from None


def _booleans(values: Sequence[bytes]) -> list[Cell]:
    try:
        return list(map(_BOOLEANS.__getitem__, values))
    except KeyError:
        raise Unknown("true or false") from None


def _inline(values: Sequence[bytes]) -> Sequence[Cell]:
    parts = [value.partition(b">") for value in values]
    if any(mark not in _MARKS for mark, _, _ in parts):
        raise Unknown("a text of a cell's own")
    texts = unescaped([text for *_, text in parts])
    shown([text for text, (mark, *_) in zip(texts, parts, strict=True) if mark == _MARKS[1]])
    return texts
