"""Requests to the service, and its problem documents."""

import httpx

KEY = "a-key-of-the-clinic-2020"
RUN = ("--run", "tiny")


def lesion(data: bytes, name: str = "a.jpg") -> dict:
    return {"image": (name, data, "image/jpeg")}


def lesions(many: list[bytes]) -> list[tuple]:
    return [("images", (f"{i}.jpg", data, "image/jpeg")) for i, data in enumerate(many)]


def problem(answer: httpx.Response, status: int, kind: str) -> dict:
    "The problem document of an answer that should be one."
    assert answer.status_code == status, answer.text[:300]
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == status
    assert document["type"] == f"urn:melanoma:problem:{kind}"
    assert document["title"]
    assert document["detail"]
    assert document["instance"] == answer.headers["x-request-id"]
    return document
