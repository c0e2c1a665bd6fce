"""How a PVE method ends without success: with a status, a message, and for a bad parameter what is wrong with which."""

from typing import NoReturn


class Failure(Exception):
    """An answer that is no success, as pveproxy sends it; a task that raises it fails with its message."""

    def __init__(self, status: int, message: str, errors: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.errors = errors or {}

    def __str__(self) -> str:
        """As Perl prints a PVE::Exception in a task's log and in pvesh: a plain `die` has no status."""
        listed = "".join(f"{name}: {wrong.rstrip()}\n" for name, wrong in sorted(self.errors.items()))
        return f"{'' if self.status == 500 else f'{self.status} '}{self.message}{listed}"


def die(text: str) -> NoReturn:
    """Perl's `die "text\\n"`: a 500, whatever is meant."""
    raise Failure(500, f"{text}\n")


def forbid(what: str = "") -> NoReturn:
    """raise_perm_exc: 403."""
    raise Failure(403, f"Permission check failed{f' ({what})' if what else ''}\n")


def refuse(errors: dict[str, str]) -> NoReturn:
    """raise_param_exc: 400 that names each bad parameter."""
    raise Failure(400, "Parameter verification failed.\n", errors)
