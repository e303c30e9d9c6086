"""How media are encrypted: AES-128-ECB with PKCS#7, and the texts that a key travels as (ilink-protocol.md 9.3)."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.modes import ECB

BLOCK = 16
HEX_KEY = re.compile("[0-9a-fA-F]{32}")


class Undecipherable(Exception):
    """This was not encrypted with this key, or the key is none."""


def size_of(plain_size: int) -> int:
    """Return how long the cipher of `plain_size` bytes is: there is always padding (RFC 5652 6.3)."""
    return (plain_size // BLOCK + 1) * BLOCK


def encrypt(plain: bytes, key: bytes) -> bytes:
    """Return the cipher of `plain`."""
    from cryptography.hazmat.primitives.padding import PKCS7

    padder, encryptor = PKCS7(BLOCK * 8).padder(), _aes(key).encryptor()
    return encryptor.update(padder.update(plain) + padder.finalize()) + encryptor.finalize()


def decrypt(cipher: bytes, key: bytes) -> bytes:
    """Return what `cipher` was made of; raises Undecipherable when it shows that the key is another."""
    from cryptography.hazmat.primitives.padding import PKCS7

    unpadder, decryptor = PKCS7(BLOCK * 8).unpadder(), _aes(key).decryptor()
    try:
        return unpadder.update(decryptor.update(cipher) + decryptor.finalize()) + unpadder.finalize()
    except ValueError as ex:
        raise Undecipherable("it cannot be decrypted with this key") from ex


def key_of_hex(text: str) -> bytes:
    """Return the key that 32 hex digits are."""
    if not HEX_KEY.fullmatch(text):
        raise Undecipherable("the key is not 32 hex digits")
    return bytes.fromhex(text)


def base64_of_raw(key: bytes) -> str:
    """Return a key as an image from a phone carries it."""
    return base64.b64encode(key).decode()


def base64_of_hex(key: bytes) -> str:
    """Return a key as bots write it, and phones in all but images."""
    return base64.b64encode(key.hex().encode()).decode()


def key_of_base64_of_hex(text: str) -> bytes:
    """Return the key that a bot wrote."""
    try:
        return key_of_hex(base64.b64decode(text, validate=True).decode("ascii"))
    except (ValueError, Undecipherable) as ex:
        raise Undecipherable("aes_key is not the base64 of 32 hex digits") from ex


def _aes(key: bytes) -> Cipher[ECB]:
    """Begin with a key; the library is loaded only now, as most sandboxes never see media."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    return Cipher(algorithms.AES128(key), modes.ECB())
