"""The page of `melanoma serve`, used in Chromium as people use it: by mouse, by keyboard, by a
screen reader's rules, on a phone, in the dark, on paper, and with a server that goes away."""

import base64
import io
import json
import os
import re
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
expect = sync_api.expect

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

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


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


GREY = png(Image.new("RGB", (300, 200), (128, 128, 128)))


# what is loaded lazily and out of sight may never be complete
SETTLED = """() => Promise.race([
    Promise.all([...document.images].map((image) =>
        image.complete || new Promise((done) => { image.onload = image.onerror = done; }))),
    new Promise((done) => setTimeout(done, 1000))])"""


@pytest.fixture(scope="module")
def playwright():
    with sync_api.sync_playwright() as running:
        yield running


@pytest.fixture(scope="module")
def browser(playwright):
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


@pytest.fixture
def visit(browser, service):
    visit = Visit(browser, service.rstrip("/"))
    yield visit
    visit.context.close()
    assert not visit.complaints
    assert not visit.strangers()


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


# ways in


def test_one_image_dropped_anywhere_gives_a_result(visit, lesions):
    page = visit.open()
    visit.drop(lesions[0], kind="dragenter")
    expect(page.locator("#drop")).to_be_visible()
    with page.expect_response("**/v1/predict*") as sent:
        visit.drop(lesions[0])
    expect(page.locator("#drop")).to_be_hidden()
    expect(result_title(page)).to_have_text("Result")
    expect(result_title(page)).to_be_focused()
    answer = sent.value.json()
    assert probability(page) == pytest.approx(answer["probability"], rel=1e-6)
    assert answer["prevalence"] == 0.02
    assert page.locator(".strip span").count() == len(answer["folds"])
    expect(page.locator(".strip")).to_have_attribute("aria-label", re.compile("raw score"))
    expect(page.locator(".caution")).to_contain_text(NO_MORE)
    expect(page.locator(".name")).to_have_text(lesions[0][0])
    photo = page.locator(".stage.over .photo")
    assert photo.get_attribute("src").startswith("blob:")
    assert photo.evaluate("e => e.naturalWidth") == Image.open(io.BytesIO(lesions[0][1])).width


def test_the_picture_of_a_cleared_lesion_is_let_go(visit, lesions):
    page = visit.open()
    visit.drop(lesions[0])
    page.wait_for_selector("#probability")
    url = page.locator(".stage.over .photo").get_attribute("src")
    loads = """url => new Promise(done => {
        const picture = new Image();
        picture.onload = () => done(true);
        picture.onerror = () => done(false);
        picture.src = url;
    })"""
    assert page.evaluate(loads, url)
    page.get_by_role("button", name="Start again").click()
    expect(page.locator("#intake")).to_be_visible()
    expect(page.locator("#choose-one")).to_be_focused()
    assert not page.evaluate(loads, url)


def test_an_image_is_pasted_with_the_keyboard(visit, lesions):
    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = visit.open()
    picture = png(Image.open(io.BytesIO(lesions[1][1])))
    page.evaluate(COPY, base64.b64encode(picture).decode())
    page.keyboard.press("Control+V")
    page.wait_for_selector("#probability")
    expect(page.locator(".name")).to_have_text("Pasted image")


