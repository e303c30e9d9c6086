"""The parts of one account, wired to each other; account.py lets them begin and end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from wxsup.client.answering import Answers
from wxsup.client.calls import table
from wxsup.client.calls.uploads import Uploads
from wxsup.client.download import Download
from wxsup.client.drivers.ilink import Ilink
from wxsup.client.events import Events
from wxsup.client.fetching import Fetcher
from wxsup.client.heartbeat import Heartbeat
from wxsup.client.journal import Journal
from wxsup.client.keys import Keys
from wxsup.client.media import media_folder
from wxsup.client.openwx import Openwx
from wxsup.client.pulse import Pulse
from wxsup.client.sendqueue import SendQueue
from wxsup.client.state import Login, LoginState
from wxsup.client.store import Store
from wxsup.options import Options

HANG_UP = 0.3  # for what remains to be noted of a send that was broken off


class Parts:
    """What works on the `store` of an account; `started` tells this start_client call from others, `stop` ends us."""

    def __init__(
        self,
        options: Options,
        state: LoginState,
        store: Store,
        journal: Journal,
        keys: Keys,
        *,
        started: str,
        stop: Callable[[], None],
    ) -> None:
        self.events = Events(store, options, key=keys.post)
        self.driver = Ilink(options, state, store, self.events, started=started)
        self.queue = SendQueue(store, self.events, self.driver, state, options)
        folder = media_folder(options, self.driver.name)
        uploads = Uploads(folder, Download(options.media_url_allow, options.media_private_hosts))
        self.fetcher = Fetcher(store, self.events, folder, self.driver.fetch)
        calls = table.calls(
            options, state, self.driver, self.queue, self.events, uploads, journal, store=store, stop=stop
        )
        self.api = Openwx(options.account, calls, secret=keys.hop)
        self.heartbeat = Heartbeat(options, self.api.call_by_ourselves)

        folder.needed = self.queue.files
        self.queue.fetch = uploads.from_url
        self.driver.heard = self.queue.wake
        self.events.held_back = self.fetcher.wake
        self.events.poster.replied = Answers(self.driver, self.queue, self.events).take

    @property
    def pulses(self) -> Mapping[str, Pulse]:
        """Return the pulse of each thread, by what is to be said when it is late."""
        return {
            "the account's thread hangs": self.driver.pulse,
            "the thread that sends hangs": self.queue.pulse,
            "the thread that posts reports hangs": self.events.poster.pulse,
            "the thread that fetches files hangs": self.fetcher.pulse,
        }

    def start(self) -> None:
        """Begin with all but the driver, whose thread is the caller's."""
        self.events.start()
        self.queue.start()
        self.fetcher.wake()
        self.heartbeat.start()

    def moved(self, old: Login, new: Login) -> None:
        """Report a change of the login state, and go on with what waited for it."""
        self.events.event("state_change", old.value, new.value)
        if new is Login.RUNNING:
            self.queue.wake()

    def stop(self, *, grace: float) -> None:
        """End what is under way in at most so many seconds; reports of it can still be taken in."""
        deadline = time.monotonic() + grace
        self.heartbeat.stop()
        self.driver.stop()
        self.queue.stop(grace=grace - HANG_UP)
        self.fetcher.stop()
        self.driver.hang_up()
        self.queue.stop(grace=HANG_UP)
        self.fetcher.stop(grace=max(0.0, deadline - time.monotonic()))
