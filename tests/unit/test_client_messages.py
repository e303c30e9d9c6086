"""iLink messages to openwx messages: no message may be lost or stop the client, whatever is in it."""

from __future__ import annotations

import json
import time
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from wxsup.client import reports
from wxsup.client.drivers.ilink import messages
from wxsup.client.letters import Part
from wxsup.client.store.people import Friend
from wxsup.errors import RateLimited

ANNE = Friend(
    id="anne@im.wechat",
    name="anne@im.",
    markname="安妮",
    first_seen=1.0,
    last_inbound=2.0,
    last_outbound=None,
    context_token="secret-context",
    sent_since=0,
)
SENDER = messages.friend_object(ANNE)
USER = messages.user_object("b1@im.bot", "微信一号")

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = ("message_id", "client_id", "seq", "from_user_id", "create_time_ms", "message_type", "session_id")
CDN = st.fixed_dictionaries({}, optional={name: JSON for name in ("encrypt_query_param", "aes_key", "full_url")})
FILES = st.fixed_dictionaries(
    {}, optional={"media": JSON | CDN, **{name: JSON for name in ("aeskey", "file_name", "len", "playtime", "text")}}
)
QUOTES = st.fixed_dictionaries(
    {},
    optional={
        "title": JSON,
        "svr_id": JSON,
        "message_item": JSON,
        "partial_text": JSON
        | st.fixed_dictionaries(
            {}, optional={name: JSON for name in ("start", "end", "startindex", "endindex", "quotemd5")}
        ),
    },
)
ITEMS = st.fixed_dictionaries(
    {},
    optional={
        "type": JSON | st.integers(0, 12),
        "text_item": JSON | st.fixed_dictionaries({"text": JSON}),
        **{name: JSON | FILES for name in ("image_item", "voice_item", "file_item", "video_item")},
        "ref_msg": JSON | QUOTES,
    },
)
MESSAGES = st.fixed_dictionaries({}, optional={name: JSON for name in FIELDS} | {"item_list": JSON | st.lists(ITEMS)})


def received(message: dict[str, Any], said: dict[str, str] | None = None) -> list[dict[str, Any]]:
    return [found.body for found in messages.received(message, SENDER, USER, (said or {}).get)]


def one(item: dict[str, Any], **more: Any) -> dict[str, Any]:
    message = {"message_id": 7451234567890123456, "create_time_ms": 1789012345678, "item_list": [item], **more}
    (found,) = received(message)
    return found


@pytest.mark.parametrize(
    ("item", "format", "content"),
    [
        ({"type": 1, "text_item": {"text": "你好"}}, "text", "你好"),
        ({"type": 1, "text_item": {"text": None}}, "text", ""),
        ({"type": 1}, "text", ""),
        ({"type": 2, "image_item": {}}, "media", "[图片]"),
        ({"type": 3, "voice_item": {}}, "media", "[语音]"),
        ({"type": 4, "file_item": {}}, "media", "[文件]"),
        ({"type": 5, "video_item": {}}, "media", "[视频]"),
        ({"type": 99}, "text", "[未知消息类型 99]"),
        ({"type": [1]}, "text", "[未知消息类型 [1]]"),
        ({}, "text", "[未知消息类型 None]"),
    ],
)
def test_each_kind_of_item_has_its_format_and_content(item: dict[str, Any], format: str, content: str) -> None:
    found = one(item)
    assert (found["format"], found["content"]) == (format, content)


def test_a_message_says_who_wrote_to_whom_and_when() -> None:
    found = one({"type": 1, "text_item": {"text": "hello"}})
    expected = {
        "post_type": "receive_message",
        "class": "recv",
        "type": "friend_message",
        "id": "7451234567890123456",
        "time": 1789012345,
        "sender": "安妮",
        "sender_id": "anne@im.wechat",
        "sender_name": "anne@im.",
        "sender_markname": "安妮",
        "sender_category": "好友",
        "receiver": "微信一号",
        "receiver_id": "b1@im.bot",
        "source": "outer",
    }
    assert {name: found[name] for name in expected} == expected


def test_every_item_becomes_a_message_with_an_id_of_its_own() -> None:
    items = [{"type": 1, "text_item": {"text": str(number)}} for number in range(3)]
    found = received({"message_id": "9", "item_list": [*items[:2], "no item", items[2]]})
    assert [(message["id"], message["content"]) for message in found] == [("9", "0"), ("9-2", "1"), ("9-3", "2")]


