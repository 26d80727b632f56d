"""The browser, and lesions to show it."""

from importlib.util import find_spec

import pytest

NEEDED = ("playwright", "axe_playwright_python")
collect_ignore_glob = [] if all(map(find_spec, NEEDED)) else ["test_*.py"]


@pytest.fixture(scope="module")
def playwright():
    from playwright import sync_api

    with sync_api.sync_playwright() as running:
        yield running


@pytest.fixture(scope="module")
def browser(playwright):
    from support.page import CHROMIUM, QUIET

    chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
    yield chromium
    chromium.close()


@pytest.fixture(scope="module")
def lesions(playwright, service, drawn) -> list[tuple[str, bytes]]:
    "Six drawn lesions that the service scores: name and bytes."
    client = playwright.request.new_context()
    found = []
    for path in sorted((drawn / "jpeg" / "test").glob("*.jpg")):
        data = path.read_bytes()
        image = {"name": path.name, "mimeType": "image/jpeg", "buffer": data}
        answer = client.post(f"{service}/v1/predict", multipart={"image": image})
        if answer.ok and answer.json()["status"] == "ok":
            found.append((path.name, data))
        if len(found) == 6:
            break
    client.dispose()
    assert len(found) == 6, "the service scores too few of the drawn lesions"
    return found


@pytest.fixture
def visit(browser, service):
    from support.page import Visit

    visit = Visit(browser, service.rstrip("/"))
    yield visit
    visit.context.close()
    assert not visit.complaints
    assert not visit.strangers()
