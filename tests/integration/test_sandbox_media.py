"""Media in the sandbox over real HTTP, held against shared/spec/ilink-protocol.md 9 and 15."""

from __future__ import annotations

import base64
import contextlib
import http.client
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import md5
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from tests.phone import PATIENCE, Bot, Clock, Phone, answered, ask, heard
from wxsup.sandbox import cdn
from wxsup.sandbox.app import Sandbox
from wxsup.sandbox.server import MOST_BODY, MOST_LARGE, ClientGone, Server
from wxsup.sandbox.world import TYPING

HOLD = 0.2
HEX_KEY = "00112233445566778899aabbccddeeff"
HELLO = bytes.fromhex("9d86c8612e085e93a235794a708af7a9")  # 9.3
PNG = b"\x89PNG\r\n\x1a\n" + bytes(62)
IMAGE, VIDEO, FILE, VOICE = 1, 2, 3, 4  # media_type (9.1)


def encrypt(plain: bytes, key: str = HEX_KEY) -> bytes:
    padder, encryptor = PKCS7(128).padder(), _aes(key).encryptor()
    return encryptor.update(padder.update(plain) + padder.finalize()) + encryptor.finalize()


def decrypt(content: bytes, key: str) -> bytes:
    unpadder, decryptor = PKCS7(128).unpadder(), _aes(key).decryptor()
    return unpadder.update(decryptor.update(content) + decryptor.finalize()) + unpadder.finalize()


def _aes(key: str) -> Cipher[modes.ECB]:
    return Cipher(algorithms.AES128(bytes.fromhex(key)), modes.ECB())


@dataclass(frozen=True)
class Answer:
    """What an address that speaks no JSON answered."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


def fetch(url: str, body: bytes | None = None) -> Answer:
    """GET, or POST a body."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.netloc, timeout=PATIENCE)
    try:
        target = f"{address.path}?{address.query}"
        headers = {} if body is None else {"Content-Type": "application/octet-stream"}
        connection.request("GET" if body is None else "POST", target, body, headers)
        reply = connection.getresponse()
        return Answer(reply.status, reply.headers, reply.read())
    finally:
        connection.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def phone(clock: Clock) -> Iterator[Phone]:
    with Sandbox(hold=HOLD, clock=clock) as sandbox:
        yield Phone(sandbox)


@pytest.fixture
def bot(phone: Phone) -> Bot:
    return phone.login()