def test_a_patients_set_is_chosen_sorted_and_opened(visit, lesions, drawn):
    page = visit.open()
    with page.expect_file_chooser() as chooser:
        page.locator("#choose-many").click()
    assert chooser.value.is_multiple()
    with page.expect_response("**/v1/patient*") as sent:
        chooser.value.set_files([drawn / "jpeg" / "test" / name for name, _ in lesions])
    answer = sent.value.json()
    expect(page.locator(".card.ok")).to_have_count(len(lesions))
    by_rank = [x["name"] for x in sorted(answer["lesions"], key=lambda x: x["rank"])]
    assert page.locator(".card-name").all_text_contents() == by_rank
    shown = [float(v.get_attribute("value")) for v in page.locator(".card-number").all()]
    assert shown == sorted(shown, reverse=True)
    expect(page.locator("#context")).to_have_text(answer["context"])
    first = page.locator(".card-open").first
    first.click()
    expect(result_title(page)).to_have_text(f"Lesion 1 of {len(lesions)}, highest first")
    assert probability(page) == pytest.approx(shown[0])
    expect(page.locator(".name")).to_have_text(by_rank[0])
    page.get_by_role("button", name="Next").click()
    expect(page.locator(".name")).to_have_text(by_rank[1])
    page.go_back()
    expect(page.locator(".card-open").nth(1)).to_be_focused()
    with page.expect_request("**/v1/patient*"):
        first.click()
        page.get_by_role("button", name="Remove from the set").click()
    expect(page.locator(".card.ok")).to_have_count(len(lesions) - 1)
    assert by_rank[0] not in page.locator(".card-name").all_text_contents()


def test_a_second_image_asks_whether_it_is_the_same_patient(visit, lesions):
    page = visit.open()
    visit.drop(lesions[0])
    page.wait_for_selector("#probability")
    visit.drop(lesions[1])
    dialog = page.get_by_role("dialog", name="Is this the same patient?")
    dialog.get_by_role("button", name="Leave everything").click()
    expect(page.locator(".name")).to_have_text(lesions[0][0])
    visit.drop(lesions[1])
    dialog.get_by_role("button", name="No: start again").click()
    expect(page.locator(".name")).to_have_text(lesions[1][0])
    page.wait_for_selector("#probability")
    visit.drop(lesions[2])
    dialog.get_by_role("button", name="Same patient").click()
    expect(page.locator(".card.ok")).to_have_count(2)
    visit.drop(lesions[3])  # a set takes more without a question
    expect(page.locator(".card.ok")).to_have_count(3)


def test_too_many_images_are_not_sent(visit, lesions):
    visit.answer("**/v1/model", lambda m: m["limits"].update(max_images=3))
    page = visit.open()
    visit.drop(*lesions[:4])
    expect(page.locator("#job-title")).to_have_text("Too many images")
    expect(page.locator("#job-text")).to_contain_text("at most 3")
    expect(page.locator("#intake")).to_be_visible()
    assert not [u for u in visit.requests if "/v1/patient" in u]


def test_the_name_of_a_file_is_text_and_nothing_else(visit, lesions):
    page = visit.open()
    name = "<img src=x onerror=document.title='owned'>.png"
    visit.drop((name, lesions[0][1]), (name, lesions[1][1]))
    expect(page.locator(".card-name").first).to_have_text(name)
    page.locator(".card-open").first.click()
    expect(page.locator(".name")).to_have_text(name)
    assert page.locator("img[onerror]").count() == 0
    assert "owned" not in page.title()


# what cannot be scored


def test_a_refused_image_gets_a_reason_and_no_number(visit):
    page = visit.open()
    with page.expect_response("**/v1/predict*") as sent:
        visit.drop(("grey.png", GREY))
    answer = sent.value.json()
    assert answer["status"] == "refused" and answer["reason"]
    expect(result_title(page)).to_have_text("No result")
    told = page.locator(".no-number")
    expect(told).to_contain_text(answer["reason"].rstrip(".")[1:])
    expect(told).to_contain_text("What to do")
    expect(told).to_contain_text("says nothing about the lesion, neither good nor bad")
    expect(page.locator("#result")).to_contain_text(NO_MORE)
    assert page.locator("#probability, .dots, #prevalence, .strip").count() == 0
    assert "%" not in page.locator("#result").inner_text()


def test_a_file_that_is_no_image_is_named_and_another_can_be_chosen(visit, lesions):
    page = visit.open()
    with page.expect_response("**/v1/predict*") as sent:
        visit.drop(("notes.jpg", b"no image at all, only words"))
    assert sent.value.status in (415, 422)
    told = page.locator(".no-number")
    expect(told).to_contain_text("This file could not be read")
    expect(told).to_contain_text(sent.value.json()["detail"].rstrip(".")[1:])
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose another image").click()
    chooser.value.set_files([{"name": "a.jpg", "mimeType": "image/jpeg", "buffer": lesions[0][1]}])
    page.wait_for_selector("#probability")


