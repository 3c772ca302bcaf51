"""What all Describe actions share: filters by tag, and pages by NextToken or by number."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence

from cocoon_net.lab.cloud.records import R, Tags
from cocoon_net.lab.cloud.wire import Call, Fields, invalid

MOST = 100
"""The largest page; 10 is the default."""


def page(call: Call, rows: Sequence[R], most: int = MOST) -> tuple[list[R], Fields]:
    """Cut one page out of ``rows``, which are sorted by id, and return it with the fields that describe it.

    ``MaxResults`` and ``NextToken`` win over ``PageNumber`` and ``PageSize``. A token names the last id that was
    seen, so objects that vanish between two pages do not hide others.
    """
    number = call.integer("PageNumber", 1, 10_000)
    size = call.integer("PageSize", 1, most)
    results = call.integer("MaxResults", 1, most)
    token = call.text("NextToken")
    total: Fields = {"TotalCount": len(rows)}
    if results is None and not token and (number is not None or size is not None):
        number, size = number or 1, size or 10
        start = (number - 1) * size
        return list(rows[start : start + size]), {**total, "PageNumber": number, "PageSize": size}
    after = _after(token)
    left = [row for row in rows if row.id > after]
    shown = left[: results or 10]
    more = len(left) > len(shown)
    return shown, {**total, "NextToken": _token(shown[-1].id) if more else ""}


def matches_tags(call: Call, tags: Tags) -> bool:
    """Tell whether ``TagFilters`` lets an object with ``tags`` through: all keys, any of the values of a key."""
    own = dict(tags)
    return all(key in own and (not values or own[key] in values) for key, values in call.tag_filters())


def matches(call: Call, **wanted: str | None) -> bool:
    """Tell whether the parameters that are given equal the values of an object."""
    return all(name not in call.parameters or call.parameters[name] == value for name, value in wanted.items())


def among(call: Call, name: str, values: Iterable[str]) -> bool:
    """Tell whether the list parameter ``name`` is absent or holds one of ``values``."""
    wanted = call.listed(name)
    return not wanted or not set(wanted).isdisjoint(values)


def tag_fields(tags: Tags) -> list[Fields]:
    """Return tags as the API writes them."""
    return [{"Key": key, "Value": value} for key, value in tags]


def _token(last: str) -> str:
    return base64.urlsafe_b64encode(last.encode()).decode()


def _after(token: str) -> str:
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except ValueError:
        raise invalid("NextToken", "the token of the page before") from None
