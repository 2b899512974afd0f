"""What a preview found, for people (plain text) and for programs (versioned JSON)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from mailferry.report_json import dumped
from mailferry.secrets import mask

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mailferry.mailbox.preview import Change, Preview

#: Characters of a value that are shown.
_WIDE = 40


def as_json(found: Sequence[Preview]) -> str:
    """All of it."""
    return dumped(loads=all(one.loads for one in found), previews=[dataclasses.asdict(one) for one in found])


def as_text(found: Sequence[Preview]) -> str:
    """A block for each file and route."""
    return "\n\n".join("\n".join(_lines(one)) for one in found)


def _lines(one: Preview) -> Iterator[str]:
    by = f", route {one.route}" if one.route else ""
    yield f"{one.file}{by} into {one.table}: {_verdict(one)}"
    if one.sheets:
        yield f"  header: row {one.header_row} of {', '.join(map(repr, one.sheets))}"
    for column in one.columns:
        source = repr(column.header) if column.header else "no cell"
        made = ", made" if column.new else ""
        yield f"  {column.column} ({column.type}{made}): {source}, {column.reason}"
    if one.unknown:
        yield f"  ignored: {', '.join(map(repr, one.unknown))}"
    if one.missing:
        yield f"  without a header: {', '.join(one.missing)}"
    yield from (f"  warning: {mask(warning)}" for warning in one.counts.warnings)
    yield from _rows(one)
    yield from (
        f"  rejected: row {row.row}, {row.column or 'the row'} {_short(row.value)}: {mask(row.reason)}"
        for row in one.rejects
    )
    yield from (f"  {_changed(change)}" for change in one.changes)
    if one.create_sql:
        yield f"  the table is made by: {one.create_sql}"


def _verdict(one: Preview) -> str:
    if not one.loads:
        return f"would not load: {mask(one.error)}"
    if one.duplicate_of is not None:
        return f"would change nothing, a duplicate of file {one.duplicate_of}"
    counts = one.counts
    return (
        f"would load; of {counts.read} rows {counts.inserted} inserted, {counts.updated} updated,"
        f" {counts.unchanged} unchanged, {counts.rejected} rejected"
    )


def _rows(one: Preview) -> Iterator[str]:
    for number, row in enumerate(one.rows, 1):
        cells = ", ".join(f"{name} {_short(value)}" for name, value in row.items())
        yield f"  row {number} as loaded: {cells}"


def _changed(change: Change) -> str:
    if change.old is None:
        return f"inserted: {_short(change.key)}"
    if change.new is None:
        return f"deleted: {_short(change.key)}"
    pairs = ", ".join(
        f"{name} {_short(change.old.get(name))} -> {_short(value)}" for name, value in change.new.items()
    )
    return f"updated: {_short(change.key)}: {pairs}"


def _short(value: str | None) -> str:
    if value is None:
        return "NULL"
    return repr(value if len(value) <= _WIDE else value[: _WIDE - 3] + "...")
