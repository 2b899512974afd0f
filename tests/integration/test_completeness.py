"""`verify`, `backfill` and `gaps`, each as a process against the stand-in provider: what is wrong is found, and mended."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from support_events import INCOMING, OUTGOING, RECENT, SIGN_INS, a_site, ran, suffix
from support_table import a_table_site

from mailferry.testing.population import Traits
from mailferry.testing.provider import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support_events import Site

    from mailferry.config.database import DatabaseSettings

END = RECENT + 7200
TRAITS = Traits(rate=0.02, start=RECENT, end=END, detail_bytes=100)
FEEDS = [OUTGOING, SIGN_INS]


def ask(site: Site, *arguments: object) -> tuple[int, Any]:
    done = ran(*arguments, "--config", site.config, "--json")
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr


def verified(site: Site, feed: Any, *more: object) -> tuple[int, dict[str, Any]]:
    code, answer = ask(site, "verify", suffix(feed), "--from", RECENT, "--to", END + 3600, *more)
    return code, answer["feeds"][0]


@pytest.mark.parametrize("feed", FEEDS, ids=lambda feed: feed.category)
def test_what_was_collected_is_complete_with_and_without_the_provider(tmp_path: Path, feed: Any) -> None:
    with a_site(tmp_path, {feed: TRAITS}) as site:
        site.configure()
        assert site.collect().status == 0
        for more in ([], ["--offline"]):
            code, answer = verified(site, feed, *more)
            assert code == 0, answer
            assert answer["complete"] is True
            assert answer["total"]["held"] == len(site.lines(feed)) > 0
        assert max(site.provider.stats.details.values(), default=1) == 1


def test_an_event_without_a_time_counts_in_the_same_hour_for_both_sides(tmp_path: Path) -> None:
    """Even the first one of all, which no older event says the time of."""
    times: set[int] = set()

    def timeless(_: str, body: bytes) -> bytes:
        records = json.loads(body)
        times.update(record["time"] for record in records if "time" in record)
        for record in records:
            if "time" in record and record["time"] in (min(times), *sorted(times)[9:12]):
                del record["time"]
        return json.dumps(records).encode()

    with a_site(tmp_path, {SIGN_INS: TRAITS}, Settings(rewrite=timeless)) as site:
        site.configure(audit="off", look_back=0)
        assert site.collect().of(SIGN_INS).metrics.without_time > 3
        code, answer = verified(site, SIGN_INS)
        assert code == 0, answer
        assert answer["total"]["held"] == answer["total"]["listed"] == len(site.lines(SIGN_INS))
        assert all(hour["held"] == hour["listed"] for hour in answer["hours"])


def remove(lines: list[bytes]) -> None:
    del lines[5]


def double(lines: list[bytes]) -> None:
    lines.insert(5, lines[5])


def move(lines: list[bytes]) -> None:
    lines.append(lines.pop(5))


def change(lines: list[bytes]) -> None:
    assert b'"subject":"' in lines[5]
    lines[5] = lines[5].replace(b'"subject":"', b'"subject":"x', 1)


def tear(lines: list[bytes]) -> None:
    lines[5] = lines[5][:40] + b"\n"


@pytest.mark.parametrize(
    ("spoil", "found", "offline"),
    [
        (remove, {"missing": 1}, {"missing": 1}),
        (double, {"twice": 1}, {"twice": 1}),
        (move, {"out_of_order": 1}, {"out_of_order": 1}),
        (change, {"differing": 1}, {}),
        (tear, {"missing": 1, "torn": 1}, {"torn": 1}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_one_line_that_someone_removed_doubled_moved_or_changed_is_found(
    tmp_path: Path,
    spoil: Callable[[list[bytes]], None],
    found: dict[str, int],
    offline: dict[str, int],
) -> None:
    with a_site(tmp_path, {INCOMING: TRAITS}) as site:
        site.configure(audit="off")
        site.collect()
        path = site.data_files(INCOMING)[0]
        lines = path.read_bytes().splitlines(keepends=True)
        spoil(lines)
        path.write_bytes(b"".join(lines))
        for more, expected in (([], found), (["--offline"], offline)):
            code, answer = verified(site, INCOMING, *more)
            faults = ("missing", "unexpected", "twice", "out_of_order", "torn", "differing")
            assert {name: answer["total"][name] for name in faults if answer["total"][name]} == expected
            assert code == (4 if expected else 0)
            wrong = [hour for hour in answer["hours"] if hour["examples"]]
            assert len(wrong) == (1 if expected else 0)


def test_a_repair_writes_what_is_missing_and_nothing_else(tmp_path: Path) -> None:
    with a_site(tmp_path, dict.fromkeys(FEEDS, TRAITS)) as site:
        site.configure()
        site.collect()
        for feed in FEEDS:
            site.data_files(feed)[1].unlink()
            code, answer = verified(site, feed, "--repair")
            assert code == 0, answer
            assert answer["repaired"] > 0
            assert answer["complete"] is True
            site.assert_exactly_once(feed)
            assert verified(site, feed, "--offline")[0] == 0
            assert verified(site, feed)[0] == 0


@pytest.mark.parametrize("feed", FEEDS, ids=lambda feed: feed.category)
def test_a_table_is_verified_and_repaired_the_same_way(
    tmp_path: Path, database_settings: DatabaseSettings, feed: Any
) -> None:
    with a_table_site(tmp_path, {feed: TRAITS}, database_settings) as site:
        site.configure()
        site.collect()
        code, answer = verified(site, feed)
        assert code == 0, answer
        site.query("DELETE FROM mail_events WHERE number IN (7, 8)")
        assert verified(site, feed, "--offline")[1]["total"]["missing"] == 2
        code, answer = verified(site, feed, "--repair")
        assert (code, answer["repaired"]) == (0, 2), answer
        assert verified(site, feed, "--offline")[0] == 0


def test_time_before_the_feed_began_is_filled_without_moving_the_position(tmp_path: Path) -> None:
    with a_site(tmp_path, dict.fromkeys(FEEDS, TRAITS)) as site:
        site.configure(start_time=RECENT + 4000)
        site.collect()
        for feed in FEEDS:
            position = site.position_file(feed).read_text().splitlines()[0]
            before = len(site.lines(feed))
            asked = ("backfill", suffix(feed), "--from", RECENT, "--to", END)
            code, answer = ask(site, *asked, "--dry-run")
            assert code == 0, answer
            missing = answer["feeds"][0]["written"]
            assert len(site.lines(feed)) == before
            code, answer = ask(site, *asked)
            assert code == 0, answer
            assert answer["feeds"][0]["written"] == missing > 0
            assert site.position_file(feed).read_text().splitlines()[0] == position
            assert site.compared(feed).clean(late=before)
            assert ask(site, *asked)[1]["feeds"][0]["written"] == 0
            for more in ([], ["--offline"]):
                code, answer = verified(site, feed, *more)
                assert code == 0, answer
            # The next run goes on as if nothing had been.
            assert site.collect().status == 0
        assert max(site.provider.stats.details.values()) == 1


def test_a_gap_is_shown_asked_for_again_and_acknowledged(tmp_path: Path) -> None:
    full = Traits(rate=0.02, start=RECENT, end=END, bursts={RECENT + 100: 30})
    with a_site(tmp_path, {SIGN_INS: full}, Settings(page_cap=20)) as site:
        site.configure(max_records_per_page=20)
        assert site.collect().status == 4
        code, answer = ask(site, "gaps", "list")
        assert code == 4
        [gap] = answer["gaps"]
        assert (gap["kind"], gap["state"]) == ("saturated", "open")
        assert gap["found_at"]
        code, answer = ask(site, "gaps", "retry")
        assert (code, answer["gaps"][0]["state"]) == (4, "open")
        code, answer = ask(site, "gaps", "acknowledge", "--reason", "export of that second is filed")
        assert (code, answer["gaps"][0]["reason"]) == (0, "export of that second is filed")
        assert ask(site, "gaps", "list") == (0, {"version": 1, "exit_status": 0, "gaps": [], "errors": {}})
        assert len(ask(site, "gaps", "list", "--all")[1]["gaps"]) == 1


def test_a_gap_that_can_be_had_now_is_filled(tmp_path: Path) -> None:
    full = Traits(rate=0.02, start=RECENT, end=END, bursts={RECENT + 100: 30})
    cap = [20]
    with a_site(tmp_path, {SIGN_INS: full}, Settings(page_cap=lambda _: cap[0])) as site:
        site.configure(max_records_per_page=20)
        site.collect()
        site.configure(max_records_per_page=1000)
        # As many as before: that says nothing about what lies behind them.
        assert ask(site, "gaps", "retry")[0] == 4
        cap[0] = 1000
        code, answer = ask(site, "gaps", "retry")
        assert (code, answer["gaps"][0]["state"]) == (0, "filled"), answer
        assert ask(site, "gaps", "list")[0] == 0
        assert site.compared(SIGN_INS).lost == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["verify", "other"], "there is no event feed other"),
        (["verify", "--from", "yesterday"], "is no time"),
        (["verify", "--from", "2026-01-02", "--to", "2026-01-01"], "not before the end"),
        (["verify", "--last", "1d", "--from", "1"], "give either"),
        (["backfill", suffix(SIGN_INS), "--from", "99999999999"], "not before the end"),
        (["gaps", "acknowledge", "--reason", " "], "say why"),
    ],
)
def test_a_wrong_range_or_feed_is_refused_with_a_clear_line(
    tmp_path: Path, arguments: list[str], says: str
) -> None:
    with a_site(tmp_path, {SIGN_INS: TRAITS}) as site:
        site.configure()
        code, answer = ask(site, *arguments)
        assert code == 2
        assert says in str(answer)


def test_what_cannot_be_checked_is_said_and_ends_with_1(tmp_path: Path) -> None:
    with a_site(tmp_path, {SIGN_INS: TRAITS}) as site:
        site.configure()
        code, answer = verified(site, SIGN_INS)
        assert code == 1
        assert "not collected anything yet" in answer["error"]
        site.collect()
        site.configure(list_retries=0, list_timeout=2)
        text = site.config.read_text().replace(site.provider.url, "http://127.0.0.1:9")
        site.config.write_text(text)
        code, answer = verified(site, SIGN_INS)
        assert (code, answer["complete"]) == (1, None)
        assert verified(site, SIGN_INS, "--offline")[0] == 0


def test_time_that_was_never_listed_is_not_complete_without_the_provider(tmp_path: Path) -> None:
    with a_site(tmp_path, {SIGN_INS: TRAITS}) as site:
        site.configure(start_time=RECENT + 1800)
        assert site.collect().status == 0
        assert verified(site, SIGN_INS, "--offline", "--from", RECENT + 1800)[0] == 0
        code, answer = verified(site, SIGN_INS, "--offline")
        assert (code, answer["complete"]) == (1, None)
