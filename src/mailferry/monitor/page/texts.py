"""What the pages say, in Turkish, by the English text that stands in templates and code."""

from __future__ import annotations

TURKISH: dict[str, str] = {}