def test_a_set_goes_on_without_the_files_that_cannot_be_read(visit, lesions):
    page = visit.open()
    broken = ("broken.jpg", b"\xff\xd8\xff\xe0 this is no JPEG")
    with page.expect_response(lambda r: "/v1/patient" in r.url and r.ok) as sent:
        visit.drop(lesions[0], broken, lesions[1], ("grey.png", GREY), lesions[2])
    names = [x["name"] for x in sent.value.json()["lesions"]]
    assert names == [lesions[0][0], lesions[1][0], "grey.png", lesions[2][0]]
    expect(page.locator(".card")).to_have_count(5)
    shown = page.locator(".card-name").all_text_contents()
    assert shown[3:] == ["grey.png", "broken.jpg"]  # the last ones, whatever the order they came in
    unreadable = page.locator(".card.unreadable")
    expect(unreadable).to_contain_text("Could not be read")
    assert len(unreadable.locator(".card-reason").inner_text()) > 10
    expect(page.locator(".card.refused")).to_contain_text("Not scored")
    assert page.locator(".card.refused data, .card.unreadable data").count() == 0
    unreadable.locator("button").click()
    expect(page.locator(".no-number")).to_contain_text("neither good nor bad")


def test_a_lesion_that_stands_out_is_marked_in_words(visit, lesions):
    def third_is_odd(answer):
        for i, lesion in enumerate(answer["lesions"]):
            lesion["ugly_duckling"] = i == 2
        answer["lesions"][2].update(outlier=4.2, distance=1.1)

    visit.answer("**/v1/patient*", third_is_odd)
    page = visit.open()
    visit.drop(*lesions[:4])
    odd = page.locator(".card.odd")
    expect(odd).to_have_count(1)
    expect(odd).to_contain_text("Stands out from this patient’s other lesions")
    expect(odd.locator(".card-name")).to_have_text(lesions[2][0])
    odd.locator("button").click()
    expect(page.locator(".standout")).to_be_visible()
    expect(page.locator(".words")).to_contain_text("4.2 robust standard deviations above")


# what the numbers say


def test_the_slider_moves_the_numbers_by_bayes_rule(visit, lesions):
    page = visit.open()
    with page.expect_response("**/v1/predict*") as sent:
        visit.drop(lesions[0])
    answer = sent.value.json()
    slider = page.get_by_role("slider", name="How common are melanomas")
    requests = len(visit.requests)
    seen = {}
    for keys in ([], ["Home"], ["ArrowRight"], ["End"], ["Home"] + ["ArrowRight"] * 26):
        slider.focus()
        for key in keys:
            slider.press(key)
        words = slider.get_attribute("aria-valuetext")
        n, of = re.match(r"([\d,.]+) of ([\d,]+) lesions, ", words).groups()
        prevalence = float(n.replace(",", "")) / float(of.replace(",", ""))
        expected = moved(answer["study_probability"], answer["study_prevalence"], prevalence)
        assert probability(page) == pytest.approx(expected, rel=1e-6)
        seen[prevalence] = expected
        expect(page.locator("#prevalence-now")).to_contain_text(f"{n} of {of} lesions")
        expect(page.locator(".where")).to_contain_text(f"Where {n} of {of} lesions are melanomas")
        number = page.locator("#probability").inner_text()
        if 0.001 <= expected <= 0.99:
            assert abs(float(number.split("\u00a0")[0]) - 100 * expected) <= (
                0.0500001 if expected < 0.0995 else 0.5000001
            )
    assert list(seen) == pytest.approx([0.02, 0.005, 0.0055, 0.5, 0.1])
    assert len(set(seen.values())) == 5
    assert len(visit.requests) == requests  # no new request for another prevalence


