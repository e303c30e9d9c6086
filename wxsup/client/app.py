"""wxclient: puts one account together and keeps it running until it is told to stop."""

from __future__ import annotations

from wxsup import daemon

# Before all other imports take their time: a SIGTERM must never find no handler (DESIGN.md 9).
_stop = daemon.Stop()

USAGE = """\
usage: wxclient SLUG [--record FILE] [--secret FILE] [--handed-over]

Run one WeChat account. A supervisor starts it; see wxsup --help.

  SLUG           the client's name in the form that files and programs carry
  --record FILE  file with its environment; else the environment itself is taken
  --secret FILE  file with the secret that a call must carry
  --handed-over  take both only from another user than root
"""


def main() -> None:
    """Run the client that the command line names; ends with a code of model.Exit."""
    _stop.heed_signals()

    import getopt  # argparse would stay for as long as we run, with 0.3 MiB
    import sys
    from pathlib import Path

    from wxsup.model import Exit

    try:
        options, slugs = getopt.gnu_getopt(sys.argv[1:], "h", ["help", "record=", "secret=", "handed-over"])
        given = dict(options)
        if given.keys() & {"-h", "--help"}:
            sys.stdout.write(USAGE)
            sys.exit(Exit.STOPPED)
        if len(slugs) != 1:
            raise getopt.GetoptError("it takes one SLUG")
    except getopt.GetoptError as ex:
        sys.stderr.write(f"{USAGE}\n{ex}\n")
        sys.exit(Exit.USAGE)
    daemon.stop_with_supervisord()

    from wxsup.client.entry import run

    record, secret = (Path(given[name]) if name in given else None for name in ("--record", "--secret"))
    sys.exit(run(slugs[0], record, secret, _stop, handed_over="--handed-over" in given))
