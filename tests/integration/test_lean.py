"""What a client costs that does nothing: modules that it has no use for, and wake-ups. Nothing here is timed."""

from __future__ import annotations

import json
import signal
import socket
import sys
from pathlib import Path

import pytest

from tests.account import Line, Receiver
from tests.deadline import eventually
from tests.installation import asleep, wake_ups
from tests.integration.test_wxclient import Account, Bench
from tests.unit.upstream import Request
from wxsup.model import Exit
from wxsup.sandbox.app import Sandbox

#: Besides the standard library; what begins with an underline is what a virtual environment's own .pth files load.
OURS = {"wxsup", "setproctitle"}
#: Of the standard library, and of ours: each takes 0.2 MiB or more for as long as a client runs.
HEAVY = {
    "argparse",
    "asyncio",
    "concurrent.futures.process",
    "concurrent.futures.thread",
    "email.mime",
    "logging.handlers",
    "multiprocessing",
    "pickle",
    "subprocess",
    "sysconfig",
    "tempfile",
    "unittest",
    "urllib.request",
    "uuid",
    "xml",
    "wxsup.client.launch",
    "wxsup.settings",
}
HOLD = 2.0


def loaded_by(account: Account, told: Path) -> set[str]:
    """End a client that was started with tells_modules() and return what it had loaded."""
    assert account.signal(signal.SIGTERM)[0] == Exit.STOPPED
    return set(json.loads(told.read_text()))


def tells_modules(account: Account, told: Path) -> list[str]:
    """Return the command of a client that writes in the end what it had loaded before."""
    code = (
        "import sys\n"
        "from wxsup.client import app\n"
        "try:\n"
        "    app.main()\n"
        "finally:\n"
        "    loaded = list(sys.modules)\n"
        f"    import json; json.dump(loaded, open({str(told)!r}, 'w'))\n"
    )
    return [sys.executable, "-c", code, *account.command[1:]]


@pytest.mark.parametrize("reports", [True, False])
def test_a_client_loads_nothing_that_it_has_no_use_for(tmp_path: Path, reports: bool) -> None:
    """One that is logged in already; it has a caller, and a receiver of reports or none."""
    told = tmp_path / "modules"
    with Sandbox(hold=HOLD) as sandbox, Receiver() as receiver:
        bench = Bench(tmp_path, sandbox)
        account = bench.running(post_api=receiver.url if reports else "")
        assert account.signal(signal.SIGTERM)[0] == Exit.STOPPED
        account.start(tells_modules(account, told))
        account.until("running")
        account.ask("get_client_info")
        bench.people.say("alice", "hello")
        eventually(lambda: account.ask("check_event"), what="the message")
        account.ask("send_friend_message", id=bench.people.id_of("alice"), content="hello")
        loaded = loaded_by(account, told)
        bench.close()
    assert "wxsup.client.openwx" in loaded
    foreign = {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names) - OURS
    assert {name for name in foreign if not name.startswith("_")} == set()
    assert loaded & HEAVY == set()


def test_what_draws_login_codes_is_loaded_by_a_client_that_shows_one(tmp_path: Path) -> None:
    told = tmp_path / "modules"
    with Sandbox(hold=HOLD) as sandbox:
        bench = Bench(tmp_path, sandbox)
        account = bench.account()
        account.start(tells_modules(account, told))
        account.until("scaning")
        assert "segno" in loaded_by(account, told)
        bench.close()


def test_nothing_wakes_a_client_while_a_poll_is_held(tmp_path: Path) -> None:
    """Seen from between the client and the sandbox: from when all its threads sleep to when the poll is answered.

    It also posts reports, and a caller waits for events.
    """
    during: list[int] = []
    with Sandbox(hold=HOLD) as sandbox, Line(sandbox.url) as line, Receiver() as receiver:
        bench = Bench(tmp_path, sandbox)
        account = bench.running(ilink_base=line.url, post_api=receiver.url)
        with socket.create_connection(("127.0.0.1", account.port)) as caller:
            caller.sendall(b"GET /openwx/check_event?after= HTTP/1.1\r\nHost: client\r\n\r\n")

            def hold(request: Request) -> bytes:
                before = eventually(lambda: settled(account.pid), what="all asleep")
                answer = line.pass_on(request)
                during.append(wake_ups(account.pid) - before)
                return answer

            line.instead["getupdates"] = hold
            eventually(lambda: len(during) >= 3, what="three held polls")
            bench.close()
    # The first may have been under way when the caller came.
    assert during[1:3] == [0, 0]


def settled(pid: int) -> int:
    """Return the wake-ups of a process that sleeps, 0 if it does not."""
    before = wake_ups(pid)
    return before if asleep(pid) and wake_ups(pid) == before else 0
