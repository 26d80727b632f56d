"""A visit to the page of `melanoma serve`, in Chromium."""

import base64
import json
import os
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image
from playwright import sync_api

from support.images import encoded

expect = sync_api.expect

CHROMIUM = shutil.which("chromium")
in_browser = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]

QUIET = (  # nothing that a browser does by itself
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PHONE = {"width": 360, "height": 740}
DESKTOP = {"width": 1280, "height": 860}
NO_MORE = "Research use: not a diagnosis, and not a medical device."
DROP = """([files, kind]) => {
    const transfer = new DataTransfer();
    for (const [name, type, data] of files) {
        const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
        transfer.items.add(new File([bytes], name, { type }));
    }
    const event = new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true });
    document.querySelector('main').dispatchEvent(event);
}"""
COPY = """async (data) => {
    const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
    const item = new ClipboardItem({ 'image/png': new Blob([bytes], { type: 'image/png' }) });
    await navigator.clipboard.write([item]);
}"""


GREY = encoded(Image.new("RGB", (300, 200), (128, 128, 128)))


# what is loaded lazily and out of sight may never be complete
SETTLED = """() => Promise.race([
    Promise.all([...document.images].map((image) =>
        image.complete || new Promise((done) => { image.onload = image.onerror = done; }))),
    new Promise((done) => setTimeout(done, 1000))])"""


class Visit:
    "One person's visit to the page, and everything that a browser complains of meanwhile."

    def __init__(self, browser, base: str, **options):
        self.base = base
        self.context = browser.new_context(**({"viewport": DESKTOP} | options))
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.on("pageerror", lambda e: self.complaints.append(f"error: {e}"))
        self.page.on("console", self._heard)

    def _heard(self, message) -> None:
        # Chromium logs every answer over 399 itself; those are the service's, not the page's
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load"):
            self.complaints.append(f"{message.type}: {message.text}")

    def open(self):
        self.page.goto(f"{self.base}/")
        self.page.wait_for_selector("#model-facts dl")
        return self.page

    def drop(self, *files: tuple[str, bytes], kind: str = "drop") -> None:
        "A drag event of files over the page."
        packed = [(n, "image/jpeg", base64.b64encode(d).decode()) for n, d in files]
        self.page.evaluate(DROP, [packed, kind])

    def answer(self, pattern: str, change) -> None:
        "Let the service answer, and `change` the document before the page gets it."

        def handle(route):
            response = route.fetch()
            document = response.json()
            if response.ok:
                change(document)
            route.fulfill(response=response, body=json.dumps(document))

        self.page.route(pattern, handle)

    def strangers(self) -> list[str]:
        "Requests that left the service's origin."
        own = urlsplit(self.base).netloc
        return [
            url
            for url in self.requests
            if urlsplit(url).scheme not in ("blob", "data") and urlsplit(url).netloc != own
        ]


def problem(route, status: int, title: str, detail: str, **headers: str) -> None:
    body = {"type": "urn:melanoma:problem:x", "title": title, "status": status, "detail": detail}
    route.fulfill(
        status=status,
        headers={"content-type": "application/problem+json"} | headers,
        body=json.dumps(body),
    )


def probability(page) -> float:
    return float(page.locator("#probability").get_attribute("value"))


def moved(p: float, old: float, new: float) -> float:
    "Bayes' rule, written another way than the page does."
    odds = p / (1 - p) * (new / (1 - new)) / (old / (1 - old))
    return odds / (1 + odds)


def result_title(page):
    return page.locator("#result-title")


def photographs(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("MELANOMA_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
