"""What people do on the pages: search, keys, links to every state, typing to the model, turning a feature, comparing, notes. The map: test_map.py."""

import time
from typing import Any

from watched import NARROW

TEXT = "def make_key(cipher, nonce=None):\n    return cipher\n"


def test_search_filters_order_and_the_way_back(live: str, open_page: Any) -> None:
    watched = open_page(live)
    page = watched.go("/runs/text/features", "#list .space ~ .frow .c-name a")
    everything = page.locator("#found").inner_text()
    page.keyboard.press("/")
    page.keyboard.type("feature 1")
    watched.until("before => document.querySelector('#found').textContent !== before", arg=everything)
    watched.until_at("text=feature[+]1")
    page.select_option("#source", "residual")
    watched.until("(ids => ids.length && ids.every(one => one.textContent.includes('residual')))([...document.querySelectorAll('#list .c-id')])")
    page.click('[data-sort="fire_rate"] button')
    watched.until_at("sort=fire_rate")
    watched.until("document.querySelector('[data-sort=fire_rate]').getAttribute('aria-sort') === 'descending'")
    listed = page.evaluate("location.href")
    page.go_back()
    watched.until("document.querySelector('[data-sort=fire_rate]').getAttribute('aria-sort') === 'none'")
    assert page.input_value("#source") == "residual"
    page.goto(listed)
    page.wait_for_selector("#list .space")
    assert (page.input_value("#text"), page.input_value("#source"), page.input_value("#sort")) == ("feature 1", "residual", "fire_rate")


def test_a_column_that_is_clicked_while_somebody_types_keeps_what_is_typed(live: str, open_page: Any) -> None:
    watched = open_page(live)
    page = watched.go("/runs/text/features", "#list .space ~ .frow .c-name a")
    page.evaluate("""() => {
      document.querySelector("#text").value = "feature 1";
      document.querySelector("#text").dispatchEvent(new Event("input", { bubbles: true }));
      document.querySelector("[data-sort=fire_rate] button").click();
    }""")
    watched.until_at("text=feature[+]1.*sort=fire_rate")
    assert page.input_value("#text") == "feature 1"


def test_a_list_holds_only_rows_in_sight_and_keys_open_them(live: str, open_page: Any) -> None:
    watched = open_page(live, {"width": 1200, "height": 600})
    page = watched.go("/runs/text/features?sort=latent", "#list .space ~ .frow .c-name a")
    n_rows = int(page.locator("#table").get_attribute("aria-rowcount")) - 1
    assert n_rows == 60
    assert page.locator("#list .frow").count() < n_rows / 2
    page.evaluate("document.querySelector('#list').scrollTop = 1e9")
    page.wait_for_selector(f'#list .frow[aria-rowindex="{n_rows + 1}"] a')
    watched.until_at(r"offset=\d+")
    page.reload()
    page.wait_for_selector(f'#list .frow[aria-rowindex="{n_rows + 1}"] a')
    page.goto(f"{live}/runs/text/features?sort=latent")
    page.wait_for_selector("#list .space ~ .frow .c-name a")
    for key in ("j", "j", "k"):
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    watched.until_at("/features/base/0$")
    page.keyboard.press("j")
    watched.until_at("/features/base/1$")
    page.keyboard.press("k")
    watched.until_at("/features/base/0$")
    assert "sort=latent" in page.locator("#back").get_attribute("href")


def test_keys_are_told(live: str, open_page: Any) -> None:
    watched = open_page(live)
    watched.page.clock.install()
    page = watched.go("/runs/text")
    page.keyboard.press("?")
    page.wait_for_selector("#keys", state="visible")
    page.keyboard.press("Escape")
    page.wait_for_selector("#keys", state="hidden")
    page.clock.pause_at(time.time() + 3600)  # the second key must follow within a second and a half, which a busy machine may miss
    page.keyboard.press("g")
    page.keyboard.press("l")
    watched.until_at("/log$")
    page.keyboard.press("Tab")
    watched.until("document.activeElement.textContent === 'Skip to the content'")


