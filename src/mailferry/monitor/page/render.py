"""From values to HTML: templates, the reader's language, times, spans and numbers as people read them."""

from __future__ import annotations

import functools
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mailferry.monitor.page.chart import bars, outline
from mailferry.monitor.page.texts import TURKISH
from mailferry.secrets import mask

if TYPE_CHECKING:
    from collections.abc import Callable

LANGUAGES = ("en", "tr")
#: Where there is nothing to say.
DASH = "\N{EN DASH}"


def language(accepted: str) -> str:
    """The first choice of an Accept-Language header (RFC 9110, 12.5.4) among LANGUAGES; English where there is none."""
    best, found = 0.0, "en"
    for part in accepted[:500].split(","):
        tag, _, rest = part.strip().partition(";")
        name = tag.strip().lower().partition("-")[0]
        try:
            weight = float(rest.strip().removeprefix("q=")) if rest else 1.0
        except ValueError:
            continue
        if name in LANGUAGES and weight > best:
            best, found = weight, name
    return found


@functools.cache
def translator(lang: str) -> Callable[..., Markup]:
    """`_("{count} rows", count=3)`: the text in that language, with values that are escaped."""

    def translated(text: str, **values: object) -> Markup:
        found = TURKISH.get(text, text) if lang == "tr" else text
        return Markup(found).format(**{name: _printable(value) for name, value in values.items()})  # noqa: S704 - our own texts

    return translated


def page(template: str, lang: str, now: datetime, **values: Any) -> str:
    """A template in a language; `now` is aware, and times are shown in its zone."""
    text = translator(lang)
    return (
        _environment()
        .get_template(template)
        .render(
            **values,
            _=text,
            lang=lang,
            now=now,
            ago=functools.partial(ago, text, now),
            clock=functools.partial(_clock, text, now),
            span=functools.partial(_span, text),
            number=functools.partial(number, lang),
            title_of=functools.partial(_title_of, now),
        )
    )


@functools.cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("mailferry.monitor.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    made.globals |= {"bars": bars, "outline": outline}
    made.filters["mask"] = mask
    return made


def _printable(value: Any) -> Any:
    """What came by mail, or a name, must not hide or turn round what stands beside it: controls and marks of direction are spelled."""
    if value is None:
        return ""
    if not isinstance(value, str) or value.isprintable() or isinstance(value, Markup):
        return value
    return "".join(c if c.isprintable() or c in " \n" else c.encode("unicode_escape").decode() for c in value)


def number(lang: str, value: float | None) -> str:
    """With the language's marks of thousands."""
    if value is None:
        return DASH
    text = f"{value:,.1f}" if isinstance(value, float) and value % 1 else f"{value:,.0f}"
    return text.translate(str.maketrans(",.", ".,")) if lang == "tr" else text


def _span(text: Callable[..., Markup], seconds: float | None) -> Markup | str:
    """A length of time, in its largest unit."""
    if seconds is None:
        return DASH
    for size, few in (
        (86_400.0, "{n} d"),
        (3600.0, "{n} h"),
        (60.0, "{n} min"),
    ):
        if seconds >= 2 * size:
            return text(few, n=int(seconds // size))
    return text("{n} s", n=int(seconds))


def ago(text: Callable[..., Markup], now: datetime, moment: datetime | None) -> Markup:
    """How long since, or until, a time; the time itself as its title, and for programs."""
    if moment is None:
        return Markup("&ndash;")
    seconds = (now - moment).total_seconds()
    said = _span(text, abs(seconds))
    said = (
        text("now")
        if abs(seconds) < 1
        else text("{span} ago", span=said)
        if seconds > 0
        else text("in {span}", span=said)
    )
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        moment.astimezone(UTC).isoformat(timespec="seconds"), _title_of(now, moment), said
    )


def _clock(text: Callable[..., Markup], now: datetime, moment: datetime | None) -> Markup:
    """A time as it is on the clock here; its date where that is not today's."""
    if moment is None:
        return text("never")
    local = moment.astimezone(now.tzinfo)
    said = f"{local:%H:%M}" if local.date() == now.date() else f"{local:%Y-%m-%d %H:%M}"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        moment.astimezone(UTC).isoformat(timespec="seconds"), _title_of(now, moment), said
    )


def _title_of(now: datetime, moment: datetime) -> str:
    return f"{moment.astimezone(now.tzinfo):%Y-%m-%d %H:%M:%S %Z}"
