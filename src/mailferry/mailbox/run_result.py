"""What one run of `mailferry load` comes to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mailferry import logs

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailferry.mailbox.ledger.jobs import Details

log = logs.of(__name__, logs.EMAIL)


@dataclass(kw_only=True, slots=True)
class Run:
    """The result of one run."""

    feed: str
    #: "done", "skipped" (another run is at it), "stopped" (asked to), "failed" (a passing fault that did not pass),
    #: "blocked" (a person has to act).
    status: str = "done"
    #: Jobs that this run finished or attempted, as they are at its end; by id.
    jobs: dict[int, Details] = field(default_factory=dict)
    #: Messages that were recorded.
    arrived: int = 0
    #: Whether database and mailbox were open at any time.
    reached: bool = False
    #: What the next run has to make good, each with its object.
    troubles: list[str] = field(default_factory=list)
    error: str = ""
    #: Called after each job, as `run` says.
    watch: Callable[[str, float, int], None] = field(default=lambda _feed, _share, _rows: None, repr=False)

    def skip(self, why: str) -> None:
        """Nothing is done in this run."""
        self.status = "skipped"
        log.info("%s: skipped, %s", self.feed, why)

    @property
    def exit_status(self) -> int:
        """0 done, skipped or stopped; 1 the run failed, or a job failed, waits or a file of it was refused; 3 nothing could be reached."""
        if self.status == "failed" and not self.reached:
            return 3
        from mailferry.mailbox.ledger.jobs import JobState

        open_or_failed = (JobState.FAILED, JobState.PENDING)
        jobs = [details.job for details in self.jobs.values()]
        failed = any(job.state in open_or_failed or (job.refused and job.error) for job in jobs)
        return int(self.status in ("failed", "blocked") or bool(self.troubles) or failed)