def test_a_probability_is_said_as_a_natural_frequency(visit, lesions):
    study = [0.9]
    visit.answer(
        "**/v1/predict*", lambda a: a.update(study_probability=study[0], study_prevalence=0.02)
    )
    page = visit.open()
    for study[0], sentence, dots in (
        (0.9999, "Of 100 lesions scored like this, more than 99 were melanomas in", 100),
        (0.0702, "Of 100 lesions scored like this, about 7 were melanomas in", 7),
        (0.0101, "Of 100 lesions scored like this, about 1 was a melanoma in", 1),
        (0.0042, "Of 1,000 lesions scored like this, about 4 were melanomas in", 4),
        (0.0004, "Of 1,000 lesions scored like this, fewer than 1 was a melanoma in", 1),
    ):
        visit.drop(lesions[0])
        expect(page.locator(".study")).to_contain_text(sentence)
        # both prevalences are 2 %: nothing moves
        assert probability(page) == pytest.approx(study[0])
        whole, part = page.locator(".dots .on").count(), page.locator(".dots .part").count()
        assert (whole or part) == dots and bool(part) == (study[0] < 0.001)
        low = "Low is never “no”" in page.locator(".plain-words").inner_text()
        assert low == (study[0] < 0.0135)
        page.get_by_role("button", name="Start again").click()


def test_without_calibration_the_raw_score_is_called_so(visit, lesions):
    visit.answer("**/v1/model", lambda m: m.update(calibration=None))
    nothing = dict(probability=None, study_probability=None, study_prevalence=None, score=0.31)
    visit.answer("**/v1/predict*", lambda a: a.update(nothing))
    page = visit.open()
    with page.expect_request("**/v1/predict*") as sent:
        visit.drop(lesions[0])
    assert "prevalence" not in sent.value.url
    expect(page.locator(".headline")).to_contain_text("Raw score")
    expect(page.locator("#probability")).to_have_text("31 of 100")
    expect(page.locator(".headline")).to_contain_text("not a probability")
    assert page.locator("#prevalence, .dots").count() == 0
    assert "%" not in page.locator(".words").inner_text()


def test_the_heat_map_lies_over_the_image_and_can_be_switched_off(visit, lesions):
    pixel = base64.b64encode(png(Image.new("RGBA", (8, 8), (200, 60, 20, 90)))).decode()
    visit.answer("**/v1/predict*", lambda a: a.update(heatmap=pixel, heatmap_reason=None))
    page = visit.open()
    visit.drop(lesions[0])
    heat = page.locator(".stage.over .heat")
    expect(heat).to_be_visible()
    assert heat.bounding_box() == page.locator(".stage.over .photo").bounding_box()
    strength = page.get_by_role("slider", name="Strength")
    strength.press("End")
    assert heat.evaluate("e => getComputedStyle(e).opacity") == "1"
    strength.press("Home")
    assert heat.evaluate("e => getComputedStyle(e).opacity") == "0.1"
    page.get_by_role("switch", name="Heat map").click()
    expect(heat).to_be_hidden()
    expect(strength).to_be_disabled()
    expect(page.locator(".heat-words")).to_contain_text("raised the score")


def test_where_there_is_no_heat_map_the_page_says_why(visit, lesions):
    why = "this architecture has no single last feature map"
    visit.answer("**/v1/predict*", lambda a: a.update(heatmap=None, heatmap_reason=why))
    page = visit.open()
    visit.drop(lesions[0])
    expect(page.locator(".heat-words")).to_have_text(f"No heat map: {why}.")
    expect(page.get_by_role("switch")).to_have_count(0)