def announced(plain: bytes, media_type: int = FILE) -> dict[str, object]:
    """Return what a bot says before it uploads (9.1)."""
    return {
        "filekey": "0123456789abcdef" * 2,
        "media_type": media_type,
        "rawsize": len(plain),
        "rawfilemd5": md5(plain).hexdigest(),
        "filesize": (len(plain) // 16 + 1) * 16,
        "no_need_thumb": True,
        "aeskey": HEX_KEY,
    }


def ticket(bot: Bot, plain: bytes = b"hello", **other: Any) -> Any:
    return bot.call("getuploadurl", **{**announced(plain), "to_user_id": bot.login["ilink_user_id"], **other})


def upload_url(bot: Bot, param: str, filekey: str = "0123456789abcdef" * 2) -> str:
    return f"{bot.url}/c2c/upload?encrypted_query_param={quote(param, safe='')}&filekey={quote(filekey, safe='')}"


def download_url(bot: Bot, param: str) -> str:
    return f"{bot.url}/c2c/download?encrypted_query_param={quote(param, safe='')}"


def uploaded(bot: Bot, plain: bytes, media_type: int = FILE) -> dict[str, object]:
    """Upload and return the `media` of an item."""
    answer = fetch(ticket(bot, plain, media_type=media_type)["upload_full_url"], encrypt(plain))
    assert answer.status == 200
    aes_key = base64.b64encode(HEX_KEY.encode()).decode()
    return {"encrypt_query_param": answer.headers["x-encrypted-param"], "aes_key": aes_key, "encrypt_type": 1}


def seen(phone: Phone) -> dict[str, Any]:
    """Return what the phone shows of the last message."""
    media: dict[str, Any] = phone.chat()[-1]["media"]
    return media


def received(bot: Bot) -> dict[str, Any]:
    """Return the only item of the only new message."""
    answer = bot.poll()
    bot.cursor = answer["get_updates_buf"]
    (message,) = answer["msgs"]
    (item,) = message["item_list"]
    return dict(item)


# Uploads [9.1]


def test_an_upload_in_both_forms(bot: Bot) -> None:
    answer = ticket(bot)
    assert answer["ret"] == 0
    assert re.fullmatch("[A-Za-z0-9_-]+", answer["upload_param"]), "needs no escape in an address [15]"
    assert answer["upload_full_url"].startswith(f"{bot.url}/c2c/upload?")
    assert answer["upload_param"] not in upload_url(bot, "") and "thumb_upload_param" not in answer
    params = []
    for url in (upload_url(bot, answer["upload_param"]), answer["upload_full_url"]):
        done = fetch(url, HELLO)
        assert (done.status, done.body) == (200, b"")
        params.append(done.headers["x-encrypted-param"])
        assert re.fullmatch("[A-Za-z0-9_-]+", params[-1])
        assert fetch(download_url(bot, params[-1])).body == HELLO
    assert params[0] != params[1]
    shouted = ticket(bot, rawfilemd5=md5(b"hello").hexdigest().upper(), aeskey=HEX_KEY.upper())
    assert fetch(shouted["upload_full_url"], HELLO).status == 200


def test_whole_addresses_can_be_switched_off(phone: Phone, bot: Bot) -> None:
    assert phone.do("cdn", full_urls=False) == {}
    phone.do("say", user="alice", media={"kind": "image", "data": ""})
    answer, item = ticket(bot), received(bot)
    assert answer["upload_param"] and "upload_full_url" not in answer
    assert item["image_item"]["media"]["encrypt_query_param"] and "full_url" not in item["image_item"]["media"]
    phone.do("cdn", full_urls=True)
    assert "upload_full_url" in ticket(bot)


def test_addresses_are_those_the_client_used(phone: Phone, bot: Bot) -> None:
    headers = {"Host": "sandbox.example:2080", "Authorization": f"Bearer {bot.login['bot_token']}"}
    body = {**announced(b"hello"), "to_user_id": bot.login["ilink_user_id"]}
    answer = ask(bot.url, "POST", "/ilink/bot/getuploadurl", body, headers)
    assert answer["upload_full_url"].startswith("http://sandbox.example:2080/c2c/upload?")
    phone.do("say", user="alice", media={"kind": "file", "data": ""})
    (message,) = ask(bot.url, "POST", "/ilink/bot/getupdates", {}, headers)["msgs"]
    full_url = message["item_list"][0]["file_item"]["media"]["full_url"]
    assert full_url.startswith("http://sandbox.example:2080/c2c/download?")


@pytest.mark.parametrize("plain", [b"", b"hello", b"0123456789abcdef", bytes(range(256)) * 4096], ids=len)
def test_any_size(bot: Bot, plain: bytes) -> None:
    param = uploaded(bot, plain)["encrypt_query_param"]
    assert decrypt(fetch(download_url(bot, str(param))).body, HEX_KEY) == plain


@pytest.mark.parametrize(
    ("wrong", "body", "complaint"),
    [
        ({}, HELLO + HELLO, "the body has 32 bytes where filesize says 16"),
        ({}, b"", "the body has 0 bytes where filesize says 16"),
        ({}, encrypt(b"hell"), "4 bytes were encrypted where rawsize says 5"),
        ({}, encrypt(b"Hello"), "what was encrypted has another md5 than rawfilemd5"),
        ({"rawfilemd5": "0" * 32}, HELLO, "what was encrypted has another md5 than rawfilemd5"),
        ({"aeskey": "0" * 32}, HELLO, "the body cannot be decrypted with the aeskey"),
        ({"rawsize": 6}, HELLO, "5 bytes were encrypted where rawsize says 6"),
    ],
)
def test_what_was_not_announced_is_refused(bot: Bot, wrong: dict[str, Any], body: bytes, complaint: str) -> None:
    answer = fetch(ticket(bot, **wrong)["upload_full_url"], body)
    assert (answer.status, answer.headers["x-error-message"], answer.body) == (400, complaint, complaint.encode())
    assert "x-encrypted-param" not in answer.headers


def test_tickets_are_needed(bot: Bot) -> None:
    answer = ticket(bot)
    for url, status in [
        (upload_url(bot, "x"), 403),
        (f"{bot.url}/c2c/upload?x=1", 403),
        (upload_url(bot, answer["upload_param"], "0" * 32), 400),
        (upload_url(bot, answer["upload_param"]), 200),
    ]:
        assert fetch(url, HELLO).status == status


def test_a_thumbnail_has_a_ticket_of_its_own(bot: Bot) -> None:
    thumb: dict[str, Any] = {"thumb_rawsize": 4, "thumb_rawfilemd5": md5(b"hell").hexdigest(), "thumb_filesize": 16}
    answer = ticket(bot, no_need_thumb=False, media_type=VIDEO, **thumb)
    assert fetch(upload_url(bot, answer["thumb_upload_param"]), encrypt(b"hell")).status == 200
    assert fetch(upload_url(bot, answer["thumb_upload_param"]), HELLO).status == 400
    assert "thumb_upload_param" not in ticket(bot, no_need_thumb=True, **thumb)


def test_nobody_else_can_be_sent_to(phone: Phone, bot: Bot) -> None:
    stranger = phone.login("bob").login["ilink_user_id"]
    for user_id in ("", "nobody@im.wechat", stranger):
        assert ticket(bot, to_user_id=user_id) == {"ret": -1, "errmsg": "invalid to_user_id"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"filekey": "x"},
        {"media_type": 0},
        {"media_type": "image"},
        {"rawsize": -1},
        {"rawsize": "5"},
        {"rawsize": True},
        {"rawfilemd5": None},
        {"filesize": 5},
        {"filesize": 32},
        {"rawsize": 25 * 1024 * 1024 + 1, "filesize": 25 * 1024 * 1024 + 16},
        {"aeskey": "AAAA"},
        {"no_need_thumb": False, "thumb_rawsize": 5},
    ],
    ids=str,
)
def test_bad_announcements(bot: Bot, wrong: dict[str, object]) -> None:
    body = {**announced(b"hello"), "to_user_id": bot.login["ilink_user_id"], **wrong}
    headers = {"Authorization": f"Bearer {bot.login['bot_token']}"}
    status, answer = answered(bot.url, "POST", "/ilink/bot/getuploadurl", body, headers)
    assert (status, set(answer)) == (400, {"error"})


