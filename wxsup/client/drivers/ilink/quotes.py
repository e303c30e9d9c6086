"""What an inbound message quotes (ilink-protocol.md 7.3)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any

from wxsup.client.drivers.ilink.fields import object_of, text_of

#: Returns the text of an earlier message by its id, None when it is not known.
Said = Callable[[str], str | None]


def quote(item: dict[str, Any], said: Said, shown: Callable[[dict[str, Any]], str]) -> dict[str, Any]:
    """Return the quote_* fields of an item, none when it quotes nothing; `shown` is how an item reads."""
    ref = object_of(item, "ref_msg")
    if not ref:
        return {}
    quoted = object_of(ref, "message_item")
    id_ = text_of(ref.get("svr_id")) or text_of(quoted.get("msg_id"))
    content = shown(quoted) if quoted else (said(id_) if id_ else None) or ""
    fields = {"quote_id": id_, "quote_title": text_of(ref.get("title")), "quote_content": content}
    if partial := object_of(ref, "partial_text"):
        fields["quote_partial"] = selected(content, partial)
    return fields


def selected(text: str, partial: dict[str, Any]) -> str:
    """Return the part of `text` that was selected, "" when it cannot be found.

    It goes from the startindex-th `start` to the end of the endindex-th `end`, both from 0; whether `end` is counted
    from the beginning or after that `start` is settled by quotemd5, and without it the first reading holds.
    """
    start, end = text_of(partial.get("start")), text_of(partial.get("end"))
    first = _occurrence(text, start, _index(partial.get("startindex")), 0)
    if first is None or not end:
        return ""
    wanted = text_of(partial.get("quotemd5")).lower()
    for counted_from in (0, first):
        last = _occurrence(text, end, _index(partial.get("endindex")), counted_from)
        found = text[first : last + len(end)] if last is not None and last + len(end) > first else ""
        digest = hashlib.md5(found.encode(), usedforsecurity=False).hexdigest()
        if found and wanted in ("", digest):
            return found
    return ""


def _index(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0


def _occurrence(text: str, part: str, index: int, begin: int) -> int | None:
    """Return where the `index`-th occurrence of `part` is, not before `begin`."""
    if not part:
        return None
    for number, match in enumerate(re.finditer(re.escape(part), text[begin:])):
        if number == index:
            return begin + match.start()
    return None
