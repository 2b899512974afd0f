"""`mailferry simulate`: the stand-in provider as a process."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Annotated

import typer


def simulate(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.")] = 0,
    seed: Annotated[int, typer.Option(help="The same seed makes the same events.")] = 1,
    domain: Annotated[
        list[str] | None,
        typer.Option(help="A domain with a key of its own; may be given again.", show_default="example.com"),
    ] = None,
    feed: Annotated[
        list[str] | None,
        typer.Option(help="category/type that each domain has; may be given again.", show_default=False),
    ] = None,
    rate: Annotated[float, typer.Option(help="Mean events per second of each feed.")] = 1.0,
    start: Annotated[
        int | None, typer.Option(help="First second with events.", show_default="an hour ago")
    ] = None,
    end: Annotated[int | None, typer.Option(help="First second without.", show_default="goes on")] = None,
    late: Annotated[float, typer.Option(help="Share of events that become visible late.")] = 0.0,
    late_by: Annotated[int, typer.Option(help="Seconds late at most.")] = 60,
    odd: Annotated[
        float, typer.Option(help="Share of odd records: no time, no object, equal twins ...")
    ] = 0.0,
    missing_details: Annotated[float, typer.Option(help="Share of mail whose detail never comes.")] = 0.0,
    detail_bytes: Annotated[int, typer.Option(help="Bytes that a detail has beyond its list record.")] = 2000,
    troubles: Annotated[
        float, typer.Option(help="Share of requests that go wrong: 5xx, resets, cut JSON, HTML ...")
    ] = 0.0,
    hangs: Annotated[float, typer.Option(help="Share of requests that are never answered.")] = 0.0,
    page_cap: Annotated[int, typer.Option(help="Records of one list answer at most.")] = 1000,
    endtime: Annotated[str, typer.Option(help="Reading of endtime: inclusive or exclusive.")] = "inclusive",
    latency: Annotated[float, typer.Option(help="Seconds that an answer takes.")] = 0.0,
    max_concurrent: Annotated[
        int | None, typer.Option(help="Requests of a key at once; more get 429.")
    ] = None,
    max_per_second: Annotated[
        int | None, typer.Option(help="Requests of a key per second; more get 429.")
    ] = None,
    retry_after: Annotated[
        str, typer.Option(help="Retry-After of a 429: seconds, date or missing.")
    ] = "seconds",
) -> None:
    """Run a stand-in of the provider's API, to try mailferry without an account.

    Prints one line of JSON with its address, keys and a ready configuration; ends on Ctrl-C or SIGTERM.
    """
    from mailferry.testing.simulate import Simulation, run
    from mailferry.testing.troubles import RetryAfter

    if endtime not in {"inclusive", "exclusive"}:
        raise typer.BadParameter("inclusive or exclusive", param_hint="--endtime")
    if retry_after not in set(RetryAfter):
        raise typer.BadParameter("seconds, date or missing", param_hint="--retry-after")
    simulation = Simulation(
        port=port,
        seed=seed,
        rate=rate,
        start=start,
        end=end,
        late=late,
        late_by=late_by,
        odd=odd,
        missing_details=missing_details,
        detail_bytes=detail_bytes,
        troubles=troubles,
        hangs=hangs,
        page_cap=page_cap,
        endtime_inclusive=endtime == "inclusive",
        latency=latency,
        max_concurrent=max_concurrent,
        max_per_second=max_per_second,
        retry_after=RetryAfter(retry_after),
    )
    if domain:
        simulation = replace(simulation, domains=tuple(domain))
    if feed:
        simulation = replace(simulation, feeds=tuple(feed))
    sys.exit(run(simulation, typer.echo))