def test_a_dead_token_gets_no_ticket(phone: Phone, bot: Bot) -> None:
    phone.do("drop", user="alice")
    assert ticket(bot)["errcode"] == -14


@pytest.mark.parametrize("param", ["", "x", "../sandbox.json", "%2e%2e%2f"])
def test_unknown_downloads(bot: Bot, param: str) -> None:
    answer = fetch(download_url(bot, param))
    assert answer.status == 404 and answer.headers["x-error-message"]


def test_the_largest_upload(bot: Bot) -> None:
    plain = bytes(cdn.MOST_BYTES)
    assert fetch(ticket(bot, plain)["upload_full_url"], encrypt(plain)).status == 200
    answer = fetch(ticket(bot, plain)["upload_full_url"], bytes(cdn.MOST_BODY + 1))
    assert answer.status == 400 and b"larger than" in answer.body


def test_many_large_uploads_take_turns(bot: Bot) -> None:
    plain = bytes(3_000_000)
    url, body = ticket(bot, plain)["upload_full_url"], encrypt(plain)
    address = urlsplit(url)
    with ThreadPoolExecutor(12) as pool:
        # Those that begin and go away must not keep their place.
        lost = [http.client.HTTPConnection(address.netloc, timeout=PATIENCE) for _ in range(MOST_LARGE + 1)]
        for connection in lost:
            connection.putrequest("POST", f"{address.path}?{address.query}")
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body[:1000])
        answers = [pool.submit(fetch, url, body) for _ in range(12)]
        for connection in lost:
            connection.close()
        assert {answer.result(PATIENCE).status for answer in answers} == {200}


