"""``python -m wxsup`` is the command wxsup."""

from wxsup.cli import main

main()
