"""A client of the shared service, and photos that it scores."""

from pathlib import Path

import httpx
import pytest


@pytest.fixture(scope="module")
def client(service):
    with httpx.Client(base_url=service, timeout=30) as opened:
        yield opened


@pytest.fixture(scope="module")
def photos(drawn, client) -> list[bytes]:
    "Drawn lesions that the model takes for lesions."
    files = sorted((Path(drawn) / "jpeg" / "test").glob("*.jpg"))
    answers = [(f, client.post("/v1/predict", files={"image": f.read_bytes()})) for f in files]
    taken = [f.read_bytes() for f, answer in answers if answer.json()["status"] == "ok"]
    assert len(taken) >= 9
    return taken