@pytest.mark.parametrize("items", [None, [], "none", [5]])
def test_a_message_without_items_is_reported_all_the_same(items: Any) -> None:
    (found,) = received({"message_id": 1, "item_list": items})
    assert (found["content"], found["format"]) == ("", "text")


@pytest.mark.parametrize("created", [None, 0, -5, "1789012345678", 1.5])
def test_without_a_usable_time_it_is_the_time_of_receipt(created: Any) -> None:
    assert abs(one({"type": 1}, create_time_ms=created)["time"] - time.time()) < 60


@given(MESSAGES)
def test_no_message_whatsoever_stops_us(message: dict[str, Any]) -> None:
    for found in received(message):
        assert isinstance(found["id"], str) and isinstance(found["content"], str)
        json.dumps(found)
    assert messages.key_of(message)


def test_no_report_carries_a_secret() -> None:
    found = one({"type": 1, "text_item": {"text": "hello"}}, context_token="secret-context")
    assert "secret" not in json.dumps(found)
    assert "secret" not in json.dumps(SENDER)


@pytest.mark.parametrize(
    ("message", "key"),
    [
        ({"message_id": 12, "client_id": "c", "seq": 3}, "id:12"),
        ({"message_id": "12"}, "id:12"),
        ({"message_id": 0, "from_user_id": "u", "client_id": "c", "seq": 3}, "client:u:c"),
        ({"message_id": "", "from_user_id": "u", "seq": 3}, "seq:u:3"),
    ],
)
def test_the_key_is_the_first_id_that_there_is(message: dict[str, Any], key: str) -> None:
    assert messages.key_of(message) == key


def test_without_any_id_the_key_is_that_of_the_content() -> None:
    message = {"from_user_id": "u", "create_time_ms": 5, "item_list": [{"type": 1}]}
    assert messages.key_of(message) == messages.key_of(dict(reversed(message.items())))
    assert messages.key_of(message) != messages.key_of({**message, "create_time_ms": 6})
    assert messages.key_of(message) != messages.key_of({**message, "item_list": [{"type": 2}]})


def test_a_uid_is_stable_and_exact_in_javascript() -> None:
    assert messages.uid("o9cq80ab@im.wechat") == messages.uid("o9cq80ab@im.wechat") < 2**53


def test_a_sent_text_is_reported_as_sent_by_us() -> None:
    found = reports.sent("m1", "wx-1", [Part("hello")], USER, SENDER, None)
    assert (found["post_type"], found["class"], found["source"], found["from"]) == (
        "send_message",
        "send",
        "local",
        "api",
    )
    assert (found["sender_id"], found["receiver_id"], found["uid"]) == ("b1@im.bot", "anne@im.wechat", "wx-1")
    assert (found["code"], found["msg"], found["info"]) == ("", "发送成功", "success")


def test_a_text_that_did_not_go_out_is_reported_with_the_reason() -> None:
    failure = RateLimited("its turn would come too late", retryable=True, retry_after=5)
    found = reports.sent("m1", "wx-1", [Part("hello")], USER, SENDER, failure)
    assert (found["code"], found["msg"], found["info"]) == (-26, "发送失败", "rate limited")
    assert (found["retryable"], found["retry_after"], found["content"]) == (True, 5, "hello")


def test_who_took_part_is_found_again_in_a_report() -> None:
    (found,) = received({"message_id": "9", "item_list": [{"type": 1}]})
    for role, person in (("sender", SENDER), ("receiver", USER)):
        party = reports.party(found, role)
        assert reports.person(role, party) == reports.person(role, person)
    assert reports.party(found, "sender")["category"] == "好友"


# Files

KEY = "00112233445566778899aabbccddeeff"


def test_a_file_is_reported_before_it_is_fetched_with_all_that_is_known() -> None:
    place = {"encrypt_query_param": "p", "aes_key": "a2V5", "encrypt_type": 1}
    item = {"type": 4, "file_item": {"media": place, "file_name": "../../etc/报告.pdf", "len": "1234"}}
    (found,) = messages.received({"message_id": 1, "item_list": [item]}, SENDER, USER, lambda id_: None)
    assert {name: value for name, value in found.body.items() if name.startswith("media_")} == {
        "media_id": "",
        "media_code": 6,
        "media_type": "file",
        "media_name": "报告.pdf",
        "media_size": 1234,
    }
    assert found.source == {"media": {"encrypt_query_param": "p", "aes_key": "a2V5"}, "aeskey": ""}