def test_only_so_many_large_bodies_are_in_memory() -> None:
    def give_up() -> None:
        raise ClientGone

    server = Server("127.0.0.1", 0)
    with contextlib.closing(server.socket), contextlib.ExitStack() as rooms:
        for _ in range(MOST_LARGE):
            rooms.enter_context(server.room(MOST_BODY + 1, give_up))
        rooms.enter_context(server.room(MOST_BODY, give_up))
        with pytest.raises(ClientGone):
            rooms.enter_context(server.room(MOST_BODY + 1, give_up))


def test_what_was_uploaded_survives_a_restart(tmp_path: Path) -> None:
    state = tmp_path / "sandbox.json"
    with Sandbox(hold=HOLD, state=state) as sandbox:
        phone = Phone(sandbox)
        bot = phone.login()
        phone.do("say", user="alice", media={"kind": "image", "data": base64.b64encode(PNG).decode()})
        cursor = bot.poll()
        context = cursor["msgs"][0]["context_token"]
        media = uploaded(bot, b"hello")
        bot.send("", context, item_list=[{"type": 4, "file_item": {"media": media, "file_name": "a.txt"}}])
        shown = [message["media"] for message in phone.chat()]
    with Sandbox(hold=HOLD, state=state) as sandbox:
        again = [message["media"] for message in Phone(sandbox).chat()]
        assert [{**media, "url": ""} for media in again] == [{**media, "url": ""} for media in shown]
        assert [fetch(media["url"]).body for media in again] == [PNG, b"hello"]
        assert fetch(f"{sandbox.url}/c2c/download?encrypted_query_param={media['encrypt_query_param']}").body == HELLO
    assert len(list((tmp_path / "sandbox-media").iterdir())) == 2


# What a bot sends [9.1], as the phone sees it


@pytest.mark.parametrize(
    ("kind", "media_type", "type_", "plain", "about", "name"),
    [
        ("image", IMAGE, 2, PNG, {"mid_size": 80}, "image.png"),
        ("image", IMAGE, 2, b"\xff\xd8\xff...", {}, "image.jpeg"),
        ("image", IMAGE, 2, b"who knows", {}, "image"),
        ("voice", VOICE, 3, b"\x02#!SILK_V3", {}, "voice.silk"),
        ("file", FILE, 4, b"hello", {"file_name": "报告 1.pdf", "len": "5"}, "报告 1.pdf"),
        ("file", FILE, 4, b"", {}, "file"),
        ("video", VIDEO, 5, b"moving", {"video_size": 16}, "video.mp4"),
    ],
)
def test_the_phone_sees_media(
    phone: Phone, bot: Bot, kind: str, media_type: int, type_: int, plain: bytes, about: dict[str, object], name: str
) -> None:
    context = heard(phone, bot)
    item = {"type": type_, f"{kind}_item": {"media": uploaded(bot, plain, media_type), **about}}
    assert "message_id" in bot.send("", context, item_list=[item])
    message = phone.chat()[-1]
    url = message["media"].pop("url")
    assert message["text"] == "" and message["direction"] == "to_user"
    assert message["media"] == {"kind": kind, "name": name, "size": len(plain), "md5": md5(plain).hexdigest()}
    assert fetch(url).body == plain
    assert phone.account()["sends_left"] == 9


def test_a_caption_beside_a_picture(phone: Phone, bot: Bot) -> None:
    context = heard(phone, bot)
    picture = {"type": 2, "image_item": {"media": uploaded(bot, PNG)}}
    items = [{"type": 1, "text_item": {"text": "look"}}, picture, {"type": 5, "video_item": {}}]
    bot.send("", context, item_list=items)
    assert phone.chat()[-1]["text"] == "look\n[video]"
    assert seen(phone)["md5"] == md5(PNG).hexdigest()
    bot.send("", context, item_list=[picture, picture])
    assert phone.chat()[-1]["text"] == "[image]", "a phone shows one of them"


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"encrypt_query_param": "x"}, "there is no such name"),
        ({"encrypt_query_param": None}, "there is no such name"),
        ({"aes_key": None}, "aes_key is not the base64 of 32 hex digits"),
        ({"aes_key": base64.b64encode(bytes.fromhex(HEX_KEY)).decode()}, "aes_key is not the base64 of 32 hex digits"),
        ({"aes_key": base64.b64encode(b"0" * 32).decode()}, "it cannot be decrypted with this key"),
    ],
)
def test_media_that_the_phone_cannot_read(phone: Phone, bot: Bot, wrong: dict[str, object], complaint: str) -> None:
    context = heard(phone, bot)
    item = {"type": 4, "file_item": {"media": {**uploaded(bot, b"hello"), **wrong}, "file_name": "a.txt"}}
    assert "message_id" in bot.send("", context, item_list=[item]), "accepted by the API all the same"
    assert seen(phone) == {"kind": "file", "name": "a.txt", "error": complaint}
    missing = answered(phone.url, "GET", f"/sandbox/media?user=alice&n={phone.chat()[-1]['n']}")
    assert missing == (404, {"error": complaint})