def test_the_page_tells_what_the_model_was_made_from(visit, playwright):
    client = playwright.request.new_context()
    model = client.get(f"{visit.base}/v1/model").json()
    client.dispose()
    page = visit.open()
    about = page.get_by_role("region", name="About the model")
    for sentence in ("made_for", "not_for", "skin_tones"):
        expect(about).to_contain_text(model[sentence].rstrip("."))
    expect(about).to_contain_text(f"{model['metrics']['auroc']:.3f}")
    low, high = model["metrics"]["auroc_low"], model["metrics"]["auroc_high"]
    expect(about).to_contain_text(f"95 % interval {low:.3f} to {high:.3f}")
    for source in model["training"]["sources"]:
        expect(about.get_by_role("row", name=source["name"]).first).to_contain_text(
            f"{source['n']:,}"
        )
    assert page.locator("#drawings").is_visible() == model["drawings"]


def test_a_model_of_drawings_says_so_and_a_real_one_does_not(visit, lesions):
    drawings = [True]
    visit.answer("**/v1/model", lambda m: m.update(drawings=drawings[0]))
    for drawings[0] in (True, False):
        page = visit.open()
        visit.drop(lesions[0])
        page.wait_for_selector("#probability")
        said = "says nothing about real skin" in page.locator("#result").inner_text()
        assert said == drawings[0] == page.locator("#drawings").is_visible()


# a server that is slow, busy, locked or gone


def test_a_server_that_goes_away_loses_nothing(visit, lesions):
    page = visit.open()
    for pattern in ("**/v1/predict*", "**/readyz"):
        page.route(pattern, lambda route: route.abort("connectionrefused"))
    visit.drop(lesions[0])
    expect(page.locator("#job-title")).to_have_text("The server does not answer")
    expect(page.locator("#job-title")).to_be_focused()
    expect(page.locator("#job-text")).to_contain_text("Your images are still here")
    expect(page.locator("#status")).to_contain_text("The server does not answer")
    expect(page.locator(".stage.over .photo")).to_be_visible()
    assert page.locator("#probability").count() == 0
    page.get_by_role("button", name="Try again").click()  # it is still away
    expect(page.locator("#job-retry")).to_be_visible()
    for pattern in ("**/v1/predict*", "**/readyz"):
        page.unroute(pattern)
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector("#probability")
    expect(page.locator("#job")).to_be_hidden()
    expect(page.locator(".name")).to_have_text(lesions[0][0])


def test_a_page_opened_without_its_server_can_try_again(visit):
    visit.page.route("**/readyz", lambda route: route.abort("connectionrefused"))
    page = visit.page
    page.goto(f"{visit.base}/")
    expect(page.locator("#offline")).to_be_visible()
    page.unroute("**/readyz")
    page.locator("#offline-retry").click()
    page.wait_for_selector("#model-facts dl")
    expect(page.locator("#offline")).to_be_hidden()


def test_a_busy_server_is_asked_again(visit, lesions):
    page = visit.open()
    asked = []

    def busy_twice(route):
        asked.append(route.request.url)
        if len(asked) < 3:
            problem(route, 503, "busy", "The queue is full.", **{"retry-after": "1"})
        else:
            route.continue_()

    page.route("**/v1/predict*", busy_twice)
    page.clock.install()
    visit.drop(lesions[0])
    for n in (1, 2):
        expect(page.locator("#job-text")).to_contain_text(f"Asked {n} of 4 times more")
        assert len(asked) == n  # not before Retry-After has passed
        page.clock.run_for(1100)
    page.wait_for_selector("#probability")
    assert len(asked) == 3


def test_a_server_that_stays_busy_is_not_asked_for_ever(visit, lesions):
    page = visit.open()
    asked = []

    def always_busy(route):
        asked.append(route.request.url)
        problem(route, 503, "busy", "The queue is full.", **{"retry-after": "1"})

    page.clock.install()
    page.route("**/v1/predict*", always_busy)
    visit.drop(lesions[0])
    for n in range(1, 5):
        expect(page.locator("#job-text")).to_contain_text(f"Asked {n} of 4 times more")
        page.clock.run_for(1500)
    expect(page.locator("#job-title")).to_have_text("The server is busy")
    expect(page.locator("#job-retry")).to_be_visible()
    assert len(asked) == 5


