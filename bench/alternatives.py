"""What other libraries would cost a client, as a table in Markdown: python -m bench.alternatives [PROCESSES].

They are installed into a virtual environment that is thrown away.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping
from pathlib import Path

from bench import skeletons
from bench.client import skeleton
from bench.processes import Starter
from bench.skeletons import Skeleton

ROUNDS = 20_000
#: A received message, as WeChat sends it and the store keeps it.
MESSAGE = {
    "seq": 4711,
    "message_id": 7451234567890123456,
    "from_user_id": "o9cq80123456789abcdef@im.wechat",
    "to_user_id": "b1c2d3e4f5a6@im.bot",
    "create_time_ms": 1763900000123,
    "message_type": 1,
    "item_list": [{"type": 1, "is_completed": True, "text_item": {"text": "你好，明天下午三点开会，请准时参加。" * 4}}],
    "context_token": "QUJD" * 60,
}


def json_microseconds(library: str, python: Path) -> float:
    """Return the CPU time that it takes to read the message and to write it."""
    code = (
        f"import time, {library} as library\nvalue = {MESSAGE!r}\ntext = library.dumps(value)\n"
        f"began = time.process_time()\nfor _ in range({ROUNDS}):\n    library.loads(text)\n    library.dumps(value)\n"
        f"print((time.process_time() - began) / {ROUNDS} * 1e6)"
    )
    return float(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout)


def table(title: str, found: Mapping[str, Skeleton], starter: Starter, count: int, python: Path) -> None:
    """Print what each costs beside the first."""
    first: dict[str, float] = {}
    print(f"| {title} | private MiB | more than the first | CPU s to port | more |\n|---|---|---|---|---|")
    for name, each in found.items():
        figures = skeleton(each, starter, count, str(python))
        first = first or figures
        mib, cpu = figures["private_mib"], figures["cpu_seconds_to_port"]
        more = (mib - first["private_mib"], cpu - first["cpu_seconds_to_port"])
        print(f"| {name} | {mib:.1f} | {more[0]:+.1f} | {cpu:.3f} | {more[1]:+.3f} |", flush=True)
    print()


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    tables = {
        "HTTP server": skeletons.SERVERS,
        "HTTP client, beside http.server": skeletons.CLIENTS,
        "JSON": {"none": skeletons.BARE, **skeletons.JSON},
    }
    needed = sorted({need for found in tables.values() for each in found.values() for need in each.needs})
    with tempfile.TemporaryDirectory(prefix="wx", dir="/tmp") as name, Starter(Path(name)) as starter:
        venv.create(Path(name) / "venv", with_pip=True)
        python = Path(name) / "venv" / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *needed], check=True)
        told = subprocess.run([python, "-m", "pip", "freeze"], capture_output=True, text=True, check=True).stdout
        print(f"Python {sys.version.split()[0]}; {', '.join(told.split())}\n", flush=True)
        for title, found in tables.items():
            table(title, found, starter, count, python)
        for library in skeletons.JSON:
            print(f"{library}: {json_microseconds(library, python):.1f} µs of CPU to read a message and to write it")


if __name__ == "__main__":
    main()
