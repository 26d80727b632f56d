"""What the page says of its numbers, on the screen and on paper."""

import base64
import re

import pytest
from PIL import Image

from support.images import encoded
from support.page import GREY, NO_MORE, expect, in_browser, moved, photographs, probability

pytestmark = in_browser


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
    pixel = base64.b64encode(encoded(Image.new("RGBA", (8, 8), (200, 60, 20, 90)))).decode()
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


def test_a_printed_result_has_what_it_must_and_no_buttons(visit, lesions, tmp_path, playwright):
    client = playwright.request.new_context()
    model = client.get(f"{visit.base}/v1/model").json()
    client.dispose()
    page = visit.page
    page.add_init_script("window.printed = 0; window.print = () => { window.printed += 1; };")
    pixel = base64.b64encode(encoded(Image.new("RGBA", (8, 8), (200, 60, 20, 90)))).decode()
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
