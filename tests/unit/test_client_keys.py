"""The secrets of one client, as they lie beside its record."""

from __future__ import annotations

from pathlib import Path

import pytest

from wxsup.client.keys import Keys, read


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        ("hop", Keys("hop", "")),
        ("hop\n", Keys("hop", "")),
        ("hop\npost", Keys("hop", "post")),
        ("hop\npost\n", Keys("hop", "post")),
        ("hop\na key of words 钥匙", Keys("hop", "a key of words 钥匙")),
    ],
)
def test_the_first_line_is_that_of_the_hop_the_second_that_of_the_posts(
    tmp_path: Path, content: str, keys: Keys
) -> None:
    path = tmp_path / "client.secret"
    path.write_text(content, encoding="utf-8")
    assert read(path) == keys


@pytest.mark.parametrize("content", [b"", b"\n", b"\n\n", b"\xff\xfe\n"])
def test_a_file_without_a_secret_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "client.secret"
    path.write_bytes(content)
    with pytest.raises(ValueError):
        read(path)


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "client.secret")


def test_no_traceback_shows_a_key() -> None:
    assert "s3cr3t" not in repr(Keys("s3cr3t hop", "s3cr3t post"))