def test_a_model_that_is_still_being_trained_is_waited_for(visit, lesions):
    states = ["training the demo model: fold 1 of 2", "training the demo model: fold 2 of 2"]

    def not_yet(route):
        if states:
            problem(route, 503, "not ready", states.pop(0))
        else:
            route.continue_()

    visit.page.route("**/readyz", not_yet)
    page = visit.page
    page.clock.install()
    page.goto(f"{visit.base}/")
    expect(page.locator("#waking-text")).to_have_text("Training the demo model: fold 1 of 2.")
    visit.drop(lesions[0])
    expect(page.locator(".stage.over .photo")).to_be_visible()  # a preview at once
    page.clock.run_for(2100)
    expect(page.locator("#waking-text")).to_have_text("Training the demo model: fold 2 of 2.")
    assert not [u for u in visit.requests if "/v1/predict" in u]
    page.clock.run_for(2100)
    page.wait_for_selector("#probability")
    expect(page.locator("#waking")).to_be_hidden()


def test_waiting_can_be_cancelled_and_taken_up_again(visit, lesions):
    page = visit.open()
    page.route("**/v1/predict*", lambda route: None)  # never answered
    visit.drop(lesions[0])
    expect(page.locator("#job-title")).to_have_text("Looking at the image")
    expect(page.locator("#job-text")).to_contain_text(re.compile("Sending|looking at the image"))
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#job-title")).to_have_text("Cancelled")
    expect(page.locator(".stage.over .photo")).to_be_visible()
    page.unroute("**/v1/predict*")
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector("#probability")


def test_a_key_is_asked_for_kept_in_memory_and_sent(visit, lesions):
    keys = []

    def locked(route):
        keys.append(route.request.headers.get("x-api-key"))
        if keys[-1] == "right":
            route.continue_()
        else:
            problem(route, 401, "key needed", "Send a valid key as X-API-Key.")

    for pattern in ("**/v1/model", "**/v1/predict*"):
        visit.page.route(pattern, locked)
    page = visit.page
    page.goto(f"{visit.base}/")
    expect(page.locator("#key")).to_be_visible()
    visit.drop(lesions[0])
    field = page.get_by_label("API key")
    expect(field).to_be_focused()
    assert field.get_attribute("type") == "password"
    field.fill("wrong")
    field.press("Enter")
    expect(page.locator("#key-wrong")).to_have_text("That key was not accepted.")
    field.fill("right")
    field.press("Enter")
    page.wait_for_selector("#probability")
    expect(page.locator("#key")).to_be_hidden()
    assert keys[0] is None and "wrong" in keys and keys[-1] == "right"
    stored = "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
    assert page.evaluate(stored) == '[{},{},""]'


# everybody can use it


def tab_to(page, selector: str, most: int = 60) -> None:
    "Press Tab until the element has the focus, and see that the focus can be seen."
    for _ in range(most):
        page.keyboard.press("Tab")
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none", f"no visible focus on {selector}"
            return
    raise AssertionError(f"Tab does not reach {selector}")


def test_the_keyboard_alone_goes_from_the_start_to_the_results(visit):
    page = visit.open()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    tab_to(page, "#example-one")
    page.keyboard.press("Enter")
    page.wait_for_selector("#probability")
    expect(result_title(page)).to_be_focused()
    expect(page.locator(".drawn")).to_be_visible()  # a drawing is called one
    tab_to(page, "#prevalence")
    before = probability(page)
    page.keyboard.press("ArrowRight")
    assert probability(page) > before
    if page.locator("#heat-on").is_visible():
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Space")
        expect(page.locator(".stage.over .heat")).to_be_hidden()
    page.keyboard.press("Control+Home")
    page.reload()
    page.wait_for_selector("#model-facts dl")
    tab_to(page, "#example-many")
    page.keyboard.press("Space")
    page.wait_for_selector(".card.ok")
    expect(result_title(page)).to_contain_text("drawn patient")
    tab_to(page, ".card-open")
    opened = page.evaluate("document.activeElement.id")
    page.keyboard.press("Enter")
    page.wait_for_selector("#probability")
    expect(result_title(page)).to_be_focused()
    tab_to(page, "button.back")
    page.keyboard.press("Enter")
    expect(page.locator(f"#{opened}")).to_be_focused()


