from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import quote

import pytest
from falcon.testing import Result, TestClient

from tests.deadline import TIMEOUT
from tests.ports import free_port
from tests.unit.conftest import HOSTILE_NAMES, MakeWorld, World
from tests.unit.upstream import Connection, Handler, Upstream, reply, replying
from wxsup.api import FORM, FORM_LIMIT, MAX_FIELDS, create_app
from wxsup.proxy import Proxy

PNG = b"\x89PNG\r\n\x1a\n..."
JPEG = b"\xff\xd8\xff\xe0..."
OWN_CALLS = ("start_client", "stop_client", "restart_client", "remove_client", "check_client", "get_qrcode")


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with closing(Proxy(answer_timeout=TIMEOUT, bind_timeout=0.1)) as made:
        yield made


@pytest.fixture
def api(world: World, proxy: Proxy) -> TestClient:
    return caller(world, proxy)


def caller(world: World, proxy: Proxy) -> TestClient:
    """Return a program on this machine."""
    return TestClient(create_app(world.controller, proxy, world.gate()), headers={"Host": "localhost"})


def get(api: TestClient, call: str, query: str = "", method: str = "GET", **request: Any) -> Result:
    """Make one call; `query` as it stands in a URL, which gunicorn keeps in RAW_URI."""
    raw = {"RAW_URI": f"/openwx/{call}" + (f"?{query}" if query else "")}
    return api.simulate_request(method, f"/openwx/{call}", query_string=query, extras=raw, **request)


def form(api: TestClient, call: str, body: bytes | str, content_type: str = FORM, query: str = "") -> Result:
    return get(api, call, query, "POST", body=body, headers={"Content-Type": content_type})


def served(world: World, name: str, answer: bytes) -> Upstream:
    """Return a server on the port of the client `name`, to be entered, that answers each call with `answer`."""
    return handled(world, name, replying(answer))


def handled(world: World, name: str, handler: Handler) -> Upstream:
    """Return a server on the port of the client `name`, to be entered, that does what `handler` does."""
    client = world.record(name)
    return Upstream(handler, port=client.port, secret=world.registry.secret(client.slug))


# Replies


def test_the_main_way_from_start_to_stop(api: TestClient, world: World) -> None:
    started = get(api, "start_client", "client=alice&log_level=debug").json
    port = world.record("alice").port
    assert started == {
        "code": 0,
        "status": "success",
        "client": "alice",
        "account": "alice",
        "pid": 1000,
        "port": port,
        "log_level": "debug",
    }
    assert get(api, "start_client", "client=alice").json == {**started, "status": "client already exists"}
    world.tell("alice", state="running")
    entry = {
        "account": "alice",
        "driver": "ilink",
        "params": {"log_level": "debug"},
        "pid": 1000,
        "port": port,
        "process": "running",
        "since": int(world.supervisor.status()["alice"].since),
        "state": "running",
    }
    assert get(api, "check_client").json == {"code": 0, "client": [entry]}
    assert get(api, "check_client", "client=alice").json == {"code": 0, "client": [entry]}
    assert get(api, "stop_client", "client=alice").json == started
    assert get(api, "check_client").json == {"code": 0, "client": []}


def test_a_restart_keeps_the_parameters_or_takes_new_ones_and_nothing_in_between(api: TestClient) -> None:
    started = get(api, "start_client", "client=alice&log_level=debug").json
    assert get(api, "restart_client", "client=alice").json == {**started, "pid": 1001}
    refused = get(api, "restart_client", "client=alice&log_level=warn")
    assert (refused.status_code, refused.json["reason"]) == (400, "only with replace=1")
    assert get(api, "restart_client", "client=alice&log_level=warn&replace=1").json["log_level"] == "warn"
    assert "log_level" not in form(api, "restart_client", "client=alice&replace=1").json
    assert get(api, "restart_client", "client=alice&replace=perhaps").json["code"] == 6


def test_a_removal_takes_the_session_only_when_it_is_told_to(api: TestClient, world: World) -> None:
    get(api, "start_client", "client=alice")
    assert get(api, "remove_client", "client=alice&purge=perhaps").json["code"] == 6
    assert get(api, "remove_client", "client=alice").json["purged"] is False
    assert world.supervisor.sessions == {"alice"}
    assert form(api, "remove_client", "client=alice&purge=1").json["purged"] is True
    assert get(api, "remove_client", "client=alice&purge=1").json == {"code": 1, "status": "client not exists"}


