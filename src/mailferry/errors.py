"""The error tree. What to do about an error is its class; what happened, and to which object, is its text.

MailferryError
├── Retry      it may pass by itself: network, throttling, database unreachable, disk full
├── Reject     this one object can never be processed: a broken workbook, a record that cannot be read
└── Stop       a person has to act first: configuration, authentication, a damaged checkpoint
    └── ConfigError    all faults found in a configuration, one a line

A class's docstring is its message where none is given.
"""

from __future__ import annotations

import inspect


class MailferryError(Exception):
    """Something went wrong."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or inspect.getdoc(type(self)))


class Retry(MailferryError):  # noqa: N818 - named for what to do, see above
    """A passing fault; the same work will be tried again."""


class Reject(MailferryError):  # noqa: N818 - named for what to do, see above
    """This object can never be processed as it is."""


class Stop(MailferryError):  # noqa: N818 - named for what to do, see above
    """A person has to act before the work can go on."""


class ConfigError(Stop):
    """The configuration cannot be used."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        #: One line a fault, each with file, section, option and what would be right.
        self.faults = faults


class Interrupted(KeyboardInterrupt):
    """The process is asked to end and has no time left; raised by a signal's handler, wherever the work stands."""