def test_progress_is_shown_and_announced_politely(visit, lesions):
    page = visit.open()
    page.evaluate(
        """() => {
            window.said = [];
            window.shown = new Set();
            const watch = (id, heard) => new MutationObserver(() => heard(
                document.getElementById(id).textContent
            )).observe(document.getElementById(id), { childList: true, subtree: true });
            watch('status', (text) => text && said.push(text));
            watch('job-text', (text) => shown.add(text));
        }"""
    )
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 400_000}
    visit.context.new_cdp_session(page).send("Network.emulateNetworkConditions", slow)
    noise = Image.frombytes("RGB", (320, 320), os.urandom(320 * 320 * 3))
    visit.drop(("noise.png", png(noise)))  # 300 kB that take a while
    expect(page.locator("#status")).to_have_text(re.compile("The result is|There is no result"))
    shown, said = page.evaluate("[...shown]"), page.evaluate("said")
    parts = [t for t in shown if re.fullmatch("Sending the image: \\d+\u00a0%", t)]
    assert len(parts) > 2, shown
    assert "The model is looking at the image." in shown
    assert said[:2] == ["Sending the image", "The model is looking at the image."]
    assert len(said) == 3, said  # not every per cent of the upload
    assert page.locator("#status").get_attribute("aria-live") == "polite"


def check_axe(page) -> list[str]:
    found = axe.Axe().run(page).response
    assert len(found["passes"]) > 15  # it looked at the page
    return [
        f"{v['id']}: {node['html'][:120]} {node['failureSummary'][:200]}"
        for v in found["violations"]
        for node in v["nodes"]
    ]


def photographs(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("MELANOMA_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", ["phone", "desktop"])
def test_every_state_passes_axe_and_fits_the_screen(
    browser, service, lesions, tmp_path, device, scheme
):
    size = PHONE if device == "phone" else DESKTOP
    visit = Visit(browser, service.rstrip("/"), viewport=size, color_scheme=scheme)
    page = visit.open()
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", dark)[:3])) < 200) == (scheme == "dark")

    def look(state: str) -> None:
        page.evaluate(SETTLED)
        shot = photographs(tmp_path) / f"{state}-{device}-{scheme}.png"
        page.screenshot(path=shot, full_page=True)
        assert Image.open(shot).width == size["width"]
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        if device == "desktop" or scheme == "light":
            assert not check_axe(page), state

    look("start")
    page.get_by_role("button", name="Try a drawn lesion").click()
    page.wait_for_selector("#probability")
    look("single")
    page.get_by_role("button", name="Start again").click()
    visit.drop(("grey.png", GREY))
    page.wait_for_selector(".no-number")
    look("refused")
    page.get_by_role("button", name="Start again").click()
    long = "a-name-without-any-place-to-break-it" * 4 + ".jpg"
    visit.answer(
        "**/v1/patient*",
        lambda a: [x.update(ugly_duckling=not i) for i, x in enumerate(a["lesions"])],
    )
    visit.drop(*lesions[:4], (long, lesions[4][1]), ("grey.png", GREY), ("broken.jpg", b"no image"))
    page.wait_for_selector(".card.ok")
    expect(page.locator("#job")).to_be_hidden()
    look("set")
    for card in page.locator(".card-open").all():
        picture, words = (card.locator(s).bounding_box() for s in (".thumb", ".card-words"))
        beside = picture["x"] + picture["width"] <= words["x"] + 0.5
        above = picture["y"] + picture["height"] <= words["y"] + 0.5
        assert beside or above, "the words lie over the picture"
        cut = "e => e.scrollWidth > e.clientWidth"
        assert not card.locator(".card-words").evaluate(cut), "words are cut off at the card's edge"
    page.locator(".card.odd button").click()
    page.wait_for_selector("#probability")
    look("member")
    visit.context.close()
    assert not visit.complaints and not visit.strangers()


def test_nobody_is_moved_who_asked_not_to_be(browser, service):
    for motion, expected in (("reduce", "none"), ("no-preference", "to-and-fro")):
        visit = Visit(browser, service.rstrip("/"), reduced_motion=motion)
        page = visit.open()
        page.evaluate("document.querySelector('#waking').hidden = false")
        name = "getComputedStyle(document.querySelector('#waking progress')).animationName"
        assert page.evaluate(name) == expected
        visit.context.close()


def test_without_javascript_the_page_says_what_it_needs(visit):
    page = visit.open()
    # a parsed, never run document is what a browser without scripts has
    words = page.evaluate(
        """async () => {
            const html = await (await fetch('/')).text();
            const page = new DOMParser().parseFromString(html, 'text/html');
            return page.querySelector('main noscript p').textContent;
        }"""
    )
    assert "This page needs JavaScript" in words


def test_nothing_leaves_the_server_and_the_policy_would_not_let_it(visit, lesions):
    page = visit.open()
    visit.drop(lesions[0])
    page.wait_for_selector("#probability")
    assert len(visit.requests) >= 6 and not visit.strangers() and not visit.complaints
    # the same watch sees what is forbidden: a picture from elsewhere, a style in the markup
    page.evaluate("() => { new Image().src = 'http://elsewhere.invalid/x.png'; }")
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<p style=\"color:red\">x</p>')")
    page.wait_for_timeout(200)
    assert sum("Content Security Policy" in c for c in visit.complaints) >= 2
    visit.complaints.clear()
    visit.requests.clear()


