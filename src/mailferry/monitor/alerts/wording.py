"""A message in words: for mail, for a webhook. Pure; what senders wrote is kept to one line and cannot forge another."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from mailferry.monitor.alerts.decide import Message
from mailferry.secrets import mask, mask_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mailferry.mailbox.ledger.jobs import File, Job
    from mailferry.mailbox.workbook.values import RejectedRow
    from mailferry.monitor.facts import Need

#: Refused jobs at once that get a mail each, ready to be forwarded; more are listed in one.
APART = 5
#: Of each list; the rest is counted.
_LISTED = 50
#: Rejected rows of a file in the text, and in its attachment.
_ROWS_SHOWN, ROWS_ATTACHED = 10, 10_000
_MOST_CHARACTERS = 400


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusedJob:
    """All that the mail about a refused job says."""

    job: Job
    files: tuple[File, ...]
    #: By file id, at most ROWS_ATTACHED of each.
    rejected: Mapping[int, Sequence[RejectedRow]]


def split(message: Message) -> list[Message]:
    """For mail: a few refused jobs are a mail each, as each concerns another sender."""
    jobs = [need for need in message.new if need.job_id is not None]
    if not jobs or len(jobs) > APART:
        return [message]
    rest = replace(message, new=tuple(need for need in message.new if need.job_id is None))
    apart = [Message(new=(need,), host=message.host) for need in jobs]
    return [*([rest] if rest else []), *apart]


def headline(message: Message) -> str:
    """One line."""
    new, still, over = len(message.new), len(message.still), len(message.over)
    if new + still == 1:
        text = (*message.new, *message.still)[0].subject
    elif new + still:
        text = f"{new + still:,} things need a person"
    elif over == 1:
        text = f"over: {message.over[0].subject}"
    else:
        text = f"over: {over:,} things that needed a person"
    return line(text)


def line(text: str) -> str:
    """As one printable line, not too long."""
    shown = mask(text)
    return shown if len(shown) <= _MOST_CHARACTERS else f"{shown[:_MOST_CHARACTERS]}..."


def text(message: Message) -> str:
    """All of it, for people."""
    blocks = [
        *_listed("", message.new),
        *_listed("Still there:", message.still),
    ]
    if message.over:
        shown = [f"- {line(one.subject)}" for one in message.over[:_LISTED]]
        blocks.append("\n".join(["Over:", *shown, *_rest(len(message.over))]))
    return "\n\n".join(blocks)


def _listed(title: str, needs: Sequence[Need]) -> Iterable[str]:
    if needs and title:
        yield title
    for need in needs[:_LISTED]:
        since = f"\n  since:  {need.since.astimezone():%Y-%m-%d %H:%M:%S}" if need.since else ""
        reason = mask_lines(need.reason[: 10 * _MOST_CHARACTERS]).replace("\n", "\n          ")
        yield f"- {line(need.subject)}{since}\n  reason: {reason}\n  to do:  {line(need.advice)}"
    if len(needs) > _LISTED:
        yield "\n".join(_rest(len(needs)))


def _rest(count: int) -> list[str]:
    return [f"- and {count - _LISTED:,} more: mailferry status"] if count > _LISTED else []


# A refused job


def job_subject(refused: RefusedJob) -> str:
    """Of the mail about it; without our own words of it, so that it can be forwarded."""
    what = "Refused" if refused.job.error else "Rows rejected"
    return line(f"{what}: {refused.job.subject or '(no subject)'}")


def job_text(refused: RefusedJob, need: Need) -> str:
    """What was wrong, for the sender; what to do, for the administrator, at the end."""
    job = refused.job
    lines = [
        "A message arrived that could not be loaded completely."
        if any(file.counts.read > file.counts.rejected for file in refused.files)
        else "A message arrived that could not be loaded.",
        "",
        f"From:      {line(job.sender)}",
        f"Subject:   {line(job.subject)}",
        f"Received:  {job.received.astimezone():%Y-%m-%d %H:%M:%S}",
    ]
    if not refused.files and job.error:
        lines += ["", line(job.error)]
    for file in refused.files:
        lines += ["", *_file_lines(file, refused.rejected.get(file.id, ()))]
    lines += ["", "-- ", f"mailferry, feed {line(job.feed)}, job {job.id}. {line(need.advice)}"]
    return "\n".join(lines)


def _file_lines(file: File, rows: Sequence[RejectedRow]) -> Iterable[str]:
    counts = file.counts
    if file.error:
        yield f"File {line(file.name)}: not loaded"
        yield f"  {line(file.error)}"
        return
    yield f"File {line(file.name)}: {counts.read:,} rows read, {counts.rejected:,} rejected"
    for row in rows[:_ROWS_SHOWN]:
        yield f"  {line(row.sheet)}, row {row.row}, {line(row.column)} = {line(row.value)!r}: {line(row.reason)}"
    if counts.rejected > _ROWS_SHOWN and rows:
        attached = f"the first {len(rows):,}" if counts.rejected > len(rows) else "all of them"
        yield f"  ... {attached} are in the attachment"


# A webhook


def payload(message: Message, style: str, at: str) -> dict[str, Any]:
    """What is posted: our own JSON, or what Slack or Teams show."""
    if style == "slack":
        shown = f"*{_slack(headline(message))}*\n{_slack(text(message))}"
        return {"text": shown[:30_000]}
    if style == "teams":
        body = [
            {"type": "TextBlock", "text": _teams(headline(message)), "weight": "Bolder", "wrap": True},
            {"type": "TextBlock", "text": _teams(text(message))[:20_000], "wrap": True},
        ]
        card = {
            "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
            "type": "AdaptiveCard",
            "version": "1.4",
            "body": body,
        }
        kind = "application/vnd.microsoft.card.adaptive"
        return {"type": "message", "attachments": [{"contentType": kind, "content": card}]}
    return {
        "version": 1,
        "at": at,
        "host": message.host,
        "headline": headline(message),
        "text": text(message),
        "new": [_plain(need) for need in message.new],
        "still": [_plain(need) for need in message.still],
        "over": [{"key": one.key, "kind": one.kind, "subject": line(one.subject)} for one in message.over],
    }


def _plain(need: Need) -> dict[str, Any]:
    since = need.since.isoformat() if need.since else None
    return {
        **asdict(need),
        "since": since,
        "subject": line(need.subject),
        "reason": mask_lines(need.reason),
        "advice": line(need.advice),
    }


def _slack(shown: str) -> str:
    """Slack's own three characters, see https://api.slack.com/reference/surfaces/formatting."""
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _teams(shown: str) -> str:
    """No Markdown of a sender's: a card shows it. Lines end where they end."""
    for character in "\\*_[]()`#":
        shown = shown.replace(character, f"\\{character}")
    return shown.replace("\n", "\n\n")