@pytest.mark.parametrize("about", [None, {"media": "x"}, {"media": {"aes_key": 1}}, {"media": {}, "file_name": 1}])
def test_bad_items(phone: Phone, bot: Bot, about: object) -> None:
    msg = {"to_user_id": bot.login["ilink_user_id"], "item_list": [{"type": 4, "file_item": about}]}
    headers = {"Authorization": f"Bearer {bot.login['bot_token']}"}
    assert answered(phone.url, "POST", "/ilink/bot/sendmessage", {"msg": msg}, headers)[0] == 400


def test_a_browser_shows_pictures_and_saves_the_rest(phone: Phone, bot: Bot) -> None:
    html = base64.b64encode(b"<script>alert(1)</script>").decode()
    shown = []
    for media in [
        {"kind": "image", "data": base64.b64encode(PNG).decode()},
        {"kind": "image", "data": html, "name": "x.html"},
        {"kind": "file", "data": html, "name": 'a"b\r\nX: y/../评.html'},
        {"kind": "file", "data": base64.b64encode(PNG).decode()},
    ]:
        phone.do("say", user="alice", media=media)
        headers = fetch(seen(phone)["url"]).headers
        assert headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
        assert headers["X-Content-Type-Options"] == "nosniff" and "X" not in headers
        shown.append((headers["Content-Type"], headers["Content-Disposition"]))
    octets = "application/octet-stream"
    assert shown == [
        ("image/png", "inline; filename*=UTF-8''image.png"),
        (octets, "attachment; filename*=UTF-8''x.html"),
        (octets, "attachment; filename*=UTF-8''a%22b%0D%0AX%3A%20y%2F..%2F%E8%AF%84.html"),
        (octets, "attachment; filename*=UTF-8''file"),
    ]


@pytest.mark.parametrize("query", ["user=alice&n=1", "user=alice&n=0", "user=alice&n=9", "user=bob&n=1"])
def test_no_media_there(phone: Phone, bot: Bot, query: str) -> None:
    heard(phone, bot)
    assert answered(phone.url, "GET", f"/sandbox/media?{query}")[0] == 404


# What a person sends [7.2, 9.2, 9.3]


def test_a_picture_for_the_bot(phone: Phone, bot: Bot) -> None:
    said = phone.do("say", user="alice", media={"kind": "image", "data": base64.b64encode(PNG).decode()})
    item = received(bot)
    assert item["type"] == 2 and item["is_completed"] is True
    image = item["image_item"]
    assert set(image) == {"media", "aeskey", "mid_size"} and image["mid_size"] == 80
    assert set(image["media"]) == {"encrypt_query_param", "full_url", "aes_key", "encrypt_type"}
    assert base64.b64decode(image["media"]["aes_key"]).hex() == image["aeskey"]
    for url in (image["media"]["full_url"], download_url(bot, image["media"]["encrypt_query_param"])):
        assert decrypt(fetch(url).body, image["aeskey"]) == PNG
    (message,) = phone.chat()
    assert (message["message_id"], message["text"], message["direction"]) == (said["message_id"], "", "to_bot")
    assert fetch(seen(phone)["url"]).body == PNG


def plain_of(bot: Bot, media: dict[str, Any]) -> bytes:
    """Return what a file, a voice or a video holds: its key is hex text in base64."""
    key = base64.b64decode(media["aes_key"]).decode()
    assert re.fullmatch("[0-9a-f]{32}", key)
    return decrypt(fetch(media["full_url"]).body, key)


