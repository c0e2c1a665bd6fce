"""What every command shares: the chosen profile, the Api, notes on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from pvex.api import Api


class Context:
    """What was said before the command's name."""

    def __init__(self, profile: str | None, output: str) -> None:
        self.profile = profile
        self.output = output
        self._api: Api | None = None

    @property
    def api(self) -> Api:
        """The gateway; the profile is read, and requests imported, when it is first needed."""
        if self._api is None:
            from pvex.profile import choose_profile

            profile = choose_profile(self.profile)
            from pvex.api import Api

            self._api = Api(profile)
        return self._api

    def close(self) -> None:
        """Closes the connection, if there is one."""
        if self._api is not None:
            self._api.close()


def each(context: Context, names: Sequence[str], act: Callable[[str], Any]) -> None:
    """Does it for each; one that is refused is told by its name and breaks nothing.

    With -o all answers are shown at the end: a list, unless one was named.
    """
    from pvex.errors import Problem, UsageError
    from pvex.show import dump

    answers, code = [], 0
    for name in names:
        try:
            answers.append(act(name))
        except (Problem, UsageError) as error:
            if len(names) == 1 or getattr(error, "code", "") == "unauthenticated":
                raise
            note(f"{name}: {error}")
            code = code or error.exit_code
    if context.output != "table":
        dump(context.output, answers if len(names) > 1 else answers[0])
    if code:
        sys.exit(code)


def drop(stream: TextIO) -> None:
    """What is buffered for a stream that cannot be written has nowhere to go, at our end neither."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def note(text: str) -> None:
    """A line on stderr, in our name."""
    print(f"pvex: {text}", file=sys.stderr, flush=True)
