"""What start and check cost under a real systemd, beside systemctl: python -m bench.systemd [CLIENTS]..., as root.

Prints medians in milliseconds as JSON. `start_client` goes through HTTP, polkit and D-Bus and answers when the process
exists; `systemctl_start` is root's start of a unit that does nothing but say that it is ready, in the same run.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path

from bench.main_job import timed
from tests.installed import Installed
from tests.machine import Machine

ROUNDS = 30
TRIVIAL = """
[Service]
Type=notify
NotifyAccess=all
ExecStart=/bin/sh -c "systemd-notify --ready; exec sleep infinity"
"""


def measured(wx: Installed, count: int) -> dict[str, float]:
    """Return medians in milliseconds with `count` clients running."""
    for number in range(len(wx.json("check_client")["client"]), count):
        wx.json("start_client", client=f"n{number}")
    for number in range(count):
        wx.until(f"n{number}", "scaning")
    starts, stops, floors = [], [], []
    for _ in range(ROUNDS):
        starts.append(timed(lambda: wx.json("start_client", client="new")))
        wx.until("new", "scaning")
        stops.append(timed(lambda: wx.json("stop_client", client="new")))
        floors.append(timed(lambda: wx.machine.systemctl("start", "trivial.service")))
        wx.machine.systemctl("stop", "trivial.service")
    checks = [timed(lambda: wx.json("check_client")) for _ in range(ROUNDS)]
    found = {"start_client": starts, "stop_client": stops, "systemctl_start": floors, "check_client": checks}
    return {name: round(statistics.median(times), 1) for name, times in found.items()}


def main() -> None:
    counts = [int(word) for word in sys.argv[1:]] or [10, 100]
    with tempfile.TemporaryDirectory(prefix="wx", dir="/tmp") as folder, Machine(Path(folder)) as machine:
        wx = Installed(machine)
        wx.install()
        machine.path("/run/systemd/system/trivial.service").write_text(TRIVIAL)
        machine.path("/etc/wxsup/wxsup.toml").open("a").write(f"max_clients = {max(counts) + 1}\n")
        machine.systemctl("daemon-reload")
        machine.systemctl("restart", "wxcontroller")
        wx.close()
        print(json.dumps({str(count): measured(wx, count) for count in counts}, indent=2))
        wx.stop_all()
        wx.close()


if __name__ == "__main__":
    main()