def test_contexts_are_tabs_with_links(worded: str, open_page: Any) -> None:
    watched = open_page(worded)
    page = watched.go("/runs/plain-text/features/base/1", '[role="tab"]')
    page.locator('[role="tab"]').first.focus()
    page.keyboard.press("ArrowRight")
    watched.until_at("#contexts-1$")
    page.wait_for_selector("#contexts-1", state="visible")
    assert page.locator('[role="tabpanel"]:visible').count() == 1
    page.reload()
    page.wait_for_selector("#contexts-1")
    watched.until("document.querySelector('[role=tab][aria-selected=true]')?.id === 'tab-1'")


def test_notes_are_kept(live: str, open_page: Any) -> None:
    watched = open_page(live)
    page = watched.go("/runs/text/features/base/2")
    page.fill("#note-label", "my <b>label</b>")
    page.fill("#note-text", "as I see it")
    page.click("#note-form button")
    page.wait_for_selector("#note-list li")
    page.reload()
    assert "my <b>label</b>" in page.locator("#note-list li").inner_text()


def test_typed_text_lights_features_and_a_knob_changes_what_is_written(live: str, open_page: Any) -> None:
    watched = open_page(live)
    page = watched.go("/runs/text/try", "#fired li")
    page.fill("#given", TEXT)
    watched.until("document.querySelector('#tokens').textContent.includes('cipher')")
    page.locator("#fired .name").nth(1).click()
    watched.until_at("feature=")
    page.wait_for_selector("#tokens .token[style]")
    page.focus("#tokens")
    page.keyboard.press("ArrowRight")
    watched.until("document.querySelector('#at-token').innerText.startsWith('At ')")
    page.locator("#fired .add").first.click()
    page.wait_for_selector(".side.after .written")
    before = page.locator("#outcome").inner_text()
    page.locator('.knob input[type="number"]').fill("3")
    watched.until("before => document.querySelector('#outcome').innerText !== before && !document.querySelector('#outcome[aria-busy]')", arg=before)
    link = page.evaluate("location.href")
    assert "edits=" in link and "text=" in link.partition("#")[2]
    after = page.locator(".side.after .written").inner_text()
    page.goto("about:blank")
    page.goto(link)
    page.wait_for_selector(".side.after .written")
    assert page.locator(".side.after .written").inner_text() == after
    assert page.input_value("#given") == TEXT
    page.set_viewport_size(NARROW)
    assert not watched.is_wide()


def test_a_history_is_searched_and_its_ranking_turned(live: str, open_page: Any) -> None:
    watched = open_page(live)
    page = watched.go("/runs/items/try", "#fired li")
    page.get_by_role("button", name="Empty the history").click()
    page.get_by_role("combobox", name="Add an item by its title").fill("Night")
    page.wait_for_selector('[role="option"]')
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    watched.until("document.querySelectorAll('.items li').length === 1 && document.querySelector('#tokens').textContent.includes('Night')")
    page.locator("#fired .add").first.click()
    page.wait_for_selector("ol.ranking li")
    assert page.locator("ol.ranking").count() == 2


def test_a_sequence_is_written_anew(live: str, open_page: Any) -> None:
    watched = open_page(live)
    page = watched.go("/runs/residues/try", "#fired li")
    before = page.evaluate("document.querySelector('#tokens').textContent")
    page.fill("#given", "MKTAYIAKQR_ISFVKSHFSRQ")
    watched.until("before => document.querySelector('#tokens').textContent !== before", before)
    page.locator("#fired .add").first.click()
    page.wait_for_selector("#outcome .tokens-table, #outcome .side")


def test_two_saes_are_compared(live: str, open_page: Any) -> None:
    watched = open_page(live)
    watched.allowed.append("400")
    page = watched.go("/runs/text/compare", '#counts [role="tab"]')
    page.click("#kind-unique_a")
    watched.until_at("kind=unique_a")
    watched.until("document.querySelector('#kind-unique_a').getAttribute('aria-selected') === 'true'")
    page.wait_for_selector(".pair")
    page.go_back()
    watched.until("document.querySelector('#kind-unique_a').getAttribute('aria-selected') === 'false'")
    page.select_option("#b", "items:base")
    page.wait_for_selector(".problem")
    assert "dimensions" in page.locator(".problem").inner_text()
