"""The page by keyboard, by a screen reader's rules, on a phone, in the dark, without scripts."""

import os
import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image

from support.images import encoded
from support.page import (
    DESKTOP,
    GREY,
    PHONE,
    SETTLED,
    Visit,
    expect,
    in_browser,
    photographs,
    probability,
    result_title,
)

pytestmark = in_browser


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
    visit.drop(("noise.png", encoded(noise)))  # 300 kB that take a while
    expect(page.locator("#status")).to_have_text(re.compile("The result is|There is no result"))
    shown, said = page.evaluate("[...shown]"), page.evaluate("said")
    parts = [t for t in shown if re.fullmatch("Sending the image: \\d+\u00a0%", t)]
    assert len(parts) > 2, shown
    assert "The model is looking at the image." in shown
    assert said[:2] == ["Sending the image", "The model is looking at the image."]
    assert len(said) == 3, said  # not every per cent of the upload
    assert page.locator("#status").get_attribute("aria-live") == "polite"


def check_axe(page) -> list[str]:
    found = Axe().run(page).response
    assert len(found["passes"]) > 15  # it looked at the page
    return [
        f"{v['id']}: {node['html'][:120]} {node['failureSummary'][:200]}"
        for v in found["violations"]
        for node in v["nodes"]
    ]


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
