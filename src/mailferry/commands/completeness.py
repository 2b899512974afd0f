"""`mailferry verify`, `backfill` and `gaps`: whether an event feed is complete, and what can be done where it is not."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from mailferry import console
from mailferry.commands.options import Json
from mailferry.commands.service import Configs, read

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from mailferry.config.event_feed import EventFeed
    from mailferry.config.service import Configuration
    from mailferry.database import Pool
    from mailferry.events.backfill import Backfill, Filled
    from mailferry.events.verify import Verified, Verifier
    from mailferry.events.windows import Gap

_T = TypeVar("_T")
_Feed = Annotated[str | None, typer.Argument(help="The feed; none: all event feeds.", show_default=False)]
_From = Annotated[
    str | None,
    typer.Option(
        "--from", help="Begin: ISO 8601 (local time without an offset) or Unix seconds.", show_default=False
    ),
]
_To = Annotated[str | None, typer.Option("--to", help="End, itself not included.", show_default="now")]

gaps = typer.Typer(
    no_args_is_help=False, help="Show the gaps of event feeds, ask for them again, or acknowledge them."
)


def verify(
    feed: _Feed = None,
    begin: _From = None,
    end: _To = None,
    last: Annotated[
        str | None, typer.Option(help="The time before now instead, such as 12h or 7d.", show_default="1d")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Collect what is missing; nothing is deleted.")
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Check what can be checked without the provider.")
    ] = False,
    seals: Annotated[
        bool, typer.Option("--seals", help="Check sealed files against their manifest instead, of all time.")
    ] = False,
    config: Configs = None,
    as_json: Json = False,
) -> None:
    """Prove that nothing is missing: list that time again and compare it with the files or the table.

    Exit status: 0 complete; 4 incomplete or wrong; 1 could not be checked; 2 usage or configuration.
    """
    from mailferry import report_events as report

    if last is not None and (begin is not None or end is not None):
        raise typer.BadParameter("give either --last, or --from and --to")
    if seals:
        _verify_seals(read(config or ()), feed, as_json=as_json)
    start, stop = _span(begin, end, last)

    async def work(verifier: Verifier) -> Verified:
        return await verifier.verify(start, stop, offline=offline, repair=repair)

    done = _each(read(config or ()), feed, work, "Verifier")
    code = _worst([report.verified_status(result) for result in done.values()])
    typer.echo(report.verified_json(done, code) if as_json else console.fitted(report.verified_text(done)))
    sys.exit(code)


def _verify_seals(configuration: Configuration, name: str | None, *, as_json: bool) -> NoReturn:
    from mailferry import report_seals as report
    from mailferry.errors import ConfigError, MailferryError
    from mailferry.events import seal, timestamps
    from mailferry.secrets import mask

    feeds = _chosen(configuration, name)
    done: dict[str, report.Checked | str] = {}
    for feed in feeds:
        if not feed.seal:
            if name:
                raise ConfigError([f"{name} is not sealed: set seal = true"])
            continue
        try:
            manifest, faults = seal.check(feed)
            faults += timestamps.check(feed) if feed.timestamp_url else []
        except MailferryError as error:
            done[feed.section] = mask(str(error))
        else:
            done[feed.section] = report.Checked(manifest, faults)
    code = _worst([report.status(result) for result in done.values()])
    typer.echo(report.as_json(done, code) if as_json else console.fitted(report.as_text(done)))
    sys.exit(code)


def backfill(
    feed: Annotated[str, typer.Argument(help="The feed.")],
    begin: Annotated[
        str, typer.Option("--from", help="Begin: ISO 8601 (local time without an offset) or Unix seconds.")
    ],
    end: _To = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what is missing; write nothing.")] = False,
    config: Configs = None,
    as_json: Json = False,
) -> None:
    """Collect past time into the feed's files or table: what is there already is left alone. Beside a running service.

    The same command goes on where one was stopped. Exit status: 0 done; 1 failed or stopped, what was filled stays; 4 done,
    with a gap.
    """
    from mailferry import report_events as report

    start, stop = _span(begin, end, None)

    async def work(filler: Backfill) -> Filled:
        return await filler.fill(start, stop, dry=dry_run)

    began = time.monotonic()
    done = _each(read(config or ()), feed, work, "Backfill")
    code = _worst([report.filled_status(result) for result in done.values()])
    seconds = time.monotonic() - began
    typer.echo(
        report.filled_json(done, code, seconds, dry=dry_run)
        if as_json
        else console.fitted(report.filled_text(done, seconds, dry=dry_run))
    )
    sys.exit(code)


@gaps.command("list")
def list_gaps(
    feed: _Feed = None,
    every: Annotated[bool, typer.Option("--all", help="Those that are filled or acknowledged, too.")] = False,
    config: Configs = None,
    as_json: Json = False,
) -> None:
    """Show the open gaps. Exit status: 0 none is open; 4 some are; 1 a feed could not be asked."""

    async def work(filler: Backfill) -> list[Gap]:
        return [gap for gap in (await filler.looked()).gaps if every or gap.open]

    _gaps_ended(_each(read(config or ()), feed, work, "Backfill"), as_json=as_json)


@gaps.command("retry")
def retry_gaps(feed: _Feed = None, config: Configs = None, as_json: Json = False) -> None:
    """Ask for the open gaps again, in small pieces. Exit status: 0 all are filled; 4 some are open; 1 failed."""

    async def work(filler: Backfill) -> list[Gap]:
        return [await filler.retry(gap) for gap in (await filler.looked()).open_gaps]

    _gaps_ended(_each(read(config or ()), feed, work, "Backfill"), as_json=as_json)


@gaps.command("acknowledge")
def acknowledge_gaps(
    reason: Annotated[str, typer.Option(help="Why that is all right; it stays on record.")],
    feed: _Feed = None,
    config: Configs = None,
    as_json: Json = False,
) -> None:
    """Take the open gaps off the list of what a person has to look at. Exit status: 0 done; 1 failed."""
    if not reason.strip():
        raise typer.BadParameter("say why", param_hint="--reason")

    async def work(filler: Backfill) -> list[Gap]:
        gaps = (await filler.looked()).open_gaps
        return await filler.close(gaps, "acknowledged", reason.strip()) if gaps else []

    _gaps_ended(_each(read(config or ()), feed, work, "Backfill"), as_json=as_json)


def _gaps_ended(done: dict[str, list[Gap] | str], *, as_json: bool) -> None:
    from mailferry import report_events as report

    code = _worst([report.gaps_status(result) for result in done.values()])
    typer.echo(report.gaps_json(done, code) if as_json else console.fitted(report.gaps_text(done)))
    sys.exit(code)


def _worst(codes: Sequence[int]) -> int:
    """Of several feeds: could not be checked, else incomplete, else all is well."""
    return 1 if 1 in codes else max(codes, default=0)


def _span(begin: str | None, end: str | None, last: str | None) -> tuple[int, int]:
    """The time that was asked for, Unix seconds. Raises BadParameter."""
    from mailferry.config.schedule import Schedule

    now = int(time.time())
    stop = now if end is None else moment(end, "--to")
    if begin is not None:
        start = moment(begin, "--from")
    else:
        try:
            interval = Schedule.parse(last or "1d").interval
        except ValueError:
            interval = None
        if interval is None:
            raise typer.BadParameter("write 90m, 12h or 7d", param_hint="--last")
        start = stop - int(interval.total_seconds())
    if start >= stop:
        raise typer.BadParameter("the begin is not before the end", param_hint="--from")
    return start, stop


def moment(text: str, option: str) -> int:
    """A time as people type it, in Unix seconds. Raises BadParameter."""
    from datetime import datetime

    if text.isascii() and text.isdecimal() and len(text) <= 11:
        return int(text)
    try:
        return int(datetime.fromisoformat(text).astimezone().timestamp())
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is no time; write 2026-01-31T14:00:00+03:00, 2026-01-31, or Unix seconds",
            param_hint=option,
        ) from None


def _chosen(configuration: Configuration, name: str | None) -> list[EventFeed]:
    """That event feed, or all. Raises ConfigError."""
    from mailferry.errors import ConfigError

    known = [feed.section for feed in configuration.events]
    feeds = [feed for feed in configuration.events if name in (None, feed.section)]
    if not feeds:
        raise ConfigError([f"there is no event feed {name}; there are {', '.join(known) or 'none'}"])
    return feeds


def _each(
    configuration: Configuration, name: str | None, work: Callable[[Any], Awaitable[_T]], kind: str
) -> dict[str, _T | str]:
    """Do it for one feed or for all, one after the other; by feed what came of it, or why it failed."""
    from mailferry.commands.events import set_up_logs
    from mailferry.events import run

    feeds = _chosen(configuration, name)
    set_up_logs(configuration.service)
    with console.progress() as watch:
        return run.blocking(_all(configuration, feeds, work, kind, watch))


async def _all(
    configuration: Configuration,
    feeds: Sequence[EventFeed],
    work: Callable[[Any], Awaitable[_T]],
    kind: str,
    watch: Callable[[str, float, int], None],
) -> dict[str, _T | str]:
    import asyncio

    from mailferry.errors import MailferryError
    from mailferry.events import run
    from mailferry.events.backfill import Backfill
    from mailferry.events.connections import Connections
    from mailferry.events.verify import Verifier
    from mailferry.secrets import hide, mask

    stop = asyncio.Event()
    restore = run.on_signals(lambda _number: stop.set())
    connections = Connections()
    done: dict[str, _T | str] = {}
    try:
        with _pool(configuration, feeds) as pool:
            for feed in feeds:
                hide(feed.api_key.get_secret_value(), feed.masked_key)
                worker = (Verifier if kind == "Verifier" else Backfill)(
                    feed, connections, pool=pool, stop=stop, watch=watch
                )
                try:
                    done[feed.section] = await work(worker)
                except MailferryError as error:
                    done[feed.section] = mask(str(error))
                finally:
                    await worker.let_go()
    finally:
        restore()
        await connections.close()
    return done


@contextlib.contextmanager
def _pool(configuration: Configuration, feeds: Sequence[EventFeed]) -> Iterator[Pool | None]:
    if all(feed.destination == "files" for feed in feeds):
        yield None
        return
    from mailferry import database

    sized = configuration.database.model_copy(update={"pool_min": 1, "pool_max": 1})
    with database.connect(sized) as pool:
        yield pool
