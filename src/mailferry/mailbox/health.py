"""Whether a mailbox feed could run: each part tried for real, with nothing left changed."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from mailferry import database
from mailferry.config.mailbox_feed import Absent
from mailferry.disk import require_room
from mailferry.errors import MailferryError, Retry
from mailferry.mailbox.file_contract import as_route, check_declared, refuse_without_table
from mailferry.mailbox.folders import Folders
from mailferry.mailbox.source.open import open_mailbox
from mailferry.mailbox.target import absent, table
from mailferry.mailbox.workbook.header import clean_name
from mailferry.mailbox.workbook.inspector import Inspector
from mailferry.mailbox.workbook.reader import Reader, lacking
from mailferry.mailbox.workbook.values import Column
from mailferry.secrets import mask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mailferry.config.mailbox_feed import MailboxFeed


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """What one check found."""

    #: "configuration", "folders", "database", "mailbox" or "sandbox".
    name: str
    ok: bool
    #: What was found, or what is wrong and what to do about it.
    text: str
    #: Whether it failed because nothing answered.
    unreachable: bool = False


def checks(feed: MailboxFeed) -> Iterator[Check]:
    """One after the other, as they are done."""
    yield Check(name="configuration", ok=True, text=f"feed {feed.name}")
    for name, look in _LOOKS:
        try:
            text = look(feed)
        except MailferryError as error:
            unreachable = isinstance(error, Retry) and name in ("database", "mailbox")
            yield Check(name=name, ok=False, text=mask(str(error)), unreachable=unreachable)
        else:
            yield Check(name=name, ok=True, text=mask(text))


def exit_status(found: list[Check]) -> int:
    """0 all well; 3 neither database nor mailbox answered; 1 anything else."""
    if all(check.ok for check in found):
        return 0
    asked = [check for check in found if check.name in ("database", "mailbox")]
    return 3 if asked and all(check.unreachable for check in asked) else 1


def faulty(error: MailferryError) -> Check:
    """The configuration could not even be read."""
    return Check(name="configuration", ok=False, text=mask(str(error).replace("\n", "; ")))


def _folders(feed: MailboxFeed) -> str:
    folders = Folders(base=feed.base_dir)
    folders.prepare()
    require_room(folders.pending, feed.min_free, feed.mailbox.max_file_bytes)
    free = shutil.disk_usage(folders.pending).free
    mib = 1024 * 1024
    return f"{feed.base_dir} can be written, {free // mib:,} MB free"


def _sandbox(feed: MailboxFeed) -> str:
    """Start a reading child, and see how far this system confines it."""
    with Reader(feed.limits) as reader:
        missing = reader.missing_layers()
    if missing:
        return f"spreadsheets are read in a child process; this system lacks {lacking(missing)}"
    return "spreadsheets are read in a child process with all layers of its sandbox"


def _database(feed: MailboxFeed) -> str:
    """Connect, make what a load makes, write, and roll it all back."""
    with database.connect(feed.database) as pool, database.transaction(pool) as conn:
        version = conn.info.server_version
        where = "the private PostgreSQL" if feed.database.private else f"PostgreSQL at {conn.info.host}"
        with conn.transaction(force_rollback=True):
            stage = sql.Identifier(feed.database.temp_schema, "mailferry_check")
            try:
                conn.execute(sql.SQL("CREATE TABLE {} (n integer)").format(stage))
                conn.execute(sql.SQL("INSERT INTO {} VALUES (1)").format(stage))
                state = _targets(feed, conn)
            except psycopg.Error as error:
                raise database.translated(error) from error
        return f"{where}, version {version // 10_000}: can be written; {state}"


def _targets(feed: MailboxFeed, conn: database.Connection) -> str:
    """The feed's table and those of its routes, each as if it were the first to be loaded."""
    found = []
    for number in range(len(feed.routes) + 1):
        with conn.transaction(force_rollback=True):
            found.append(_target(as_route(feed, number), conn))
    return "; ".join(dict.fromkeys(found))


def _target(feed: MailboxFeed, conn: database.Connection) -> str:
    target = table.Target.inspect(conn, feed.target_table, feed.unique_key)
    if target is None:
        refuse_without_table(feed, "FILE")
        key = clean_name(feed.unique_key)
        columns = [Column(name=key, type="text")]
        made = table.create(conn, feed.target_table, key, columns, marking=feed.absent is Absent.MARK)
        return f"table {made.title} will be made with the first file"
    check_declared(feed, target)
    target.probe(conn)
    if feed.absent is Absent.MARK:
        target.refuse_without_mark(conn)
    if feed.absent is not Absent.KEEP:
        absent.probe(conn, target, feed.absent)
    if feed.history:
        conn.execute(sql.SQL("SELECT t FROM {} AS t WHERE false").format(target.identifier))
    return f"table {target.title} has {len(target.all_columns)} columns, key {target.key}"


def _mailbox(feed: MailboxFeed) -> str:
    """Sign in, open the folder, see whether marks can be set (which opening does), and count what waits."""
    mailbox = open_mailbox(feed.mailbox, inspector=Inspector(feed.limits))
    try:
        waiting = len(mailbox.find())
    finally:
        mailbox.close()
    return f"signed in, folder {feed.mailbox.folder} is open, {waiting} messages match"


_LOOKS = (("folders", _folders), ("database", _database), ("mailbox", _mailbox), ("sandbox", _sandbox))