def test_a_voice_is_reported_with_its_transcript() -> None:
    found = one({"type": 3, "voice_item": {"text": "你好", "playtime": 1500}})
    assert (found["content"], found["voice_text"], found["voice_ms"]) == ("[语音]你好", "你好", 1500)


@pytest.mark.parametrize(
    ("item", "has_source"),
    [
        ({"type": 2, "image_item": {"media": {"full_url": "http://x/"}}}, True),  # an image may come plain
        ({"type": 2, "image_item": {"media": {"encrypt_query_param": "p"}, "aeskey": KEY}}, True),
        ({"type": 2, "image_item": {"media": {}, "aeskey": KEY}}, False),
        ({"type": 5, "video_item": {"media": {"encrypt_query_param": "p"}}}, False),
        ({"type": 3, "voice_item": {"media": {"encrypt_query_param": "p", "aes_key": "k"}}}, True),
        ({"type": 1, "text_item": {"text": "x"}}, False),
    ],
)
def test_a_file_is_fetched_where_it_can_be(item: dict[str, Any], has_source: bool) -> None:
    (found,) = messages.received({"message_id": 1, "item_list": [item]}, SENDER, USER, lambda id_: None)
    assert (found.source is not None) is has_source


def test_no_key_of_a_file_is_reported() -> None:
    place = {"encrypt_query_param": "param-secret", "aes_key": "key-secret", "full_url": "http://secret/"}
    for kind, name in ((2, "image_item"), (3, "voice_item"), (4, "file_item"), (5, "video_item")):
        found = one({"type": kind, name: {"media": place, "aeskey": "hex-secret"}})
        assert "secret" not in json.dumps(found)


@pytest.mark.parametrize("id_", [2**63, 2**64 - 1, str(2**64 - 1)])
def test_ids_keep_all_their_digits(id_: Any) -> None:
    (found,) = received({"message_id": id_, "seq": id_, "item_list": [{"type": 1}]})
    assert (found["id"], found["ilink_seq"]) == (str(id_), str(id_))


def test_an_id_that_is_none_is_not_shown_and_still_tells_messages_apart() -> None:
    long, longer = ({"message_id": "x" * size, "item_list": [{"type": 1}]} for size in (100_000, 100_001))
    assert messages.key_of(long) != messages.key_of(longer)
    assert len(received(long)[0]["id"]) < 100


# Splitting


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", [""]),
        ("x" * 20, ["x" * 20]),
        ("x" * 21, ["x" * 20, "x"]),
        ("x" * 15 + "\n" + "y" * 19, ["x" * 15 + "\n", "y" * 19]),
        ("x" * 10 + "\n" + "y" * 5 + " " + "z" * 15, ["x" * 10 + "\n", "y" * 5 + " ", "z" * 15]),
        ("x" * 15 + " " + "y" * 19, ["x" * 15 + " ", "y" * 19]),
        ("x" * 19 + "e\u0301" + "y", ["x" * 19, "e\u0301y"]),
        ("x" * 19 + "👍🏽" + "y", ["x" * 19, "👍🏽y"]),
        ("x" * 18 + "👩\u200d💻" + "y", ["x" * 18, "👩\u200d💻y"]),
        ("x" * 19 + "❤\ufe0f" + "y", ["x" * 19, "❤\ufe0fy"]),
        ("x" * 19 + "कि" + "y", ["x" * 19, "किy"]),
        ("e" + "\u0301" * 30, ["e" + "\u0301" * 19, "\u0301" * 11]),
    ],
    ids=[
        "empty",
        "fits",
        "no break",
        "line end",
        "line end before space",
        "space",
        "accent",
        "skin",
        "joined",
        "variation",
        "vowel sign",
        "marks without end",
    ],
)
def test_a_long_text_is_cut_where_the_eye_would(text: str, parts: list[str]) -> None:
    assert messages.split(text, 20) == parts


@given(st.text(alphabet="ab \n你\u0301\u200d👩🏽", max_size=200), st.integers(20, 50))
def test_parts_are_whole_and_never_too_long(text: str, limit: int) -> None:
    parts = messages.split(text, limit)
    assert "".join(parts) == text
    assert all(0 < len(part) <= limit for part in parts) or parts == [""]
