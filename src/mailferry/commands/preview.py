"""`mailferry preview` and `columns`: what a spreadsheet would do, and how its columns could be declared."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailferry import console
from mailferry.commands.mailbox import CONFIG, chosen_file, read
from mailferry.commands.options import Config, Feed, Json
from mailferry.entry import quit_with
from mailferry.errors import Reject, Retry
from mailferry.report_json import dumped

if TYPE_CHECKING:
    from mailferry.config.mailbox_feed import MailboxFeed
    from mailferry.database import Pool
    from mailferry.mailbox.preview import Preview


def preview(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE|JOB|-",
            help="A spreadsheet, or a message or archive with some; the number of a job; - for standard input.",
        ),
    ],
    config: Config = Path(CONFIG),
    feed: Feed = "",
    sender: Annotated[
        str, typer.Option(help="Of a file: as if this address had sent it; a message has its own.")
    ] = "",
    subject: Annotated[
        str, typer.Option(help="Of a file: as if its message had this subject; a message has its own.")
    ] = "",
    rows: Annotated[int, typer.Option(min=0, help="So many rows, rejected rows and changes are shown.")] = 10,
    as_json: Json = False,
) -> None:
    """Show what loading a spreadsheet would do: columns, rows, rejects, changes; nothing is loaded or marked.

    Exit status: 0 it would load; 1 it would not; 2 configuration; 3 the database could not be reached.
    """
    from mailferry import database, report_preview

    settings = read(config, feed)
    try:
        with database.connect(settings.database) as pool:
            found = (
                _of_job(pool, settings, int(source), rows)
                if source.isdecimal()
                else _of_file(pool, settings, source, rows, sender=sender, subject=subject)
            )
    except Retry as error:
        quit_with(error, 3)
    typer.echo(report_preview.as_json(found) if as_json else console.fitted(report_preview.as_text(found)))
    sys.exit(0 if all(one.loads for one in found) else 1)


def _of_file(
    pool: Pool, feed: MailboxFeed, source: str, rows: int, *, sender: str, subject: str
) -> list[Preview]:
    from datetime import UTC, datetime

    from mailferry.mailbox import preview as trial
    from mailferry.mailbox.file_contract import About

    if source == "-":
        with tempfile.NamedTemporaryFile(prefix="mailferry-") as copy:
            copy.write(sys.stdin.buffer.read())
            copy.flush()
            about = About(file="-", sender=sender, subject=subject, received=datetime.now(UTC))
            return trial.preview(pool, feed, Path(copy.name), "-", about=about, most=rows)
    path = _there(source)
    about = About(file=path.name, sender=sender, subject=subject, received=datetime.now(UTC))
    return trial.preview(pool, feed, path, path.name, about=about, most=rows)


def _there(source: str) -> Path:
    path = Path(source)
    if not path.is_file():
        raise Reject(f"There is no file {source}; a job is given by its number, as `jobs list` has it.")
    return path


def _of_job(pool: Pool, feed: MailboxFeed, number: int, rows: int) -> list[Preview]:
    from mailferry import database
    from mailferry.mailbox import preview as trial
    from mailferry.mailbox.ledger import admin
    from mailferry.mailbox.storing import original_name

    with database.transaction(pool) as conn:
        details = admin.show(conn, number)
    if details is None:
        raise Reject(f"There is no job {number}; `mailferry jobs list` shows those there are.")
    here: dict[Path, str] = {}
    for file in details.files:
        path, original = Path(file.path), Path(file.original)
        if path.is_file():
            here[path] = file.name
        elif original.is_file():
            here[original] = original_name(original)
    if not here:
        raise Reject(
            f"None of the files of job {number} is on this host any more; `mailferry jobs retry {number}` fetches them."
        )
    return [
        one
        for path, name in here.items()
        for one in trial.preview(pool, feed, path, name, job=details.job, most=rows)
    ]


def columns(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A sample spreadsheet.")],
    config: Config = Path(CONFIG),
    feed: Feed = "",
    as_json: Json = False,
) -> None:
    """Propose declared columns for a sample spreadsheet and the feed's table, as TOML to paste.

    Exit status: 0 done; 1 it is no spreadsheet; 2 configuration; 3 the database could not be reached.
    """
    from mailferry import database
    from mailferry.config.toml_text import key
    from mailferry.mailbox.proposal import propose
    from mailferry.mailbox.target.table import Target

    settings = read(config, feed)
    path = _there(file)
    try:
        with database.connect(settings.database) as pool, database.transaction(pool) as conn:
            target = Target.inspect(conn, settings.target_table, settings.unique_key)
    except Retry as error:
        quit_with(error, 3)
    found = propose(settings, path, target.columns if target else ())
    if as_json:
        plain = [
            {"sheet": one.sheet, "header_row": one.header_row, "columns": one.columns, "left": one.left}
            for one in found
        ]
        typer.echo(dumped(proposals=plain))
        return
    of_toml = (chosen_file(config) or config).suffix == ".toml"
    section = f"mailbox.{key(settings.name)}.columns" if of_toml else "columns"
    typer.echo("\n\n".join(one.as_toml(section) for one in found))
