"""Files both ways through the CDN of the sandbox, which checks each as the real one does (ilink-protocol.md 9)."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.contract.test_driver import Bench, Client, bench, impatient
from tests.deadline import eventually
from wxsup.client import fetching
from wxsup.client.drivers.ilink import cdn
from wxsup.client.filetypes import FILE, IMAGE, VIDEO, VOICE, Kind
from wxsup.client.letters import Part
from wxsup.client.media import Media
from wxsup.client.state import Login
from wxsup.errors import ContentRejected, MediaUploadFailed, RateLimited, RemoteRefusal

__all__ = ["bench", "impatient"]  # fixtures

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 700
CONTENT = {
    "image": PNG,
    "voice": b"\x02#!SILK_V3" + b"s" * 1000,
    "video": b"\0\0\0\x18ftypmp42" + b"v" * 999,
    "file": b"",
}


@pytest.fixture(autouse=True)
def impatient_for_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "RETRY_FIRST", 0.05)
    monkeypatch.setattr(cdn, "PAUSES", (0.01, 0.01))


def say(bench: Bench, kind: str, content: bytes, **more: Any) -> None:
    media = {"kind": kind, "data": base64.b64encode(content).decode(), **more}
    bench.people.do("say", user="alice", media=media)


def received(bench: Bench) -> list[dict[str, Any]]:
    """Return the messages that were reported, without the first, which only opens the conversation."""
    return [report for report in bench.receiver.got if report["post_type"] == "receive_message"][1:]


def kept(client: Client, content: bytes, name: str, kind: Kind) -> Media:
    return client.folder.keep(lambda sink: sink(content), name=name, kind=kind)


def send(client: Client, media: Media) -> dict[str, Any]:
    return client.queue.send(client.friend(), [Part(media=media)])


def shown(bench: Bench) -> list[dict[str, Any]]:
    """Return the media that the bot sent, as the phone sees them."""
    chat = bench.people.look("chat", user="alice")["messages"]
    return [message["media"] for message in chat if message["direction"] == "to_user" and "media" in message]


# In


@pytest.mark.parametrize("full_urls", [True, False])
@pytest.mark.parametrize("kind", CONTENT)
def test_a_file_comes_in_with_all_that_is_known_of_it(bench: Bench, kind: str, full_urls: bool) -> None:
    client = bench.talking()
    bench.people.do("cdn", full_urls=full_urls)
    name = {"name": "报告.dat"} if kind == "file" else {}
    say(bench, kind, CONTENT[kind], **name)
    (report,) = eventually(lambda: received(bench))
    digest = hashlib.sha256(CONTENT[kind]).hexdigest()
    assert Path(report["media_path"]).read_bytes() == CONTENT[kind] == base64.b64decode(report["media_data"])
    assert report["media_id"] == f"ilink-{digest}:{report['media_code']}"
    assert (report["format"], report["media_type"], report["media_size"]) == ("media", kind, len(CONTENT[kind]))
    assert report["content"].endswith(f"]({report['media_path']})")
    assert client.store.held.count() == 0


def test_a_voice_comes_with_its_transcript_and_a_plain_image_without_a_key(bench: Bench) -> None:
    bench.talking()
    say(bench, "voice", CONTENT["voice"], transcript="你好", milliseconds=1500)
    say(bench, "image", PNG, plain=True)
    voice, image = eventually(lambda: received(bench), holds=lambda found: len(found) == 2)
    assert (voice["voice_text"], voice["voice_ms"], voice["content"][-2:]) == ("你好", 1500, "你好")
    assert Path(image["media_path"]).read_bytes() == PNG


def test_a_file_that_is_slow_in_coming_holds_back_what_was_written_after_it(bench: Bench) -> None:
    client = bench.talking()
    bench.people.do("misbehave", call="download", status=503, times=3)
    say(bench, "image", PNG)
    bench.people.say("alice", "after it")
    eventually(lambda: len(received(bench)) == 2)
    assert [report["content"][:4] for report in received(bench)] == ["[图片]", "afte"]
    assert len(bench.people.sent_by_clients("download")) == 4
    assert client.store.held.count() == 0


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 404},
        {"status": 200, "body": "not encrypted"},
        {"status": 200, "body": ""},
        {"close": "middle", "times": 0},
    ],
)
def test_a_file_that_is_lost_is_reported_without(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, fault: dict[str, Any]
) -> None:
    monkeypatch.setattr(fetching, "PATIENCE", 0.2)
    bench.talking()
    bench.people.do("misbehave", call="download", **fault)
    say(bench, "image", PNG)
    (report,) = eventually(lambda: received(bench))
    assert (report["content"], report["media_id"], report["media_type"]) == ("[图片]", "", "image")
    assert report["media_error"] and "media_path" not in report


def test_a_file_that_is_too_large_is_reported_without_and_leaves_nothing(bench: Bench) -> None:
    client = bench.talking(media_size_max="1000")
    say(bench, "image", PNG)
    (report,) = eventually(lambda: received(bench))
    assert "maximum size is 1000 bytes" in report["media_error"]
    assert list(client.folder.path.iterdir()) == []


def test_files_are_not_fetched_where_that_is_not_wanted(bench: Bench) -> None:
    bench.talking(download_media="0")
    say(bench, "file", b"content", name="a.txt")
    (report,) = eventually(lambda: received(bench))
    assert (report["content"], report["media_name"], report["media_size"]) == ("[文件]", "a.txt", 7)
    assert bench.people.sent_by_clients("download") == []


def test_a_client_that_dies_before_the_file_is_there_fetches_it_later(bench: Bench) -> None:
    client = bench.talking()
    bench.people.do("misbehave", call="download", status=503, times=0)
    say(bench, "image", PNG)
    eventually(lambda: bench.people.sent_by_clients("download"))
    client.end()
    assert received(bench) == []
    bench.people.do("behave")
    bench.start()
    (report,) = eventually(lambda: received(bench))
    assert Path(report["media_path"]).read_bytes() == PNG


def test_no_key_and_no_address_of_a_file_is_told(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    client = bench.talking()
    say(bench, "image", PNG)
    say(bench, "file", b"content", name="a.txt")
    eventually(lambda: len(received(bench)) == 2)
    rows = client.store.database.execute("SELECT raw FROM inbox").fetchall()
    named = r'"(?:aeskey|aes_key|encrypt_query_param|full_url|context_token)": "([^"]+)"'
    secrets = {secret for (raw,) in rows for secret in re.findall(named, raw)}
    assert len(secrets) >= 7
    told = str(bench.receiver.got) + client.options.state_path.read_text() + caplog.text
    assert [secret for secret in secrets if secret in told] == []


# Out


@pytest.mark.parametrize("full_urls", [True, False])
@pytest.mark.parametrize(
    ("kind", "as_shown"),
    [(IMAGE, "image"), (VIDEO, "video"), (FILE, "file"), (VOICE, "file")],
    ids=lambda kind: str(kind),
)
def test_a_file_goes_out_and_the_phone_can_read_it(bench: Bench, kind: Kind, as_shown: str, full_urls: bool) -> None:
    client = bench.talking()
    bench.people.do("cdn", full_urls=full_urls)
    content = os.urandom(100_000)
    answer = send(client, kept(client, content, "照片.png", kind))
    assert (answer["delivery"], answer["parts"]) == ("accepted", 1)
    (media,) = shown(bench)
    assert "error" not in media
    assert (media["kind"], media["size"]) == (as_shown, len(content))
    assert media["md5"] == hashlib.md5(content, usedforsecurity=False).hexdigest()
    if as_shown == "file":
        assert media["name"] == "照片.png"
    eventually(lambda: client.outgoing())
    (report,) = [report for report in bench.receiver.got if report["post_type"] == "send_message"]
    assert (report["format"], report["media_type"], report["code"]) == ("media", kind.type, "")


def test_a_file_for_the_same_friend_is_uploaded_once(bench: Bench) -> None:
    client = bench.talking()
    media = kept(client, PNG, "a.png", IMAGE)
    for _ in range(2):
        send(client, media)
    assert len(shown(bench)) == 2
    assert len(bench.people.sent_by_clients("upload")) == 1


def test_an_upload_that_fails_is_tried_again(bench: Bench) -> None:
    client = bench.talking()
    bench.people.do("misbehave", call="upload", status=503, times=2)
    send(client, kept(client, PNG, "a.png", IMAGE))
    assert len(shown(bench)) == 1


@pytest.mark.parametrize(
    ("fault", "retryable"),
    [
        ({"call": "upload", "status": 503, "times": 0}, True),
        ({"call": "upload", "status": 400, "headers": {"x-error-message": "no more"}}, False),
        ({"call": "getuploadurl", "answer": {"ret": -1, "errmsg": "no such user"}}, False),
        ({"call": "getuploadurl", "change": {"upload_param": None, "upload_full_url": None}}, True),
        ({"call": "getuploadurl", "status": 524, "body": "<html>"}, True),
    ],
)
def test_an_upload_that_fails_for_good_sends_nothing_and_costs_nothing(
    bench: Bench, fault: dict[str, Any], retryable: bool
) -> None:
    client = bench.talking()
    bench.people.do("misbehave", **fault)
    with pytest.raises(MediaUploadFailed) as caught:
        send(client, kept(client, PNG, "a.png", IMAGE))
    assert caught.value.fields["retryable"] is retryable
    assert (shown(bench), client.friend()["sends_left"]) == ([], 10)


def test_a_file_that_is_not_kept_any_more_is_not_sent(bench: Bench) -> None:
    client = bench.talking()
    media = kept(client, PNG, "a.png", IMAGE)
    media.path.unlink()
    with pytest.raises(ContentRejected):
        send(client, media)
    assert client.friend()["sends_left"] == 10


def test_a_promised_file_survives_a_restart(bench: Bench) -> None:
    client = bench.talking()
    bench.people.do("misbehave", call="upload", status=503, times=0)
    client.queue.promise(client.friend(), [Part("look"), Part(media=kept(client, PNG, "a.png", IMAGE))])
    eventually(lambda: bench.people.sent_by_clients("upload"))
    client.end()
    bench.people.do("behave")
    bench.start().until(Login.RUNNING)
    eventually(lambda: shown(bench))
    assert bench.people.read("alice")[0] == "look"


# Quotes, typing, names


def test_a_quote_of_what_we_sent_and_of_what_came_is_looked_up(bench: Bench) -> None:
    client = bench.talking()
    ours = client.send("the answer")["message_id"]
    theirs = bench.people.say("alice", "a question")
    for id_ in (ours, theirs):
        item = {"type": 1, "text_item": {"text": "that"}, "ref_msg": {"svr_id": id_}}
        bench.people.do("say", user="alice", text="that", message={"item_list": [item]})
    quoting = eventually(
        lambda: [report for report in received(bench) if "quote_id" in report], holds=lambda found: len(found) == 2
    )
    assert [report["quote_content"] for report in quoting] == ["the answer", "a question"]


def test_the_phone_sees_that_we_type(bench: Bench) -> None:
    client = bench.talking()
    for typing in (True, False):
        client.driver.send_typing(client.friend()["id"], typing)
        (account,) = bench.people.look("accounts")["accounts"]
        assert account["typing"] is typing
    assert len(bench.people.sent_by_clients("getconfig")) == 1, "the ticket serves again"


def test_without_a_ticket_there_is_no_typing_and_no_flood(bench: Bench) -> None:
    client = bench.talking()
    bench.people.do("misbehave", call="getconfig", answer={"ret": -4, "errmsg": "GetTypingTicket rpc failed"})
    friend = client.friend()["id"]
    with pytest.raises(RemoteRefusal):
        client.driver.send_typing(friend, True)
    with pytest.raises(RateLimited):
        client.driver.send_typing(friend, True)
    assert len(bench.people.sent_by_clients("getconfig")) == 1


def test_a_friend_keeps_the_name_that_we_gave(bench: Bench) -> None:
    client = bench.talking()
    client.driver.set_markname(client.friend()["id"], "老板")
    client.end()
    second = bench.start()
    second.until(Login.RUNNING)
    friend = second.friend()
    assert (friend["markname"], friend["displayname"], friend["name"]) == ("老板", "老板", "owner")
    bench.people.say("alice", "hello")
    report = eventually(lambda: received(bench))[-1]
    assert (report["sender"], report["sender_markname"]) == ("老板", "老板")
    changes = [report["params"] for report in bench.receiver.got if report.get("event") == "friend_property_change"]
    assert [params[1:] for params in changes] == [["markname", "", "老板"]]
