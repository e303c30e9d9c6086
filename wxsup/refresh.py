"""Brings records up to the settings in force, for the next start of each client."""

from __future__ import annotations

import dataclasses
import logging

from wxsup import files, options
from wxsup.environment import environment
from wxsup.errors import ParameterRefused, WxsupError
from wxsup.model import Client, Want
from wxsup.registry import Registry
from wxsup.settings import Settings
from wxsup.supervisors import Supervisor

logger = logging.getLogger(__name__)


class Refresh:
    """What the `settings` make of a client, and of all that are recorded already."""

    def __init__(self, settings: Settings, registry: Registry, supervisor: Supervisor) -> None:
        self._settings = settings
        self._registry = registry
        self._supervisor = supervisor

    def derived(self, client: Client) -> Client:
        """Return `client` with the environment that it is to have."""
        return dataclasses.replace(client, environment=environment(self._allowed(client), self._settings))

    def run(self, *, definitions: bool = False) -> list[str]:
        """Bring every record up to the settings, and return the names of those that have changed.

        With `definitions` also what the supervisor reads at its own start; only for the time before that: later it
        would not see that they have changed.
        """
        changed = []
        for slug in self._registry.slugs():
            try:
                with self._registry.claimed(slug):
                    client = self._registry.find(slug)
                    if client is not None and self._refresh(client, definitions):
                        changed.append(client.name)
            except (WxsupError, OSError) as ex:  # it spoils only its own client, which goes on as it was
                logger.warning("client not refreshed", extra={"action": "refresh", "client": slug, "reason": str(ex)})
        return changed

    def _refresh(self, client: Client, definitions: bool) -> bool:
        derived = self.derived(client)
        changed = derived != client or not self._registry.secrets_stand(derived)
        if changed:
            self._registry.save(derived)
        if definitions and derived.want is Want.UP:
            for path, text in self._supervisor.render(derived).items():
                if not path.exists() or path.read_text(encoding="utf-8", errors="replace") != text:
                    files.replace(path, text)
        return changed

    def _allowed(self, client: Client) -> Client:
        """Return `client` without the start parameters that the settings do not allow any more."""
        allowed: dict[str, str] = {}
        for name, value in client.params.items():
            try:
                allowed |= options.accept({name: value}, post_api_allow=self._settings.post_api_allow)
            except ParameterRefused as ex:
                logger.warning(
                    "parameter ignored", extra={"action": "refresh", "client": client.name, "reason": ex.status}
                )
        return dataclasses.replace(client, params=allowed)
