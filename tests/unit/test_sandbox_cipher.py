"""The cipher of media against the vectors of shared/spec/ilink-protocol.md 9.3."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wxsup.sandbox import cipher
from wxsup.sandbox.cipher import Undecipherable

KEY = bytes.fromhex("00112233445566778899aabbccddeeff")
OTHER = bytes(16)

VECTORS = [
    (b"", "00657ea140655a44782747705d422fad", "d41d8cd98f00b204e9800998ecf8427e"),
    (b"hello", "9d86c8612e085e93a235794a708af7a9", "5d41402abc4b2a76b9719d911017c592"),
    (
        b"0123456789abcdef",
        "aebdd39b144089d5e31cacd35b7a113a00657ea140655a44782747705d422fad",
        "4032af8d61035123906e58e067140cc5",
    ),
]


@pytest.mark.parametrize(("plain", "encrypted", "md5"), VECTORS)
def test_vectors(plain: bytes, encrypted: str, md5: str) -> None:
    assert cipher.encrypt(plain, KEY).hex() == encrypted
    assert cipher.decrypt(bytes.fromhex(encrypted), KEY) == plain
    assert cipher.size_of(len(plain)) == len(encrypted) // 2
    assert hashlib.md5(plain).hexdigest() == md5


@given(st.binary(max_size=100), st.binary(min_size=16, max_size=16))
def test_what_was_encrypted_can_be_decrypted(plain: bytes, key: bytes) -> None:
    encrypted = cipher.encrypt(plain, key)
    assert len(encrypted) == cipher.size_of(len(plain)) > len(plain)
    assert cipher.decrypt(encrypted, key) == plain


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 17, cipher.encrypt(b"hello", OTHER)])
def test_what_was_not_encrypted_with_the_key(content: bytes) -> None:
    with pytest.raises(Undecipherable):
        cipher.decrypt(content, KEY)


def test_texts_of_a_key() -> None:
    assert cipher.base64_of_raw(KEY) == "ABEiM0RVZneImaq7zN3u/w=="
    assert cipher.base64_of_hex(KEY) == "MDAxMTIyMzM0NDU1NjY3Nzg4OTlhYWJiY2NkZGVlZmY="
    assert cipher.key_of_base64_of_hex("MDAxMTIyMzM0NDU1NjY3Nzg4OTlhYWJiY2NkZGVlZmY=") == KEY
    assert cipher.key_of_hex("00112233445566778899AABBCCDDEEFF") == KEY


@pytest.mark.parametrize("text", ["", "ABEiM0RVZneImaq7zN3u/w==", "?", "MDAxMQ==", "é", KEY.hex()])
def test_what_no_bot_may_write_as_a_key(text: str) -> None:
    with pytest.raises(Undecipherable, match="aes_key is not the base64 of 32 hex digits"):
        cipher.key_of_base64_of_hex(text)


@pytest.mark.parametrize("text", ["", "00", "g" * 32, "0" * 33, "0" * 32 + "\n"])
def test_what_is_no_hex_key(text: str) -> None:
    with pytest.raises(Undecipherable):
        cipher.key_of_hex(text)


def test_the_library_is_loaded_on_first_use() -> None:
    program = "import sys, wxsup.sandbox.app; sys.exit(any('cryptography' in name for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
