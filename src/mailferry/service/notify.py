"""Notifications to systemd: ready, status, still alive; see sd_notify(3)."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Notifier:
    """Sends to the socket that systemd names; without one every call does nothing."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        usec = environ.get("WATCHDOG_USEC", "")
        for_us = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        #: Seconds within which a sign of life is expected; None where the unit has no watchdog.
        self.watchdog = int(usec) / 1e6 if usec.isdecimal() and int(usec) and for_us else None
        self._status = ""
        #: Whether `ready` was sent since the start.
        self.was_ready = False

    def ready(self, status: str) -> None:
        """The service works; also the end of a reload."""
        self.was_ready = True
        self._send("READY=1", status)

    def status(self, text: str) -> None:
        """One line for `systemctl status`; only a new one is sent."""
        if text != self._status:
            self._send("", text)

    def alive(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    def waiting(self, seconds: float, status: str) -> None:
        """Not ready for a good reason: extend the start time-out by so many seconds."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}", status)

    def reloading(self) -> None:
        """A new configuration is being taken; ends with `ready`."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str) -> None:
        """The end has begun."""
        self._send("STOPPING=1", status)

    def _send(self, message: str, status: str = "") -> None:
        if not self._address:
            return
        if status:
            self._status = status
            message += f"\nSTATUS={' '.join(status.split())}"
        address = f"\0{self._address[1:]}" if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto(message.strip().encode(), address)
        except OSError:
            return  # systemd does not read its socket; there is nowhere to report that
