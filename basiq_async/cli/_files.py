"""Files with secrets: read as lines, and written so that nobody else reads them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from ..models import Secret

SECRET_VARIABLE = "BASIQ_WEBHOOK_SECRET"  # noqa: S105  # the name of a variable, no secret


class SecretFile:
    """A new file that is open already, so that a secret that exists once only has a place to go."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self.written = False

    def write(self, secret: Secret) -> None:
        """Write the secret, durably."""
        try:
            os.write(self._descriptor, secret.reveal().encode())
            os.fsync(self._descriptor)
        except OSError as exc:
            raise ConfigurationError(
                f"the secret could not be written to {str(self._path)!r}: {exc.strerror}; "
                "'basiq-async webhooks secret' brings it back"
            ) from None
        self.written = True


@contextmanager
def new_secret_file(path: Path | None) -> Iterator[SecretFile | None]:
    """Create the file, for its owner alone. One that nothing was written to is removed again.

    Raises ``ConfigurationError`` where it exists already, as a link too, or cannot be made.
    """
    if path is None:
        yield None
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileExistsError:
        raise ConfigurationError(f"{str(path)!r} exists already; name a new file for the secret") from None
    except OSError as exc:
        raise ConfigurationError(f"{str(path)!r} cannot be made for the secret: {exc.strerror}") from None
    except ValueError:
        raise ConfigurationError("the name of the file for the secret holds a null character") from None
    file = SecretFile(path, descriptor)
    try:
        yield file
    finally:
        os.close(descriptor)
        if not file.written:
            with contextlib.suppress(OSError):
                path.unlink()


def read_secrets(file: Path | None, given: list[str] | None = None) -> list[str]:
    """Return the signing secrets: those given, or one a line of the file, or the environment's.

    Raises ``ConfigurationError`` where there is none, or the file cannot be read.
    """
    if given:
        return given
    try:
        text = os.environ.get(SECRET_VARIABLE, "") if file is None else file.read_text(encoding="utf-8")
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not text"
        raise ConfigurationError(f"--secret-file {str(file)!r} cannot be read: {reason}") from None
    secrets = text.split()
    if not secrets:
        raise ConfigurationError(
            f"the endpoint's signing secret is needed, in {SECRET_VARIABLE} or in a --secret-file; "
            "'basiq-async webhooks secret' brings it back"
        )
    return secrets