# on paper


def test_a_printed_result_has_what_it_must_and_no_buttons(visit, lesions, tmp_path, playwright):
    client = playwright.request.new_context()
    model = client.get(f"{visit.base}/v1/model").json()
    client.dispose()
    page = visit.page
    page.add_init_script("window.printed = 0; window.print = () => { window.printed += 1; };")
    pixel = base64.b64encode(png(Image.new("RGBA", (8, 8), (200, 60, 20, 90)))).decode()
    visit.answer("**/v1/predict*", lambda a: a.update(heatmap=pixel, heatmap_reason=None))
    visit.open()
    visit.drop(lesions[0])
    page.wait_for_selector("#probability")
    page.get_by_role("button", name="Print").click()
    assert page.evaluate("printed") == 1
    number = page.locator("#probability").inner_text()
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    text = page.locator("body").inner_text()
    date = page.evaluate("new Date().toLocaleString('en-GB', { dateStyle: 'long' })")
    folds = page.locator(".folds p").first.inner_text()
    study = page.locator(".study").inner_text()
    where = page.locator(".where").inner_text()
    for part in (NO_MORE, number, date, model["run"], model["arch"], study, where, folds):
        assert part in text, part
    for name in (".stage.plain .photo", ".stage.over .photo", ".stage.over .heat"):
        expect(page.locator(name)).to_be_visible()
    assert page.locator("button:visible, input:visible").count() == 0
    page.screenshot(path=photographs(tmp_path) / "print.png", full_page=True)


def test_a_printed_set_shows_every_lesion(visit, lesions):
    page = visit.open()
    visit.drop(*lesions[:4], ("grey.png", GREY))
    page.wait_for_selector(".card.ok")
    page.emulate_media(media="print")
    text = page.locator("body").inner_text()
    for name, _ in lesions[:4]:
        assert name in text
    for number in page.locator(".card-number").all_inner_texts():
        assert number in text
    assert NO_MORE in text and "Not scored" in text
    shown = [b.inner_text() for b in page.locator("button:visible").all()]
    assert len(shown) == 5 and all("\n" in b for b in shown)  # the cards, and nothing to press
