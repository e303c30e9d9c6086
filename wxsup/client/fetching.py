"""Fetches the files of received messages, which are reported when theirs is there or given up.

Its thread lives only while there is something to fetch: most accounts see no file for days.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from wxsup.client import reports
from wxsup.client.backoff import longer
from wxsup.client.drivers import FileLost
from wxsup.client.events import Events
from wxsup.client.filetypes import of_code
from wxsup.client.http import TransportError
from wxsup.client.media import Folder, NotKept, Sink, TooLarge
from wxsup.client.pulse import Pulse
from wxsup.client.store import Store
from wxsup.client.store.held import Held

logger = logging.getLogger(__name__)

TIMEOUT = 150.0  # of one attempt; the driver gives up before
PATIENCE = 120.0  # after it came in a message is reported without its file: it has held up its conversation enough
HOPELESS = 60.0  # for so long no file that is overdue is tried for, once one such was tried for in vain
RETRY_FIRST, RETRY_MOST = 1.0, 30.0


class Fetcher:
    """Fetches one file after the other with `fetch(source, sink)` into the media folder."""

    def __init__(
        self, store: Store, events: Events, folder: Folder, fetch: Callable[[Mapping[str, Any], Sink], None]
    ) -> None:
        self._store = store
        self._events = events
        self._folder = folder
        self._fetch = fetch
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._due: dict[int, float] = {}  # reports whose file is to be tried for again, and when
        self._pauses: dict[int, float] = {}
        self._hopeless_until = 0.0
        self.pulse = Pulse()

    def wake(self) -> None:
        """Look for files that are to be fetched; to be called by nobody who holds the store."""
        with self._changed:
            self._changed.notify_all()
            if self._thread is None and not self._stopping and self._something_is_held():
                self._thread = threading.Thread(target=self._run, name="fetch", daemon=True)
                self._thread.start()

    def stop(self, *, grace: float = 0.0) -> None:
        """Begin nothing more, and give up nothing; what is not there yet is fetched by the next process."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            thread = self._thread
        if thread:
            thread.join(grace)

    def _something_is_held(self) -> bool:
        try:
            return self._store.held.count() > 0
        except sqlite3.Error as ex:
            logger.error("held reports not read", extra={"action": "fetch", "reason": str(ex)})
            return True  # so that somebody goes on asking

    def _run(self) -> None:
        while held := self._next():
            try:
                self._attempt(held)
            except sqlite3.Error as ex:
                self._again(held, f"store: {ex}")
            except Exception as ex:  # a defect must not stop all other files
                logger.exception("fetch failed", extra={"action": "fetch"})
                self._again(held, type(ex).__name__)

    def _next(self) -> Held | None:
        """Wait for a file whose turn it is; None, and the thread ends, when there is none or we stop."""
        self.pulse.rest()
        with self._changed:
            while not self._stopping:
                now = time.monotonic()
                later = {number: due for number, due in self._due.items() if due > now}
                try:
                    held = self._store.held.next(later)
                except sqlite3.Error as ex:
                    logger.error("held reports not read", extra={"action": "fetch", "reason": str(ex)})
                    self._changed.wait(RETRY_FIRST)
                    continue
                if held or not later:
                    if not held:
                        self._due.clear()
                        self._pauses.clear()
                        self._thread = None
                    return held
                self._changed.wait(min(later.values()) - now)
            return None

    def _attempt(self, held: Held) -> None:
        now, overdue = time.monotonic(), self._store.held.age(held.number) > PATIENCE
        if overdue and now < self._hopeless_until:
            self._give_up(held, "there was no getting files")
            return
        self.pulse.within(TIMEOUT)
        name, kind = str(held.body.get("media_name", "")), of_code(str(held.body.get("media_code", "")))
        try:
            media = self._folder.keep(lambda sink: self._fetch(held.source, sink), name=name, kind=kind)
        except (FileLost, TooLarge) as ex:
            self._give_up(held, str(ex))
        except Exception as ex:
            if self._stopping or not overdue:
                self._again(held, str(ex) or type(ex).__name__)
                return
            self._hopeless_until = time.monotonic() + HOPELESS
            self._give_up(held, str(ex) or type(ex).__name__)
            if not isinstance(ex, (TransportError, NotKept)):
                raise
        else:
            logger.info("file fetched", extra={"action": "fetch", "size": media.size})
            self._release(held, reports.fetched(held.body, media))

    def _give_up(self, held: Held, reason: str) -> None:
        logger.warning("file given up", extra={"action": "fetch", "reason": reason})
        self._release(held, {**held.body, "media_error": reason})

    def _release(self, held: Held, body: dict[str, Any]) -> None:
        self._events.release(held, body)
        self._pauses.pop(held.number, None)
        self._due.pop(held.number, None)

    def _again(self, held: Held, reason: str) -> None:
        pause = self._pauses[held.number] = longer(self._pauses.get(held.number, 0.0), RETRY_FIRST, RETRY_MOST)
        self._due[held.number] = time.monotonic() + pause
        if not self._stopping:
            logger.warning("file not fetched yet", extra={"action": "fetch", "reason": reason, "retry_in": pause})
