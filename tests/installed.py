"""wxsup installed on a machine with systemd, by the lines of docs/howto/systemd.md, as an operator would."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.deadline import eventually
from tests.installation import Calls
from tests.machine import Machine
from wxsup import names

ROOT = Path(__file__).parent.parent
HOWTO = ROOT / "docs/howto/systemd.md"
CHECKOUT = "/root/wxsup"
INSTALL_TIMEOUT = 400.0
PORT, SANDBOX_PORT = 2000, 2080


def lines(section: str, page: Path = HOWTO) -> list[str]:
    """Return the commands in a section of a page: what is indented by four blanks."""
    text = page.read_text(encoding="utf-8").partition(f"## {section}\n")[2].partition("\n## ")[0]
    return [line.strip() for line in text.splitlines() if line.startswith("    ")]


class Installed(Calls):
    """The controller, the sandbox and the clients of a machine, with handles for what its operator does."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(PORT, SANDBOX_PORT, machine.network)
        self.machine = machine

    def check_out(self) -> None:
        """Put this checkout, as it is now, into the machine."""
        told = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
        for name in told.stdout.decode().rstrip("\0").split("\0"):
            if (ROOT / name).exists():
                target = self.machine.path(CHECKOUT) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, target)

    def type(self, line: str) -> str:
        """Type a line as root in the checkout and return what it prints; it must succeed."""
        internet = line.startswith(("apt-get", "make"))
        return self.machine.run("bash", "-c", line, folder=CHECKOUT, internet=internet, timeout=INSTALL_TIMEOUT).stdout

    def install(self) -> None:
        """Do what the page says up to a running controller with the sandbox."""
        self.check_out()
        for line in lines("Install"):
            self.type(line)
        eventually(lambda: self.json("check_client")["code"] == 0, what="the controller")
        eventually(lambda: "accounts" in self.look("accounts"), what="the sandbox")

    def unit(self, client: str) -> str:
        """Return the unit of a client."""
        return f"wxclient@{names.slug(client)}.service"

    def show(self, client: str, field: str) -> str:
        """Return a property of a client's unit."""
        return self.machine.systemctl("show", "--value", f"--property={field}", "--", self.unit(client)).strip()

    def journal(self, client: str) -> str:
        """Return the newest lines of the journal about a client's unit."""
        return self.machine.run("journalctl", "-o", "short-precise", "-n", "30", "-u", self.unit(client)).stdout

    def drop_in(self, client: str, text: str) -> None:
        """Change the unit of one client, as systemctl edit does; an empty text takes the change back."""
        self.drop_in_of(self.unit(client), text)

    def drop_in_of(self, unit: str, text: str) -> None:
        """Change any unit."""
        folder = self.machine.path(f"/run/systemd/system/{unit}.d")
        if text:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "override.conf").write_text(text)
        else:
            shutil.rmtree(folder)
        self.machine.systemctl("daemon-reload")

    @contextmanager
    def settings(self, **changes: str) -> Iterator[None]:
        """Have the controller reloaded with some settings added to its file, and without them in the end."""
        path = self.machine.path("/etc/wxsup/wxsup.toml")
        before = path.read_text()
        path.write_text(before + "".join(f'{name} = "{value}"\n' for name, value in changes.items()))
        try:
            self.machine.systemctl("reload", "wxcontroller")
            yield
        finally:
            path.write_text(before)
            self.machine.systemctl("reload", "wxcontroller")

    def stop_all(self) -> None:
        """Stop every client through the API."""
        for entry in self.json("check_client")["client"]:
            reply = self.json("stop_client", client=entry["account"])
            assert reply["code"] == 0, reply
