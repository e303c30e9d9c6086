"""The command wxsup send."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wxsup.errors import ObjectNotFound
from wxsup.flags import Target, name_argument, with_target
from wxsup.terminal import Output
from wxsup.usage import command

if TYPE_CHECKING:
    from wxsup.sdk import Controller

FILEHELPER = "filehelper"
KEYS = ("id", "account", "markname", "displayname", "name")
MOST = 8 * 1024 * 1024 - 4096  # of a file: the API takes 8 MiB for the whole call


@command(
    examples=[
        ("wxsup send demo filehelper hello", "to the owner of the account, where the setting ilink_filehelper has it"),
        ("wxsup send demo 张三 '晚上好'", "to a friend by id, account, remark or name"),
        ("date | wxsup send demo 张三 -", "what comes from standard input"),
        ("wxsup send demo 张三 --file photo.jpg", "a file"),
        ("wxsup send demo 张三 later --async", "return once it is safe on disk; it survives restarts"),
    ]
)
@name_argument
@click.argument("to")
@click.argument("text", required=False)
@click.option("--file", "path", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="send this file")
@click.option("--async", "promised", is_flag=True, help="do not wait until it is sent")
@with_target
def send(
    target: Target, output: Output, name: str, to: str, text: str | None, path: Path | None, promised: bool
) -> None:
    """Send a text or a file to a friend.

    TO is an id, an account, a remark or a name; where several friends have that name, nothing is sent.
    """
    if (text is None) == (path is None):
        raise click.UsageError("give a TEXT, or a file with --file")
    if not to:
        raise click.UsageError("TO is empty")
    if text == "-":
        text = _input()
    params: dict[str, Any] = {"async": True} if promised else {}
    if path:
        params |= {"media_data": _content(path), "media_name": path.name}
    else:
        params["content"] = text
    with target.controller() as wx:
        reply = wx.call(name, "send_friend_message", id=_friend(wx, name, to), **params)
    if output.as_json:
        output.document(reply)
    else:
        output.say(str(reply["status"]))


def _input() -> str:
    """Return what comes from standard input, without the end of its last line."""
    try:
        return sys.stdin.buffer.read().decode().rstrip("\n")
    except UnicodeDecodeError as ex:
        raise click.UsageError("standard input is not UTF-8") from ex


def _content(path: Path) -> bytes:
    """Return a file that is to be sent."""
    with path.open("rb") as file:
        content = file.read(MOST + 1)
    if not content:
        raise click.UsageError(f"{path} is empty")
    if len(content) > MOST:
        raise click.UsageError(f"{path} is larger than the 8 MiB that one call may hold; media_path takes larger files")
    return content


def _friend(wx: Controller, name: str, to: str) -> str:
    """Return the id of the friend that is called `to`; what is meant must be certain."""
    if to == FILEHELPER:
        return to
    friends = wx.call(name, "get_friend_info")
    for key in KEYS:
        found = [friend for friend in friends if str(friend.get(key) or "") == to]
        if len(found) > 1:
            ids = ", ".join(str(friend["id"]) for friend in found)
            raise click.UsageError(f"{len(found)} friends have the {key} {to!r}; give an id instead: {ids}")
        if found:
            return str(found[0]["id"])
    raise ObjectNotFound(f"{name} has no friend with the id, account, remark or name {to!r}")
