"""The items of a message, as they stand in it and as a phone shows them (ilink-protocol.md 7.2, 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wxsup.sandbox import cipher, media
from wxsup.sandbox.blobs import Lost
from wxsup.sandbox.body import Body, object_in, text_in
from wxsup.sandbox.cipher import Undecipherable
from wxsup.sandbox.media import Get, Media
from wxsup.sandbox.server import BadRequest

TEXT = 1
TYPES = {"image": 2, "voice": 3, "file": 4, "video": 5}
KINDS = {type_: kind for kind, type_ in TYPES.items()}

MOST_NAME = 255
SILK, BITS, HERTZ = 6, 16, 24_000  # how a phone records voice (9.2)
BUNDLE = 1

Item = dict[str, object]


def text(said: str) -> Item:
    """Return the item that says something."""
    return {"type": TEXT, "text_item": {"text": said}}


def received(shown: Media, link: Mapping[str, str]) -> Item:
    """Return the item that a bot gets of what a person sent; `link` is where the cipher can be fetched (9.2, 9.3)."""
    bundle: Item = {**link, "encrypt_type": BUNDLE}
    if shown.key:
        key = bytes.fromhex(shown.key)
        bundle["aes_key"] = cipher.base64_of_raw(key) if shown.kind == "image" else cipher.base64_of_hex(key)
    return {"type": TYPES[shown.kind], f"{shown.kind}_item": {"media": bundle, **_about(shown)}}


def shown(items: Sequence[object], get: Get) -> tuple[str, Media | None]:
    """Return what a phone shows of a bot's items: any type is accepted (7.2, 15).

    That is their text and the first that names media, with a label for what is not shown.
    """
    lines, found = [], None
    for item in items:
        if not isinstance(item, dict):
            raise BadRequest("item_list is not a list of objects")
        line, holds = _line(item), _sent(item, get) if found is None else None
        found = found or holds
        if holds is None:
            lines.append(line)
    return "\n".join(lines), found


def _about(shown: Media) -> Item:
    """Return what an item says besides where its bytes are; sizes are those of the cipher, but not that of a file."""
    size = cipher.size_of(shown.size) if shown.key else shown.size
    if shown.kind == "image":
        return {"mid_size": size, **({"aeskey": shown.key} if shown.key else {})}
    if shown.kind == "file":
        return {"file_name": shown.name, "md5": shown.md5, "len": str(shown.size)}
    if shown.kind == "video":
        return {"video_size": size, "play_length": shown.milliseconds // 1000, "video_md5": shown.md5}
    transcript = {"text": shown.transcript} if shown.transcript else {}
    sound = {"encode_type": SILK, "bits_per_sample": BITS, "sample_rate": HERTZ, "playtime": shown.milliseconds}
    return {**sound, **transcript}


def _sent(item: Body, get: Get) -> Media | None:
    """Return the media that a bot's item names, as far as a phone can read it."""
    kind = KINDS.get(item["type"], "")
    about = object_in(item, f"{kind}_item") if kind else {}
    if about.get("media") is None:
        return None
    bundle = object_in(about, "media")
    name = text_in(about, "file_name")[:MOST_NAME] if kind == "file" else ""
    param, written = text_in(bundle, "encrypt_query_param"), text_in(bundle, "aes_key")
    try:
        key = cipher.key_of_base64_of_hex(written)
        content = cipher.decrypt(get(param), key)
    except (Lost, Undecipherable) as ex:
        return Media(kind, media.name_of(kind, b"", name), error=str(ex))
    return Media(kind, media.name_of(kind, content, name), len(content), media.md5_of(content), param, key.hex())


def _line(item: Body) -> str:
    """Return the text of an item, or what stands in its place."""
    kind = item.get("type")
    if kind == TEXT:
        return text_in(object_in(item, "text_item"), "text")
    if type(kind) is not int:
        raise BadRequest("an item's type is not a number")
    return f"[{KINDS.get(kind, f'item of type {kind}')}]"
