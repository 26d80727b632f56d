"""What is looked at again and again: an error's message, a folder's bytes, something that comes."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest


def refusal(kind: type[Exception], call, *arguments, **named) -> str:
    "The message of the error that a call must raise."
    with pytest.raises(kind) as caught:
        call(*arguments, **named)
    return str(caught.value)


def contents(folder: Path) -> dict[str, bytes]:
    "Bytes of what a store is made of; nothing else may lie in it."
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    assert not [name for name in files if "unfinished" in name]
    return {name: path.read_bytes() for name, path in files.items()}


def wait_until(holds: Callable[[], bool], seconds: float = 120) -> None:
    "Wait until something holds, however slow the machine is."
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not after {seconds} s"
        time.sleep(0.05)


def double(i: int) -> int:
    return 2 * i
