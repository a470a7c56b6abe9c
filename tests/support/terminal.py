"""Run the real program in a pseudo-terminal, and read the screen that a person would see."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence

import pyte

from .command_line import PROGRAM
from .real_time import PATIENCE


class Terminal:
    """A program that runs in a terminal of a given width. Use it as a context manager."""

    def __init__(
        self,
        *arguments: str,
        columns: int = 80,
        lines: int = 400,
        env: Mapping[str, str],
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self.raw = b""
        self.process = subprocess.Popen(
            [*program, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            # The size comes from the terminal, as it does for a person.
            env={**{name: each for name, each in os.environ.items() if name != "COLUMNS"}, "TERM": "xterm", **env},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *args: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)

    def hang_up(self) -> None:
        """Close the terminal, as a connection that drops does."""
        os.close(self._master)
        self._master = os.open(os.devnull, os.O_RDONLY)

    def type(self, text: str) -> None:
        """Type a text; ``\\x03`` is Ctrl-C."""
        os.write(self._master, text.encode())

    def read_until(self, text: str, timeout: float = PATIENCE) -> str:
        """Read until the screen shows a text, and return the screen."""
        deadline = time.monotonic() + timeout
        while text not in self.screen:
            assert time.monotonic() < deadline, f"{text!r} did not appear:\n{self.screen}"
            if not self._read(deadline - time.monotonic()):
                break
        assert text in self.screen, self.screen
        return self.screen

    def end(self, timeout: float = PATIENCE) -> str:
        """Read until the program ends, and return the screen."""
        deadline = time.monotonic() + timeout
        while self._read(deadline - time.monotonic()):
            assert time.monotonic() < deadline, self.screen
        self.process.wait(timeout)
        return self.screen

    @property
    def screen(self) -> str:
        """The text on the screen, without spaces at the ends of lines."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip()

    def _read(self, timeout: float) -> bool:
        if not select.select([self._master], [], [], max(0.0, timeout))[0]:
            return True
        try:
            data = os.read(self._master, 65_536)
        except OSError:  # Linux says so when the program is gone
            return False
        self.raw += data
        self._stream.feed(data)
        return bool(data)