def test_a_file_for_the_bot(phone: Phone, bot: Bot) -> None:
    name = "../../报告\n.pdf"
    phone.do("say", user="alice", media={"kind": "file", "data": base64.b64encode(b"hello").decode(), "name": name})
    item = received(bot)
    media = item["file_item"].pop("media")
    assert item["type"] == 4
    assert item["file_item"] == {"file_name": name, "md5": md5(b"hello").hexdigest(), "len": "5"}
    assert plain_of(bot, media) == b"hello"
    assert seen(phone)["name"] == name


def test_a_voice_for_the_bot(phone: Phone, bot: Bot) -> None:
    data = base64.b64encode(b"\x02#!SILK_V3").decode()
    phone.do("say", user="alice", media={"kind": "voice", "data": data, "milliseconds": 1500, "transcript": "你好"})
    item = received(bot)
    media = item["voice_item"].pop("media")
    assert item["type"] == 3
    sound = {"encode_type": 6, "bits_per_sample": 16, "sample_rate": 24000, "playtime": 1500}
    assert item["voice_item"] == {**sound, "text": "你好"}
    assert plain_of(bot, media) == b"\x02#!SILK_V3"
    assert (seen(phone)["transcript"], seen(phone)["milliseconds"]) == ("你好", 1500)
    phone.do("say", user="alice", media={"kind": "voice", "data": data})
    assert "text" not in received(bot)["voice_item"]


def test_a_video_for_the_bot(phone: Phone, bot: Bot) -> None:
    data = base64.b64encode(b"moving").decode()
    phone.do("say", user="alice", media={"kind": "video", "data": data, "milliseconds": 3999})
    item = received(bot)
    media = item["video_item"].pop("media")
    assert item["type"] == 5
    assert item["video_item"] == {"video_size": 16, "play_length": 3, "video_md5": md5(b"moving").hexdigest()}
    assert plain_of(bot, media) == b"moving"


def test_a_picture_without_any_key(phone: Phone, bot: Bot) -> None:
    media = {"kind": "image", "data": base64.b64encode(PNG).decode(), "plain": True}
    phone.do("say", user="alice", media=media)
    image = received(bot)["image_item"]
    assert "aeskey" not in image and "aes_key" not in image["media"] and image["mid_size"] == len(PNG)
    assert fetch(image["media"]["full_url"]).body == PNG
    assert fetch(seen(phone)["url"]).body == PNG


def test_media_with_strange_fields_around(phone: Phone, bot: Bot) -> None:
    phone.do("say", user="alice", media={"kind": "image", "data": ""}, message={"message_id": 5, "session_id": None})
    (message,) = bot.poll()["msgs"]
    assert message["message_id"] == 5 and "session_id" not in message
    assert message["item_list"][0]["image_item"]["aeskey"]


def test_media_come_again(phone: Phone, bot: Bot) -> None:
    n = phone.do("say", user="alice", media={"kind": "file", "data": ""})["n"]
    first = received(bot)
    phone.do("say_again", user="alice", n=n)
    assert received(bot) == first


def test_the_largest_media_of_a_person(phone: Phone, bot: Bot) -> None:
    data = base64.b64encode(bytes(cdn.MOST_BYTES)).decode()
    phone.do("say", user="alice", media={"kind": "file", "data": data})
    assert received(bot)["file_item"]["len"] == str(cdn.MOST_BYTES)
    body = {"user": "alice", "media": {"kind": "file", "data": data + "AAAA"}}
    assert answered(phone.url, "POST", "/sandbox/say", body)[0] == 400


