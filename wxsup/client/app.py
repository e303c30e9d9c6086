"""wxclient: puts one account together and keeps it running until it is told to stop."""

from __future__ import annotations

import threading

from wxsup import daemon

# Before all other imports take their time: a SIGTERM must never find no handler (DESIGN.md 9).
_stop = threading.Event()


def main() -> None:
    """Run the client that the command line names; ends with a code of model.Exit."""
    daemon.on_stop(_stop.set)

    import argparse
    import sys
    from pathlib import Path

    parser = argparse.ArgumentParser(
        prog="wxclient", description="Run one WeChat account. A supervisor starts it; see wxsup --help."
    )
    parser.add_argument("slug", help="the client's name in the form that files and programs carry")
    parser.add_argument("--record", type=Path, help="file with its environment; else the environment itself is taken")
    parser.add_argument("--secret", type=Path, help="file with the secret that a call must carry")
    parser.add_argument("--handed-over", action="store_true", help="take both only from another user than root")
    arguments = parser.parse_args()
    daemon.stop_with_supervisord()

    from wxsup.client.entry import run

    sys.exit(run(arguments.slug, arguments.record, arguments.secret, _stop, handed_over=arguments.handed_over))
