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
from wxsup.client.store import Friend
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
FIELDS = ("message_id", "client_id", "seq", "from_user_id", "create_time_ms", "item_list", "message_type")
ITEMS = st.fixed_dictionaries({}, optional={"type": JSON, "text_item": JSON | st.fixed_dictionaries({"text": JSON})})
MESSAGES = st.fixed_dictionaries({}, optional={name: JSON for name in FIELDS} | {"item_list": JSON | st.lists(ITEMS)})


def one(item: dict[str, Any], **more: Any) -> dict[str, Any]:
    message = {"message_id": 7451234567890123456, "create_time_ms": 1789012345678, "item_list": [item], **more}
    (found,) = messages.received(message, SENDER, USER)
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
    found = messages.received({"message_id": "9", "item_list": [*items[:2], "no item", items[2]]}, SENDER, USER)
    assert [(message["id"], message["content"]) for message in found] == [("9", "0"), ("9-2", "1"), ("9-3", "2")]


@pytest.mark.parametrize("items", [None, [], "none", [5]])
def test_a_message_without_items_is_reported_all_the_same(items: Any) -> None:
    (found,) = messages.received({"message_id": 1, "item_list": items}, SENDER, USER)
    assert (found["content"], found["format"]) == ("", "text")


@pytest.mark.parametrize("created", [None, 0, -5, "1789012345678", 1.5])
def test_without_a_usable_time_it_is_the_time_of_receipt(created: Any) -> None:
    assert abs(one({"type": 1}, create_time_ms=created)["time"] - time.time()) < 60


@given(MESSAGES)
def test_no_message_whatsoever_stops_us(message: dict[str, Any]) -> None:
    for found in messages.received(message, SENDER, USER):
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
    found = reports.sent("m1", "wx-1", "hello", USER, SENDER, None)
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
    found = reports.sent("m1", "wx-1", "hello", USER, SENDER, failure)
    assert (found["code"], found["msg"], found["info"]) == (-26, "发送失败", "rate limited")
    assert (found["retryable"], found["retry_after"], found["content"]) == (True, 5, "hello")


def test_who_took_part_is_found_again_in_a_report() -> None:
    (found,) = messages.received({"message_id": "9", "item_list": [{"type": 1}]}, SENDER, USER)
    for role, person in (("sender", SENDER), ("receiver", USER)):
        party = reports.party(found, role)
        assert reports.person(role, party) == reports.person(role, person)
    assert reports.party(found, "sender")["category"] == "好友"


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