def test_json_is_sorted_compact_utf_8_without_escapes(api: TestClient, world: World) -> None:
    result = get(api, "start_client", "client=" + quote("微信/1"))
    port = world.record("微信/1").port
    text = f'{{"account":"微信/1","client":"微信/1","code":0,"pid":1000,"port":{port},"status":"success"}}'
    assert result.content == text.encode()
    assert result.headers["content-type"] == "application/json"
    assert result.headers["content-length"] == str(len(text.encode()))
    assert "access-control-allow-origin" not in result.headers


NOT_FOUND = {"code": 1, "status": "client not found"}
NOT_EXISTS = {"code": 1, "status": "client not exists"}


@pytest.mark.parametrize(
    ("call", "query", "answer"),
    [
        *(
            (call, query, NOT_FOUND)
            for call in ("start_client", "stop_client", "restart_client", "remove_client")
            for query in ("", "client=", "client=0")
        ),
        *(("get_qrcode", query, NOT_FOUND) for query in ("", "client=", "client=0")),
        *((call, "client=bob", NOT_EXISTS) for call in OWN_CALLS[1:]),
        *(("check_client", query, NOT_EXISTS) for query in ("client=", "client=0")),
        *(("get_friend_info", query, NOT_FOUND) for query in ("", "client=", "client=0", "name=x")),
        ("get_friend_info", "client=bob", NOT_EXISTS),
    ],
)
def test_a_missing_or_unknown_client_is_code_1(
    api: TestClient, call: str, query: str, answer: dict[str, object]
) -> None:
    result = get(api, call, query)
    assert (result.status_code, result.json) == (200, answer)


def test_a_full_house_is_code_5(make_world: MakeWorld, proxy: Proxy) -> None:
    api = caller(make_world(max_clients="1"), proxy)
    get(api, "start_client", "client=a")
    result = get(api, "start_client", "client=b")
    assert (result.status_code, result.json) == (200, {"code": 5, "status": "max clients exceed"})


def test_a_failure_of_the_supervisor_is_code_3(api: TestClient, world: World) -> None:
    world.supervisor.refuse["alice"] = "no such program"
    result = get(api, "start_client", "client=alice")
    assert result.status_code == 200
    assert result.json == {"code": 3, "status": "failure", "client": "alice", "reason": "no such program"}


@pytest.mark.parametrize("call", [*OWN_CALLS, "get_friend_info"])
def test_an_unreachable_supervisor_is_a_503_with_code_7(api: TestClient, world: World, call: str) -> None:
    get(api, "start_client", "client=alice")
    world.supervisor.reachable = False
    result = get(api, call, "client=alice")
    assert (result.status_code, result.json["code"], result.json["status"]) == (503, 7, "supervisor unreachable")


@pytest.mark.parametrize("call", [*OWN_CALLS, "get_friend_info"])
@pytest.mark.parametrize(
    "query", ["client=a%0Ab", "client=" + "x" * 65, "client=%00", "client=%FF", "client=%ED%A0%80"]
)
def test_an_invalid_name_is_a_400_with_code_8(api: TestClient, call: str, query: str) -> None:
    result = get(api, call, query)
    assert (result.status_code, result.json["code"], result.json["status"]) == (400, 8, "client name invalid")


@pytest.mark.parametrize("call", [*OWN_CALLS, "get_friend_info"])
@pytest.mark.parametrize("query", ["client=a&client=b", "client=a&client=a", "client=a&%63lient=b", "client&client=a"])
def test_a_duplicate_client_is_a_400_with_code_8(api: TestClient, world: World, call: str, query: str) -> None:
    get(api, "start_client", "client=a")
    result = get(api, call, query)
    assert (result.status_code, result.json["code"], result.json["status"]) == (400, 8, "client name invalid")
    assert world.registry.slugs() == ["a"]


@pytest.mark.parametrize("parameter", ["tmpdir", "load", "account", "code", "pid", "微信", ""])
def test_an_unknown_parameter_is_a_400_with_code_6(api: TestClient, world: World, parameter: str) -> None:
    result = get(api, "start_client", f"client=a&{quote(parameter)}=1")
    assert (result.status_code, result.json) == (400, {"code": 6, "status": f"parameter not allowed: {parameter}"})
    assert world.registry.slugs() == []


