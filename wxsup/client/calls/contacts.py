"""Who is who: the account, its friends, its groups (openwx-api.md 2, 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wxsup import values
from wxsup.client.calls import Call, Calls
from wxsup.client.drivers import Driver
from wxsup.errors import ContentRejected, ObjectNotFound
from wxsup.options import Options

FRIEND_KEYS = ("id", "account", "displayname", "markname")
SEARCH_KEYS = (*FRIEND_KEYS, "uid", "name", "category", "sex", "province", "city", "signature")
FILEHELPER = "filehelper"
MOST_MARKNAME = 64


class Contacts:
    """Answers what is asked of the people of one account; groups there are none."""

    def __init__(self, options: Options, driver: Driver) -> None:
        self._owner_is_filehelper = options.ilink_filehelper == "owner"
        self._driver = driver

    def calls(self) -> Calls:
        """Return what is answered here; all of it needs a login."""
        return {
            "get_user_info": lambda call: self._driver.user(),
            "get_friend_info": lambda call: self._driver.friends(),
            "get_group_info": self._groups,
            "get_group_basic_info": self._groups,
            "get_avatar": self._avatar,
            "search_friend": self._search_friend,
            "search_group": self._search_group,
            "set_markname": self._set_markname,
            "set_friend_markname": self._set_markname,
        }

    def friend(self, parameters: Mapping[str, str]) -> dict[str, Any]:
        """Return the first friend whom the parameters name; raise ObjectNotFound if there is none."""
        wanted = {key: parameters[key] for key in FRIEND_KEYS if key in parameters}
        friends = self._driver.friends()
        if wanted.get("id") == FILEHELPER and self._owner_is_filehelper:
            found = friends[:1]
        else:
            found = [friend for friend in friends if wanted and _matches(friend, wanted)]
        if not found:
            raise ObjectNotFound(id=None)
        return found[0]

    def _groups(self, call: Call) -> list[dict[str, Any]]:
        self._driver.user()  # which raises NotLoggedIn
        return []

    def _avatar(self, call: Call) -> dict[str, Any]:
        raise ObjectNotFound(id=None)

    def _search_friend(self, call: Call) -> list[dict[str, Any]]:
        wanted = {key: call.parameters[key] for key in SEARCH_KEYS if key in call.parameters}
        found = [friend for friend in self._driver.friends() if _matches(friend, wanted)]
        if not wanted or not found:
            raise ObjectNotFound
        return found

    def _search_group(self, call: Call) -> list[dict[str, Any]]:
        raise ObjectNotFound

    def _set_markname(self, call: Call) -> dict[str, Any]:
        if "group_id" in call.parameters:
            raise ObjectNotFound(status="group not found")
        name = call.get("new_markname")
        try:
            values.text(name)
        except ValueError as ex:
            raise ContentRejected(f"new_markname: {ex}") from ex
        if len(name) > MOST_MARKNAME:
            raise ContentRejected(f"new_markname has more than {MOST_MARKNAME} characters")
        try:
            friend = self.friend(call.parameters)
        except ObjectNotFound:
            raise ObjectNotFound from None  # here without an id (openwx-api.md 3.1)
        self._driver.set_markname(friend["id"], name)
        return {"code": 0, "status": "success", "local": True}


def _matches(friend: dict[str, Any], wanted: Mapping[str, str]) -> bool:
    return all(str(friend.get(key, "")) == value for key, value in wanted.items())
