"""A program in a process of its own that answers requests.

Requests and answers are lines of JSON over its standard input and output.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from svit_det.errors import InputError


class Worker:
    """Starts the program; leaving the with-block ends it.

    An answer is {"done": ...} or {"problem": a sentence}. `send` and `receive` are separate, so
    that several workers can work at the same time.
    """

    def __init__(
        self, command: Sequence[str], *, name: str, folder: Path, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(environment),
            cwd=folder,
        )

    def send(self, **asked: Any) -> None:
        """Send a request. Raises InputError where the process has ended."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._ended() from error

    def receive(self) -> Any:
        """The worker's answer. Raises InputError for a problem, or where the process has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        answer = json.loads(line)
        if "problem" in answer:
            raise InputError(f"{self.name}: {answer['problem']}")
        return answer["done"]

    def ask(self, **asked: Any) -> Any:
        """Send, then receive."""
        self.send(**asked)
        return self.receive()

    def close(self) -> None:
        """Kill the process, and wait for its end."""
        self._process.kill()
        self._process.communicate()

    def _ended(self) -> InputError:
        return InputError(f"{self.name}: its process has ended; what it said stands above.")

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
