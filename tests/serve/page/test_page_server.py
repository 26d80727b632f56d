"""The page with a server that is slow, busy, locked or gone."""

import re

from support.page import expect, in_browser, problem

pytestmark = in_browser


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
