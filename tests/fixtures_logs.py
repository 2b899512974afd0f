"""What a test may change of the logging of the whole process, and gets back as it was."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from typing import TYPE_CHECKING

import pytest

from mailferry import logs, secrets

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def fresh_logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`logs.set_up` may be called; what earlier tests have hidden stands in lines as it is."""
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    monkeypatch.setattr(secrets, "_SECRETS", {})
    root, ours = logging.getLogger(), logging.getLogger("mailferry")
    before = root.level, ours.level
    hooks = sys.excepthook, threading.excepthook, warnings.showwarning
    yield
    logging.captureWarnings(capture=False)
    sys.excepthook, threading.excepthook, warnings.showwarning = hooks
    for handler in root.handlers[:]:
        if isinstance(handler, logs._Handler):
            root.removeHandler(handler)
            handler.close()
    root.setLevel(before[0])
    ours.setLevel(before[1])