@pytest.mark.parametrize(
    "body",
    [
        {"user": "alice"},
        {"user": "alice", "text": "x", "media": {"kind": "file", "data": ""}},
        {"user": "alice", "media": {}},
        {"user": "alice", "media": {"kind": "file"}},
        {"user": "alice", "media": {"kind": "gif", "data": ""}},
        {"user": "alice", "media": {"kind": "file", "data": "?"}},
        {"user": "alice", "media": {"kind": "file", "data": "AAA"}},
        {"user": "alice", "media": {"kind": "file", "data": "é"}},
        {"user": "alice", "media": {"kind": "file", "data": "", "name": "x" * 256}},
        {"user": "alice", "media": {"kind": "file", "data": "", "transcript": "x"}},
        {"user": "alice", "media": {"kind": "file", "data": "", "milliseconds": 1}},
        {"user": "alice", "media": {"kind": "voice", "data": "", "milliseconds": -1}},
        {"user": "alice", "media": {"kind": "voice", "data": "", "milliseconds": 1.5}},
        {"user": "alice", "media": {"kind": "video", "data": "", "plain": True}},
        {"user": "alice", "media": {"kind": "file", "data": "", "param": "x"}},
    ],
    ids=str,
)
def test_bad_media(phone: Phone, bot: Bot, body: object) -> None:
    status, answer = answered(phone.url, "POST", "/sandbox/say", body)
    assert (status, set(answer)) == (400, {"error"})
    assert phone.chat() == []


@pytest.mark.parametrize(("user", "status"), [("nobody", 404), ("", 400)])
def test_of_who_has_no_bot_nothing_is_kept(tmp_path: Path, user: str, status: int) -> None:
    with Sandbox(hold=HOLD, state=tmp_path / "sandbox.json") as sandbox:
        body = {"user": user, "media": {"kind": "file", "data": ""}}
        assert answered(sandbox.url, "POST", "/sandbox/say", body)[0] == status
    assert list((tmp_path / "sandbox-media").iterdir()) == []


# Misbehaving [15]


def test_an_upload_that_fails_twice(phone: Phone, bot: Bot) -> None:
    phone.do("misbehave", call="upload", status=503, times=2)
    url = ticket(bot)["upload_full_url"]
    answers = [fetch(url, HELLO) for _ in range(3)]
    assert [answer.status for answer in answers] == [503, 503, 200]
    assert ["x-encrypted-param" in answer.headers for answer in answers] == [False, False, True]
    noted = ask(phone.url, "GET", "/sandbox/requests?call=upload")["requests"]
    assert [entry["fault"] for entry in noted] == [True, True, False]
    assert {(entry["user"], entry["body"]["bytes"], entry["method"]) for entry in noted} == {("alice", 16, "POST")}


def test_an_upload_that_is_refused_or_brings_no_param(phone: Phone, bot: Bot) -> None:
    url = ticket(bot)["upload_full_url"]
    phone.do("misbehave", call="upload", status=400, headers={"x-error-message": "no more"})
    assert fetch(url, HELLO).headers["x-error-message"] == "no more"
    for status in (200, 201, 204):
        phone.do("misbehave", call="upload", status=status)
        answer = fetch(url, HELLO)
        assert answer.status == status and "x-encrypted-param" not in answer.headers


def test_an_upload_whose_answer_gets_lost(phone: Phone, bot: Bot) -> None:
    url = ticket(bot)["upload_full_url"]
    phone.do("misbehave", call="upload", close="before", effect=True)
    with pytest.raises(http.client.RemoteDisconnected):
        fetch(url, HELLO)
    assert fetch(url, HELLO).status == 200


def test_downloads_that_drip_or_are_cut_off(phone: Phone, bot: Bot) -> None:
    param = str(uploaded(bot, b"hello")["encrypt_query_param"])
    phone.do("misbehave", call="download", drip=0.02)
    before = time.monotonic()
    assert fetch(download_url(bot, param)).body == HELLO
    assert time.monotonic() - before >= 16 * 0.02
    phone.do("misbehave", call="download", close="middle", effect=True)
    with pytest.raises(http.client.IncompleteRead) as caught:
        fetch(download_url(bot, param))
    assert caught.value.partial == HELLO[:8]
    phone.do("misbehave", call="download", status=200, body="not what it was", headers={"Content-Type": "text/plain"})
    assert fetch(download_url(bot, param)).body == b"not what it was"
    phone.do("misbehave", call="download", status=404, headers={"x-error-message": "expired"}, times=0)
    assert [fetch(download_url(bot, param)).status for _ in range(2)] == [404, 404]
    phone.do("behave")
    assert fetch(download_url(bot, param)).body == HELLO


