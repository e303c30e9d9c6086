"""The table of all calls of one account (openwx-api.md 3)."""

from __future__ import annotations

from collections.abc import Callable

from wxsup.client.calls import Calls, unsupported, when_running
from wxsup.client.calls.contacts import Contacts
from wxsup.client.calls.control import Control
from wxsup.client.calls.mail import Mail
from wxsup.client.calls.reporting import Reporting
from wxsup.client.calls.uploads import Uploads
from wxsup.client.drivers import Driver
from wxsup.client.events import Events
from wxsup.client.journal import Journal
from wxsup.client.sendqueue import SendQueue
from wxsup.client.state import LoginState
from wxsup.client.store import Store
from wxsup.options import Options


def calls(
    options: Options,
    state: LoginState,
    driver: Driver,
    queue: SendQueue,
    events: Events,
    uploads: Uploads,
    journal: Journal,
    *,
    store: Store,
    stop: Callable[[], None],
) -> Calls:
    """Return every call, by name; `stop` ends the process."""
    contacts = Contacts(options, driver)
    mail = Mail(driver, queue, events, contacts=contacts, uploads=uploads)
    return {
        **unsupported(driver.name),
        **when_running(state, {**contacts.calls(), **mail.calls()}),
        **mail.calls_without_login(),
        **Reporting(store, events).calls(),
        **Control(options, state, driver, store, journal, stop=stop).calls(),
    }
