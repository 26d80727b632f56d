"""Ways into the page: by mouse, clipboard and file dialogue; and what cannot be scored."""

import base64
import io
import re

import pytest
from PIL import Image

from support.images import encoded
from support.page import COPY, GREY, NO_MORE, expect, in_browser, probability, result_title

pytestmark = in_browser


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
    picture = encoded(Image.open(io.BytesIO(lesions[1][1])))
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
