"""What goes on without a request: finishing unfinished work, and the controller's heartbeat.

It runs in one worker only, the one that holds a lock; when that worker dies another takes over.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import requests

from wxsup import files
from wxsup.controller import Controller
from wxsup.settings import Settings

logger = logging.getLogger(__name__)

HEARTBEAT_TIMEOUT = (10.0, 120.0)


class Background:
    """The background work of one worker."""

    def __init__(self, controller: Controller, settings: Settings) -> None:
        self._controller = controller
        self._settings = settings
        self._lock: Path = settings.run_dir / "background.lock"
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin, in threads that end with the process."""
        threading.Thread(target=self._run, name="background", daemon=True).start()

    def stop(self) -> None:
        """End after the step under way."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                with files.locked(self._lock, timeout=0):
                    if self._settings.poll_api:
                        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
                    self._repeat(self._controller.sync, self._settings.check_interval)
            except OSError as ex:
                if not isinstance(ex, BlockingIOError):  # which says that another worker does it
                    logger.warning("background work not begun", extra={"action": "background", "reason": str(ex)})
                self._stopped.wait(self._settings.check_interval)

    def _beat(self) -> None:
        with requests.Session() as session:
            session.trust_env = False

            def ask() -> None:
                # No redirect is followed: a poll server must not be able to drive addresses of ours.
                session.get(self._settings.poll_api, timeout=HEARTBEAT_TIMEOUT, allow_redirects=False).close()

            self._repeat(ask, self._settings.poll_interval)

    def _repeat(self, step: Callable[[], object], interval: float) -> None:
        """Do `step` for ever; whatever goes wrong in it, the next one comes."""
        while not self._stopped.is_set():
            try:
                step()
            except Exception as ex:
                logger.warning("background step failed", extra={"action": "background", "reason": type(ex).__name__})
            self._stopped.wait(interval)