def test_a_bad_value_and_a_repeated_parameter_are_code_6_with_the_reason(api: TestClient) -> None:
    for query, reason in (("log_level=loud", "it must be one of"), ("fresh=1&fresh=0", "more than once")):
        result = get(api, "start_client", f"client=a&{query}")
        assert (result.status_code, result.json["code"]) == (400, 6)
        assert reason in result.json["reason"]


def test_more_parameters_than_anybody_needs_are_refused(api: TestClient) -> None:
    query = "&".join(f"a{number}=1" for number in range(MAX_FIELDS + 1))
    assert get(api, "start_client", f"client=a&{query}").status_code == 400


def test_a_plus_is_a_space(api: TestClient, world: World) -> None:
    get(api, "start_client", "client=a+b")
    assert world.registry.slugs() == ["a.20b"]


@pytest.mark.parametrize("name", HOSTILE_NAMES.values(), ids=HOSTILE_NAMES)
def test_any_name_goes_through_the_api(api: TestClient, name: str) -> None:
    query = "client=" + quote(name, safe="")
    assert get(api, "start_client", query).json["client"] == name
    assert get(api, "check_client", query).json["client"][0]["account"] == name
    assert get(api, "stop_client", query).json["account"] == name


# Methods and paths


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", path) for path in ("/", "/openwx", "/openwxx/start_client", "/x", "/favicon.ico", "/start_client")),
        ("POST", "/x"),
        ("DELETE", "/x"),
        *((method, f"/openwx/{call}") for method in ("PUT", "DELETE", "PATCH") for call in OWN_CALLS),
        *((method, f"/openwx/{call}") for method in ("HEAD",) for call in ("start_client", "stop_client")),
        *(("POST", f"/openwx/{call}") for call in ("check_client", "get_qrcode")),
    ],
)
def test_anything_else_is_a_403_with_code_minus_1(api: TestClient, world: World, method: str, path: str) -> None:
    result = api.simulate_request(method, path, query_string="client=a")
    assert result.status_code == 403
    assert result.headers["content-type"] == "application/json"
    assert result.content == (b"" if method == "HEAD" else b'{"code":-1,"status":"api not found"}')
    assert world.registry.slugs() == []


@pytest.mark.parametrize("call", ["check_client", "get_qrcode"])
def test_head_is_get_without_the_body(api: TestClient, world: World, call: str) -> None:
    get(api, "start_client", "client=alice")
    world.tell("alice", state="scaning")
    world.file("alice", "qrcode_path").write_bytes(PNG)
    whole, head = get(api, call, "client=alice"), get(api, call, "client=alice", "HEAD")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers == whole.headers


# Forms


@pytest.mark.parametrize("content_type", [FORM, FORM.upper(), f"{FORM}; charset=UTF-8"])
def test_start_parameters_may_come_in_a_form(api: TestClient, world: World, content_type: str) -> None:
    result = form(api, "start_client", "client=%E5%BE%AE+b&log_level=debug", content_type)
    assert (result.json["client"], result.json["log_level"]) == ("微 b", "debug")
    assert form(api, "stop_client", "client=%E5%BE%AE+b", content_type).json["status"] == "success"
    assert world.registry.slugs() == []


def test_a_form_need_not_be_percent_encoded(api: TestClient) -> None:
    """curl -d client=微信 sends the bytes as they are."""
    assert form(api, "start_client", "client=微信").json["client"] == "微信"


def test_query_and_form_go_together(api: TestClient) -> None:
    assert form(api, "start_client", "log_level=debug", query="client=a").json["log_level"] == "debug"


@pytest.mark.parametrize(("query", "body"), [("client=a", "client=b"), ("", "client=a&client=b")])
def test_a_client_in_query_and_form_is_a_duplicate(api: TestClient, world: World, query: str, body: str) -> None:
    result = form(api, "start_client", body, query=query)
    assert (result.status_code, result.json["code"]) == (400, 8)
    assert world.registry.slugs() == []


def test_a_parameter_in_query_and_form_is_given_twice(api: TestClient) -> None:
    result = form(api, "start_client", "fresh=1", query="client=a&fresh=1")
    assert (result.status_code, result.json["code"]) == (400, 6)


