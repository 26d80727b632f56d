"""The container's health check: is the service ready, at the port that it was started with?"""

import sys
import urllib.request
from pathlib import Path


def port_of(words: list[str]) -> str:
    "The port that a command line names, else the default."
    port = "8000"
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name == "--port":
            port = value if equals else following
    return port


if __name__ == "__main__":
    asked = Path(sys.argv[1] if sys.argv[1:] else "/proc/1/cmdline").read_bytes()
    url = f"http://127.0.0.1:{port_of(asked.decode().split(chr(0)))}/readyz"
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=4)
