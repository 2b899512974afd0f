"""`mailferry alerts`: whether alerts arrive."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING

import typer

from mailferry.commands.service import Configs, read

if TYPE_CHECKING:
    from collections.abc import Callable

alerts = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Try the alerts.")


@alerts.callback()
def _root() -> None:
    pass


@alerts.command("test")
def send_test(config: Configs = None) -> None:
    """Send a test message on every way that is set up, and say what became of it.

    Exit status: 0 all were taken; 1 one was not, or none is set up; 2 configuration.
    """
    from mailferry.errors import MailferryError
    from mailferry.monitor.alerts.channels import channels, ping
    from mailferry.monitor.alerts.decide import Message
    from mailferry.monitor.facts import Need
    from mailferry.secrets import mask
    from mailferry.service.plan import host_name

    configuration = read(config or ())
    settings, host = configuration.alerts, host_name(configuration)
    need = Need(
        key="test",
        kind="test",
        subject="a test of the alerts",
        reason=f"`mailferry alerts test` was run on {host}",
        advice="nothing; this is how alerts arrive",
    )
    message = Message(new=(need,), host=host)
    ways: dict[str, Callable[[], str]] = {
        one.name: functools.partial(one.deliver, message, lambda _: None) for one in channels(settings)
    }
    if settings.ping_url:
        ways["ping"] = functools.partial(ping, settings.ping_url.get_secret_value())
    failed = not ways
    for name, deliver in ways.items():
        try:
            typer.echo(f"{name}: taken by {deliver()}")
        except MailferryError as error:
            failed = True
            typer.echo(f"{name}: FAILED: {mask(str(error))}")
    if not ways:
        typer.echo("nothing is set up: set mail_to of [alerts] (ALERT_MAIL_TO), or webhook, or ping_url")
    sys.exit(int(failed))
