from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.terminal import scanned
from wxsup import qrcode
from wxsup.client.drivers.ilink.login import draw

CONTENT = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=40, max_size=200)


@settings(max_examples=60)
@given(CONTENT)
def test_what_is_drawn_can_be_scanned(content: str) -> None:
    assert scanned("\n".join(qrcode.drawn(qrcode.modules(draw(content))))) == content


def test_inverted_it_is_the_same_code_in_the_other_colours() -> None:
    code = qrcode.modules(draw("http://wx.example/code"))
    for plain, inverted in zip(qrcode.drawn(code), qrcode.drawn(code, invert=True), strict=True):
        assert plain.translate(str.maketrans("█▀▄ ", " ▄▀█")) == inverted


@pytest.mark.parametrize(
    "picture", [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0JPEG", b"GIF89a", draw("http://wx.example/code")[:-60]]
)
def test_another_picture_is_refused(picture: bytes) -> None:
    with pytest.raises(ValueError):
        qrcode.modules(picture)


@settings(max_examples=300)
@given(st.data())
def test_whatever_is_broken_is_refused_or_drawn_and_no_defect(data: st.DataObject) -> None:
    picture = bytearray(draw("http://wx.example/code"))
    for _ in range(data.draw(st.integers(1, 4))):
        picture[data.draw(st.integers(0, len(picture) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = qrcode.drawn(qrcode.modules(bytes(picture)))
    except ValueError:
        return
    assert len({len(line) for line in found}) == 1
