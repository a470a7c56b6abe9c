"""Files with secrets: read as lines, and written so that nobody else reads them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .._storage.private_files import open_new
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
    try:
        descriptor = open_new(path)
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
    """Return the signing secrets: those given and one a line of the file, else the environment's.

    ``given`` may be what the environment has, as typer passes it: a file that is named comes before that. Raises
    ``ConfigurationError`` where there is none, or the file cannot be read.
    """
    if given and file is None:
        return given
    found = _read_text(file)
    if isinstance(found, ConfigurationError):
        del given  # this frame may be in a traceback
        raise found
    if file is not None and not found.strip():
        raise ConfigurationError(f"--secret-file {str(file)!r} is empty")
    named = given if given and given != os.environ.get(SECRET_VARIABLE, "").split() else []
    secrets = [*named, *found.split()]
    if not secrets:
        raise ConfigurationError(
            f"the endpoint's signing secret is needed, in {SECRET_VARIABLE} or in a --secret-file; "
            "'basiq-async webhooks secret' brings it back"
        )
    return secrets


def _read_text(file: Path | None) -> str | ConfigurationError:
    try:
        return os.environ.get(SECRET_VARIABLE, "") if file is None else file.read_text(encoding="utf-8")
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not text"
        return ConfigurationError(f"--secret-file {str(file)!r} cannot be read: {reason}")