@pytest.mark.parametrize("body", [b"client=\xff", b"client=%FF"])
def test_a_form_that_is_not_utf_8_is_a_400(api: TestClient, body: bytes) -> None:
    result = form(api, "start_client", body)
    assert (result.status_code, result.json["code"]) == (400, 8)


def test_a_form_has_its_limit(api: TestClient, world: World) -> None:
    fits = "client=a&ilink_label="
    assert form(api, "start_client", fits + "x" * (FORM_LIMIT - len(fits))).json["code"] == 0
    result = form(api, "start_client", fits.replace("=a", "=b") + "x" * (FORM_LIMIT - len(fits) + 1))
    assert (result.status_code, result.json["code"]) == (400, 6)
    assert world.registry.slugs() == ["a"]


def test_a_body_that_is_no_form_is_not_read(api: TestClient) -> None:
    assert form(api, "start_client", '{"client":"a"}', "application/json").json == NOT_FOUND


# get_qrcode


@pytest.mark.parametrize(("picture", "content_type"), [(PNG, "image/png"), (JPEG, "image/jpg")])
def test_the_code_is_a_picture_of_its_own_type(
    api: TestClient, world: World, picture: bytes, content_type: str
) -> None:
    get(api, "start_client", "client=alice")
    world.tell("alice", state="scaning")
    world.file("alice", "qrcode_path").write_bytes(picture)
    result = get(api, "get_qrcode", "client=alice")
    assert (result.status_code, result.content) == (200, picture)
    assert (result.headers["content-type"], result.headers["cache-control"]) == (content_type, "no-cache")


def test_without_a_code_there_is_a_404_with_an_empty_body(api: TestClient) -> None:
    get(api, "start_client", "client=alice")
    result = get(api, "get_qrcode", "client=alice")
    assert (result.status_code, result.content) == (404, b"")
    assert result.headers["cache-control"] == "no-cache"


# What clients write


def test_no_state_file_makes_the_list_unreadable(api: TestClient, world: World) -> None:
    """A client may be any program: half a surrogate in its JSON must not cost the others their entry."""
    for name in "ab":
        get(api, "start_client", f"client={name}")
        world.tell(name, state="running")
    path = world.file("a", "state_path")
    path.write_text(path.read_text().replace('"running"', '"running", "nick": "\\ud83d"'))
    result = get(api, "check_client")
    assert result.status_code == 200
    assert [entry["account"] for entry in result.json["client"]] == ["a", "b"]
    assert result.json["client"][0]["nick"] == "\ud83d"


