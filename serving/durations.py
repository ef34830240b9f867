"""Times as people write them: `90`, `90s`, `10m`, `1h30m`."""

import re

from serving.errors import UsageError

_WRITTEN = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?")
_LONGEST_S = 30 * 86_400


def seconds(written: str) -> float:
    """The time in seconds. Raises UsageError for what is none, for none at all and for years."""
    found = _WRITTEN.fullmatch(written.strip().lower())
    total = (
        sum(float(part or 0) * unit for part, unit in zip(found.groups(), (3600, 60, 1), strict=True)) if found else 0
    )
    if not 0 < total <= _LONGEST_S:
        raise UsageError(f"{written!r} is no time up to {_LONGEST_S // 86_400} days. Write it as in 90s, 10m or 1h30m.")
    return total


def said(seconds: float) -> str:
    """In the largest unit that leaves it readable: `45 s`, `12 min`, `3.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
