"""What makes a short command short: for those who type `--list`, and for cron every five minutes."""

from __future__ import annotations

import atexit
import gc
import os


def quicken() -> None:
    """Spare a quarter of the time that starting and ending take; to be called before anything heavy is imported."""
    # Pydantic would look for plugins in the metadata of every installed package; there are none for it here.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # Imports and records make many small objects and no cycles: look for garbage seldom, and not at all at the end.
    gc.set_threshold(10_000, 20, 20)
    atexit.register(gc.freeze)