def test_a_defect_of_ours_is_a_500_in_json_and_a_trace_in_the_log(
    make_world: MakeWorld, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    world = make_world()
    get(caller(world, proxy), "start_client", "client=a")
    world.registry._locks.rename(world.registry.folder / "away")
    with caplog.at_level(logging.ERROR):
        result = get(caller(world, proxy), "stop_client", "client=a")
    assert (result.status_code, result.json) == (500, {"code": -1, "status": "internal error"})
    assert any(record.exc_info for record in caplog.records)


# Everything else goes to the client


def test_a_call_is_passed_on_with_its_query_and_its_answer_comes_back(api: TestClient, world: World) -> None:
    get(api, "start_client", "client=" + quote("微信"))
    answer = reply(
        b'{"b":1, "a":"\xe5"}', status="207 Own", headers=("Content-Type: application/json", "X-Own: 1", "ETag: 1")
    )
    with served(world, "微信", answer) as client:
        result = get(api, "get_friend_info", "client=%E5%BE%AE%E4%BF%A1&x=%2F+")
    assert (result.status, result.content) == ("207 Own", b'{"b":1, "a":"\xe5"}')
    assert result.headers["content-type"] == "application/json"
    assert (result.headers["x-own"], result.headers["etag"]) == ("1", "1")
    assert result.headers["content-length"] == "16"
    assert client.requests[0].line == "GET /openwx/get_friend_info?client=%E5%BE%AE%E4%BF%A1&x=%2F+ HTTP/1.1"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
def test_any_method_is_passed_on(api: TestClient, world: World, method: str) -> None:
    get(api, "start_client", "client=a")
    with served(world, "a", reply()) as client:
        assert get(api, "send_friend_message", "client=a", method).content == b"ok"
    assert client.requests[0].line.startswith(f"{method} /openwx/send_friend_message")


def test_a_posted_body_is_passed_on_untouched(api: TestClient, world: World) -> None:
    get(api, "start_client", "client=a")
    body = "id=1&content=微信&content=2".encode()
    with served(world, "a", reply()) as client:
        assert form(api, "send_friend_message", body, query="client=a").content == b"ok"
    assert client.requests[0].body == body
    assert client.requests[0].all("Content-Type") == [FORM]


def test_every_cookie_comes_back_in_a_header_of_its_own(api: TestClient, world: World) -> None:
    get(api, "start_client", "client=a")
    with served(world, "a", reply(headers=("Set-Cookie: a=1", "Set-Cookie: b=2"))):
        result = get(api, "x", "client=a")
    assert {name: cookie.value for name, cookie in result.cookies.items()} == {"a": "1", "b": "2"}


def test_the_answer_to_head_has_the_length_and_no_body(api: TestClient, world: World) -> None:
    get(api, "start_client", "client=a")
    with served(world, "a", b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n"):
        result = get(api, "x", "client=a", "HEAD")
    assert (result.status_code, result.content, result.headers["content-length"]) == (200, b"", "12345")


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_an_answer_that_never_has_a_body_passes(api: TestClient, world: World, status: str) -> None:
    get(api, "start_client", "client=a")
    with served(world, "a", f"HTTP/1.1 {status}\r\nETag: 1\r\n\r\n".encode()):
        result = get(api, "x", "client=a")
    assert (result.status, result.content, result.headers["etag"]) == (status, b"", "1")
    assert "content-length" not in result.headers


def test_an_answer_without_a_reason_or_headers_passes(api: TestClient, world: World) -> None:
    def handle(connection: Connection) -> None:
        connection.request()
        connection.send(b"HTTP/1.1 200\r\nConnection: close\r\n\r\nok")

    get(api, "start_client", "client=a")
    with handled(world, "a", handle):
        result = get(api, "x", "client=a")
    assert (result.status_code, result.content) == (200, b"ok")


def test_a_long_answer_passes_as_a_stream(api: TestClient, world: World) -> None:
    get(api, "start_client", "client=a")
    with served(world, "a", reply(b"x" * 300_000)):
        for _ in range(2):
            result = get(api, "get_avatar", "client=a")
            assert (result.headers["content-length"], len(result.content)) == ("300000", 300_000)


def test_a_client_without_a_process_is_a_502_with_code_9(api: TestClient, world: World) -> None:
    get(api, "start_client", "client=a")
    world.supervisor.end("a")
    result = get(api, "x", "client=a")
    assert (result.status_code, result.json["code"], result.json["status"]) == (502, 9, "client unreachable")


def test_a_client_that_does_not_listen_in_time_is_a_503_with_code_9(api: TestClient) -> None:
    get(api, "start_client", "client=a")
    result = get(api, "x", "client=a")
    assert (result.status_code, result.json["code"], result.json["status"]) == (503, 9, "client unreachable")


def test_a_slow_client_is_a_504_with_code_9(world: World) -> None:
    def silent(connection: Connection) -> None:
        connection.request()
        connection.channel.recv(1)

    api = caller(world, Proxy(answer_timeout=0.1))
    get(api, "start_client", "client=a")
    with handled(world, "a", silent):
        result = get(api, "x", "client=a")
    assert (result.status_code, result.json["code"], result.json["status"]) == (504, 9, "client unreachable")


def test_a_client_that_closes_early_is_never_an_empty_200(api: TestClient, world: World) -> None:
    get(api, "start_client", "client=a")
    with Upstream(lambda connection: None, port=world.record("a").port):
        result = get(api, "x", "client=a")
    assert (result.status_code, result.json["code"]) == (502, 9)


def test_a_client_of_any_state_is_addressed(make_world: MakeWorld, proxy: Proxy) -> None:
    """The client itself answers in every state; the controller looks at the process only."""
    world = make_world(backend_start_port=str(free_port()))
    api = caller(world, proxy)
    get(api, "start_client", "client=a")
    world.tell("a", state="scaning")
    with served(world, "a", reply(b'{"code":-25}')):
        assert get(api, "get_user_info", "client=a").json == {"code": -25}
