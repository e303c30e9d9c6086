"""What the main job costs, beside its own floor: python -m bench.main_job [CLIENTS]."""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from bench.processes import cpu_seconds, private_mib
from tests.installation import Installation

SECONDS = 5


def timed(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1000


def rate(url: str, secret: str = "") -> float:
    """Return requests per second at 16 connections."""
    command = ["wrk", "-t1", "-c16", f"-d{SECONDS}s", "-H", f"X-Wxsup-Secret: {secret}", url]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (found,) = re.findall(r"Requests/sec:\s+([\d.]+)", told)
    return float(found)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    with (
        tempfile.TemporaryDirectory(prefix="wx", dir="/tmp") as folder,
        Installation(Path(folder), max_clients=count) as wx,
    ):
        names = [f"client{number}" for number in range(count)]
        starts = [timed(lambda name=name: wx.json("start_client", client=name)) for name in names]  # type: ignore[misc]
        for name in names:
            wx.until(name, "scaning")
        pids = [entry["pid"] for entry in wx.json("check_client")["client"]]
        for name in names:
            wx.log_in(name, f"user-of-{name}")
        tenth = max(1, count // 10)
        first, last = statistics.median(starts[:tenth]), statistics.median(starts[-tenth:])
        checks = statistics.median(timed(lambda: wx.json("check_client")) for _ in range(20))
        print(f"start_client, median of the first {tenth} and the last {tenth}: {first:.1f} ms, {last:.1f} ms")
        print(f"check_client of all {count}, median: {checks:.1f} ms")
        print(f"a running client: {statistics.median(map(private_mib, pids)):.1f} MiB private,", end=" ")
        print(f"{statistics.median(map(cpu_seconds, pids)):.2f} s CPU from exec to running")
        if shutil.which("wrk"):
            port = wx.state(names[0])["port"]
            path = f"openwx/get_client_info?client={names[0]}"
            secret = (Path(folder) / f"var/clients/wxclient-{names[0]}.secret").read_text()
            direct, proxied = rate(f"http://127.0.0.1:{port}/{path}", secret), rate(f"{wx.url}/{path}")
            print(f"get_client_info: {direct:.0f}/s at the client, {proxied:.0f}/s through the controller,", end=" ")
            print(f"ratio {proxied / direct:.2f}")
        quick = f"{wx.url}/openwx/check_client?client={names[0]}"
        print(f"one quick call: {statistics.median(timed(lambda: requests.get(quick)) for _ in range(50)):.1f} ms")


if __name__ == "__main__":
    main()
