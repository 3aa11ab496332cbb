"""What is said of a setting, on whichever terminal."""

import pytest

from lightning_maml.errors import SettingError, one_line, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31m\x7f", r"\x9b31m\x7f"),
        ("a\nb\rc\td", r"a\nb\rc\td"),
        ("photo\u202egnp.exe\u2066\u200f", r"photo\u202egnp.exe\u2066\u200f"),
        ("\udcff\ud83d", r"\udcff\ud83d"),
        ("Jürgen 猫 🐱 [red] $x$ \\", "Jürgen 猫 🐱 [red] $x$ \\"),
    ],
)
def test_what_steers_a_terminal_or_cannot_be_written_is_escaped_once(text: str, shown: str) -> None:
    assert printable(text) == shown == printable(shown)
    assert printable(text).encode().decode().isprintable()


def test_an_error_is_printable_wherever_it_is_shown() -> None:
    error = SettingError("support", "\x1b[2J\udcff", "first\nsecond")
    assert str(error) == "support=\\x1b[2J\\udcff: first\nsecond"
    assert one_line(error) == "support=\\x1b[2J\\udcff: first second"
    assert one_line(ValueError("a\x1b\n b")) == "a\\x1b b"
