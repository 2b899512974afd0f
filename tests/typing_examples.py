"""How `mailferry.testing` is used from outside, for mypy: it never runs, and each line has to be accepted, or to be refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_type

from mailferry.testing.population import Event, Feed, Population, Traits
from mailferry.testing.provider import ListCall, Provider, Settings, serve
from mailferry.testing.troubles import RetryAfter, Throttling, Trouble, Troubles
from mailferry.testing.verify import Comparison, Truth, compare, read_lines, read_truth
from mailferry.testing.workbooks import Tab, xlsx

if TYPE_CHECKING:
    from pathlib import Path

FEED = Feed(api_key="0123456789abcdef", domain="example.com", category="mail", type="outgoinglog")
TRAITS = Traits(rate=0.5, start=1_750_000_000, end=1_750_003_600, bursts={1_750_000_001: 9}, late=0.1)


def a_collector_is_compared_with_the_truth(files: list[Path]) -> Comparison:
    population = Population({FEED: TRAITS}, seed=7)
    settings = Settings(
        page_cap=100,
        latency=0.02,
        list_troubles=Troubles(unavailable_503=0.1),
        throttling=Throttling(max_concurrent=10, retry_after=RetryAfter.SECONDS),
    )
    with serve(population, settings, clock=lambda: 1_750_010_000.0) as provider:
        assert_type(provider, Provider)
        assert_type(provider.list_url("mail"), str)
        assert_type(provider.stats.lists, list[ListCall])
        assert_type(provider.stats.troubles[Trouble.UNAVAILABLE_503], int)
        truth = list(provider.truth(FEED, TRAITS.start, 1_750_003_600))
    assert_type(truth, list[Event])
    found = compare(truth, read_lines(files))
    assert_type(found.clean(late=2), bool)
    return found


async def a_provider_in_a_loop_of_the_test() -> str:
    async with Provider(Population({FEED: TRAITS})) as provider:
        return provider.url


def a_truth_that_was_saved(lines: list[bytes]) -> bool:
    truth = list(read_truth(lines))
    assert_type(truth, list[Truth])
    return compare(truth, lines).clean()


def workbooks(folder: Path) -> list[Path]:
    tab = Tab(name="Sheet1", rows=[("HAWB", "Pieces"), ("1", 2), (None, 1.5)])
    return [xlsx(folder / "a.xlsx", tab, tab), xlsx(folder / "b.xlsx", tab, epoch_1904=True)]


def what_is_refused() -> None:
    Feed("0123456789abcdef", "example.com", "mail", "outgoinglog")  # type: ignore[call-arg]  # by name alone
    Traits(start="yesterday")  # type: ignore[arg-type]  # Unix seconds
    Settings(latency=0.1).latency = 1  # type: ignore[misc]  # frozen
    Population([FEED])  # type: ignore[arg-type]  # traits of each feed
