"""What a stream can show, on a real pseudo-terminal."""

import fcntl
import io
import os
import struct
import termios

import pytest

from vtabjax.runtime import bars, terminal


@pytest.fixture
def tty(monkeypatch):
    """A terminal of 93 columns."""
    for name in ("COLUMNS", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 93, 0, 0))
    with open(theirs, "w", encoding="utf-8") as stream:
        yield stream
    os.close(ours)


def test_a_terminal(tty, monkeypatch):
    assert terminal.is_live(tty) and terminal.is_styled(tty) and terminal.width(tty) == 93
    monkeypatch.setenv("COLUMNS", "70")
    assert terminal.width(tty) == 70
    monkeypatch.setenv("COLUMNS", "many")
    assert terminal.width(tty) == 93
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal.is_live(tty) and not terminal.is_styled(tty)


def test_a_sentence_is_folded_between_words(tty, monkeypatch):
    sentence = "embedded/sprites_resnet is place 3 of 65 " * 4
    assert terminal.folded(sentence, io.StringIO()) == sentence
    lines = terminal.folded(sentence, tty).splitlines()
    assert len(lines) == 2 and max(map(len, lines)) <= 93 and " ".join(lines) == sentence.strip()


@pytest.mark.parametrize("kind", ["dumb", "unknown", ""])
def test_a_terminal_that_is_dumb(tty, monkeypatch, kind):
    monkeypatch.setenv("TERM", kind)
    assert not terminal.is_live(tty) and not terminal.is_styled(tty) and terminal.width(tty) == 93


def test_a_file(tty, monkeypatch):
    assert not terminal.is_live(io.StringIO()) and terminal.width(io.StringIO()) is None
    monkeypatch.setenv("COLUMNS", "70")
    assert terminal.width(io.StringIO()) == 70


def test_a_bar_on_a_terminal_vanishes(tty, monkeypatch):
    monkeypatch.setattr("sys.stderr", tty)
    with bars.bar(desc="read", total=2, delay=0) as bar:
        assert not bar.disable and not bar.leave
    with bars.bar(desc="read", total=2, delay=0, disable=True) as bar:
        assert bar.disable


def test_bars_go_to_the_board_that_is_up():
    class Board:
        def __init__(self):
            self.told = []

        def add(self, bar):
            self.told.append(("add", bar.desc))

        def remove(self, bar):
            self.told.append(("remove", bar.n))

        def moved(self, bar):
            self.told.append(("moved", bar.n))

    board = Board()
    with bars.on_board(board):
        assert bars.are_on_board()
        bar = bars.bar(desc="read", total=3, delay=0)
        bar.update(2)
        bar.refresh()
        bar.write("a line")
        bar.close()
        bar.close()  # as `with` and a generator's end do
    assert not bars.are_on_board()
    assert board.told[0] == ("add", "read") and ("moved", 2) in board.told and board.told[-1] == ("remove", 2)
