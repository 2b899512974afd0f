"""Jobs, runs and checks of mailbox feeds, for people (plain text) and for programs (versioned JSON)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from mailferry import report_json
from mailferry.secrets import mask

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from mailferry.mailbox.explain import MessageVerdict
    from mailferry.mailbox.health import Check
    from mailferry.mailbox.ledger.admin import Undoing
    from mailferry.mailbox.ledger.jobs import Details, File, Job, Tally
    from mailferry.mailbox.run_result import Run
    from mailferry.mailbox.workbook.values import RejectedRow


# Runs


def run_json(run: Run) -> str:
    return report_json.dumped(
        exit_status=run.exit_status,
        feed=run.feed,
        status=run.status,
        error=run.error or None,
        arrived=run.arrived,
        troubles=run.troubles,
        jobs=[details_plain(details) for _, details in sorted(run.jobs.items())],
        rows=_sum([file for details in run.jobs.values() for file in details.files]),
    )


def run_text(run: Run) -> str:
    rows = _sum([file for details in run.jobs.values() for file in details.files])
    states = [details.job.state.value for details in run.jobs.values()]
    lines = [f"{run.feed}: {run.status}"]
    if run.error:
        lines.append(f"  error     {run.error}")
    lines.append(f"  messages  {run.arrived:,} new")
    if run.jobs:
        counted = ", ".join(f"{states.count(state):,} {state}" for state in dict.fromkeys(states))
        lines.append(f"  jobs      {counted}")
        lines.append("  rows      " + ", ".join(f"{count:,} {name}" for name, count in rows.items()))
    for _, details in sorted(run.jobs.items()):
        lines += [f"  failed    {line}" for line in _faults(details)]
    lines += [f"  to do     {mask(text)}" for text in run.troubles]
    return "\n".join(mask(line) for line in lines)


def _faults(details: Details) -> list[str]:
    faults = [f"job {details.job.id}: {file.name}: {file.error}" for file in details.files if file.error]
    if not faults and details.job.error:
        faults = [f"job {details.job.id}: {details.job.error}"]
    return faults


def _sum(files: Sequence[File]) -> dict[str, int]:
    names = ("read", "inserted", "updated", "unchanged", "superseded", "rejected")
    return {name: sum(getattr(file.counts, name) for file in files) for name in names}


# Jobs


def job_plain(job: Job) -> dict[str, Any]:
    """A job as JSON has it."""
    return dataclasses.asdict(job)


def details_plain(details: Details) -> dict[str, Any]:
    """A job with its files and the parts skipped."""
    return {
        **job_plain(details.job),
        "files": [dataclasses.asdict(file) for file in details.files],
        "passed": [
            {"section": part.section, "name": part.name, "reason": part.reason} for part in details.skipped
        ],
    }


def jobs_text(jobs: Sequence[Job]) -> str:
    if not jobs:
        return "no jobs"
    zone = f"received ({jobs[0].received.astimezone():%Z})"
    lines = [f"{'job':>6}  {zone:<16}  {'state':<11}  subject"]
    for job in jobs:
        error = f"  [{job.error.splitlines()[0]}]" if job.error else ""
        if job.undone_at:
            error += "  [undone]"
        if job.warnings:
            error += f"  [{job.warnings} warnings]"
        lines.append(f"{job.id:>6}  {_time(job.received)}  {job.state:<11}  {mask(job.subject + error)}")
    return "\n".join(lines)


def replayed_text(jobs: Sequence[Job], *, dry_run: bool) -> str:
    if not jobs:
        return "no jobs"
    end = "would be done again" if dry_run else "the service, or the next `mailferry load`, does them"
    return f"{jobs_text(jobs)}\n{len(jobs)} jobs, oldest first; {end}"


def undone_json(done: Undoing) -> str:
    rows = dataclasses.asdict(done.rows) if done.rows else None
    return report_json.dumped(job=job_plain(done.job), rows=rows, counted_on=done.counted_on)


def undone_text(done: Undoing) -> str:
    if done.rows is None:
        assert done.job.undone_at is not None
        return f"job {done.job.id}: was undone {_time(done.job.undone_at)}; nothing to do"
    rows = done.rows
    text = (
        f"job {done.job.id}: undone: {rows.deleted:,} rows deleted that it had inserted, {rows.put_back:,} as they were"
        f" before, {rows.restored:,} there again"
    )
    if done.counted_on:
        jobs = ", ".join(map(str, done.counted_on))
        text += (
            f"\nnote: jobs done since found rows of the table as they were: {jobs}; where those were this job's rows,"
            " they went back all the same"
        )
    return text


def acknowledged_text(jobs: Sequence[Job]) -> str:
    return "\n".join(f"job {job.id}: acknowledged" for job in jobs) or "no refused jobs"


def details_text(details: Details, rejected: Sequence[tuple[File, Sequence[RejectedRow]]] = ()) -> str:
    job = details.job
    lines = [
        f"job {job.id}: {job.state}",
        f"  feed       {job.feed}",
        f"  message    {job.ref.uid} in {job.ref.folder or 'INBOX'} of {job.ref.account}",
        f"  subject    {job.subject}",
        f"  sender     {job.sender}",
        f"  received   {_time(job.received)}",
        f"  attempts   {job.attempts}",
    ]
    if job.finished_at:
        lines.append(
            f"  finished   {_time(job.finished_at)}, {'marked' if job.marked_at else 'not marked yet'}"
        )
    if job.undone_at:
        lines.append(f"  undone     {_time(job.undone_at)}")
    if job.refused:
        acknowledged = job.acknowledged_at
        lines.append(
            f"  refused    acknowledged {_time(acknowledged)}"
            if acknowledged
            else f"  refused    needs a person: `mailferry jobs retry`, `cancel` or `acknowledge {job.id}`"
        )
    if job.error:
        lines.append(f"  error      {job.error}")
    for file in details.files:
        c = file.counts
        lines.append(
            f"  file       {file.name}: {file.state}" + (f" into {file.target}" if file.target else "")
        )
        if c.read:
            lines.append(
                f"             {c.read:,} rows read, {c.inserted:,} inserted, {c.updated:,} updated, "
                f"{c.unchanged:,} unchanged, {c.superseded:,} superseded, {c.rejected:,} rejected"
                + (f"; {c.absent:,} absent ones marked or deleted" if c.absent else "")
            )
        if file.duplicate_of:
            lines.append(f"             the same as file {file.duplicate_of}")
        if file.error:
            lines.append(f"             {file.error}")
        if file.path:
            lines.append(f"             {file.original if file.original and file.finished_at else file.path}")
        lines += [f"             warning: {warning}" for warning in c.warnings]
    lines += [f"  skipped    part {p.section} {p.name!r}: {p.reason}" for p in details.skipped]
    for file, rows in rejected:
        lines += [
            f"  rejected   {file.name}, {row.sheet}, row {row.row}, {row.column} = {row.value!r}: {row.reason}"
            for row in rows
        ]
    return "\n".join(mask(line) for line in lines)


# Checks, statistics, explanations


def checks_text(checks: Sequence[Check]) -> str:
    return "\n".join(
        f"{'ok    ' if check.ok else 'FAILED'}  {check.name:<13}  {check.text}" for check in checks
    )


def tally_text(tally: Tally) -> str:
    """What was done in a span of time, in one line."""
    seconds = f"{tally.seconds:,.1f} s a job" if tally.seconds is not None else "no job"
    return (
        f"{tally.completed:,} completed, {tally.failed:,} failed, {tally.files:,} files ({tally.errors:,} with errors), "
        f"{tally.rows_read:,} rows read ({tally.inserted:,} inserted, {tally.updated:,} updated, "
        f"{tally.unchanged:,} unchanged, {tally.rejected:,} rejected), {tally.warnings:,} warnings, {seconds}"
    )


def explained_text(messages: Sequence[MessageVerdict]) -> str:
    if not messages:
        return "the folder holds no messages"
    lines = []
    for message in messages:
        received = _time(message.received) if message.received else "-"
        why = f": {message.reason}" if message.reason else ""
        lines.append(f"{received}  {message.subject!r} from {message.sender or 'no sender'}")
        lines.append(f"  {message.verdict}{why}")
        lines += [f"    part {p.section} {p.name!r} {p.verdict}: {p.reason}" for p in message.parts]
    return "\n".join(mask(line) for line in lines)


def _time(time: datetime) -> str:
    """In the machine's time zone."""
    return f"{time.astimezone():%Y-%m-%d %H:%M}"