def test_misbehaviour_for_one_user(phone: Phone, bot: Bot) -> None:
    other = phone.login("bob")
    phone.do("say", user="alice", media={"kind": "file", "data": ""})
    from_alice = received(bot)["file_item"]["media"]["full_url"]
    for call in ("getuploadurl", "upload", "download"):
        phone.do("misbehave", call=call, user="bob", status=500, times=0)
    assert fetch(ticket(bot)["upload_full_url"], HELLO).status == 200
    assert fetch(from_alice).status == 200
    status, _ = answered(bot.url, "POST", "/ilink/bot/getuploadurl", {}, {"Authorization": "Bearer x"})
    assert status == 200, "nobody is not bob"
    phone.do("behave")
    tickets, param = ticket(other), str(uploaded(other, b"hello")["encrypt_query_param"])
    for call in ("upload", "download"):
        phone.do("misbehave", call=call, user="bob", status=500, times=0)
    assert fetch(tickets["upload_full_url"], HELLO).status == 500
    assert fetch(download_url(other, param)).status == 500


def test_a_ticket_that_is_refused_or_changed(phone: Phone, bot: Bot) -> None:
    phone.do("misbehave", call="getuploadurl", answer={"ret": -1, "errmsg": "x"})
    assert ticket(bot) == {"ret": -1, "errmsg": "x"}
    phone.do("misbehave", call="getuploadurl", change={"upload_param": None, "upload_full_url": "http://127.0.0.1:1/x"})
    assert ticket(bot) == {"ret": 0, "upload_full_url": "http://127.0.0.1:1/x"}


@pytest.mark.parametrize("call", cdn.CALLS)
def test_bytes_have_no_fields_to_change(phone: Phone, call: str) -> None:
    assert answered(phone.url, "POST", "/sandbox/misbehave", {"call": call, "change": {"a": 1}})[0] == 400


# Typing [10]


def type_(bot: Bot, status: int, **other: object) -> Any:
    user = bot.login["ilink_user_id"]
    asked = bot.call("getconfig", ilink_user_id=user)
    assert asked["ret"] == 0
    fields = {"ilink_user_id": user, "typing_ticket": asked["typing_ticket"], "status": status, **other}
    return bot.call("sendtyping", **fields)


def test_the_phone_shows_that_the_bot_types(phone: Phone, bot: Bot, clock: Clock) -> None:
    context = heard(phone, bot)
    assert phone.account()["typing"] is False
    assert type_(bot, 1) == {"ret": 0}
    assert phone.account()["typing"] is True
    assert type_(bot, 2) == {"ret": 0}
    assert phone.account()["typing"] is False
    type_(bot, 1)
    clock.now += TYPING - 0.5
    assert phone.account()["typing"] is True
    clock.now += 1
    assert phone.account()["typing"] is False, "a bot that died is not shown for ever"
    type_(bot, 1)
    bot.send("done", context)
    assert phone.account()["typing"] is False
    type_(bot, 1)
    phone.do("drop", user="alice")
    assert phone.account()["typing"] is False


@pytest.mark.parametrize("wrong", [{"typing_ticket": "x"}, {"typing_ticket": None}, {"ilink_user_id": "o1@im.wechat"}])
def test_typing_needs_its_ticket(phone: Phone, bot: Bot, wrong: dict[str, object]) -> None:
    heard(phone, bot)
    assert type_(bot, 1, **wrong)["ret"] == -1
    assert phone.account()["typing"] is False


# Secrets


def test_no_secret_of_media_reaches_a_log(phone: Phone, bot: Bot, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    param = str(uploaded(bot, b"hello")["encrypt_query_param"])
    fetch(download_url(bot, param))
    phone.do("say", user="alice", media={"kind": "image", "data": "", "name": "private.png"})
    image = received(bot)["image_item"]
    logged = " ".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert "upload" in {getattr(record, "action", "") for record in caplog.records}
    for secret in (HEX_KEY, param, image["aeskey"], image["media"]["encrypt_query_param"], "private.png"):
        assert secret not in logged


def test_nothing_is_left_without_a_state_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Sandbox(hold=HOLD) as sandbox:
        phone = Phone(sandbox)
        phone.login()
        phone.do("say", user="alice", media={"kind": "file", "data": ""})
        assert list(tmp_path.iterdir())
    assert list(tmp_path.iterdir()) == []
