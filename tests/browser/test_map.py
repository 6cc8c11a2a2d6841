"""The map under a hand: lassos, links to them, layouts that come late, and what may not go wrong where all of it is slow."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from watched import WAIT_MS, WIDE, Watched

MAP = "/runs/text/map"
IS_FINAL = "!document.querySelector('#how').textContent.includes('being made')"
LEFT_HALF = ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))  # some feature is the leftmost, some the rightmost
FIRST, FINAL = "Principal components", "t-SNE"
WATCH_THE_LIST = """() => {
  window.seen = [];
  const words = (id) => document.querySelector(id).textContent;
  new MutationObserver(() => seen.push(`${words("#picked-title")}: ${words("#picked-count")}`))
    .observe(document.querySelector(".picked"), { childList: true, characterData: true, subtree: true });
}"""


def open_map(watched: Watched, path: str = MAP) -> Any:
    page = watched.go(path, "canvas[data-points]")
    watched.until(IS_FINAL)
    return page


def draw(page: Any, corners: Any = LEFT_HALF, between: Callable[[], None] = lambda: None) -> None:
    """Drag along corners, given as fractions of the canvas less two pixels of edge; `between` is done at each of them."""
    page.locator("canvas").scroll_into_view_if_needed()
    box = page.locator("canvas").bounding_box()
    assert box["y"] >= 0 and box["y"] + box["height"] <= page.viewport_size["height"], "a mouse cannot leave the window"
    places = [(box["x"] + 2 + x * (box["width"] - 4), box["y"] + 2 + y * (box["height"] - 4)) for x, y in corners]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=4)
        between()
    page.mouse.up()


def picked(watched: Watched) -> str:
    """How many features the lasso holds, in words, as soon as it is there."""
    watched.until("document.querySelector('#picked-title').textContent === 'In the lasso'")
    return str(watched.page.locator("#picked-count").inner_text())


def until_picked(watched: Watched, words: str) -> None:
    watched.until("words => document.querySelector('#picked-title').textContent === 'In the lasso' "
                  "&& document.querySelector('#picked-count').innerText === words", words)


class Layouts:
    """Answers of the server about the map as a test wants them: the first layout until it says `is_ready`; `holds` keeps requests back."""

    def __init__(self, page: Any):
        self.is_ready, self.holds, self.held = True, False, list[Any]()
        page.route("**/api/runs/*/map?*", self._answer)

    def _answer(self, route: Any) -> None:
        if self.holds:
            self.held.append(route)
            return
        answer = route.fetch(timeout=WAIT_MS)
        found = answer.json()
        if not self.is_ready:
            found |= {"layout": "pca", "is_final": False, "x": found["y"], "y": found["x"]}
        route.fulfill(status=200, content_type="application/json", body=json.dumps(found))

    def let_go(self) -> None:
        self.holds = False
        while self.held:
            self._answer(self.held.pop(0))


def test_a_lasso_makes_a_list_with_a_link(live: str, open_page: Any) -> None:
    watched = open_page(live)
    page = open_map(watched)
    everything = int(page.locator("canvas").get_attribute("data-points"))
    page.click("#lasso")
    draw(page)
    words = picked(watched)
    assert 0 < int(words.split(" ")[0]) < everything
    watched.until_at("lasso=")
    page.reload()
    until_picked(watched, words)
    page.select_option("#color", "fire_rate")
    page.focus("canvas")
    page.keyboard.press("+")
    watched.until_at("color=fire_rate.*view=")
    page.keyboard.press("Escape")
    watched.until("document.querySelector('#picked-title').textContent === 'In sight'")
    page.locator("#picked a").first.click()
    watched.until_at("/features/base/")


def test_a_lasso_chooses_nothing_until_it_is_drawn(live: str, open_page: Any) -> None:
    """A slow hand, or a slow machine: what was to be written while the hand moved is not written of half a lasso."""
    watched = open_page(live)
    page = open_map(watched)
    page.click("#lasso")
    page.evaluate(WATCH_THE_LIST)

    def write_late() -> None:
        page.mouse.wheel(0, 1)
        page.wait_for_timeout(300)

    draw(page, between=write_late)
    words = picked(watched)
    assert {title for title in page.evaluate("seen") if title.startswith("In the lasso")} == {f"In the lasso: {words}"}
    page.reload()
    until_picked(watched, words)


@pytest.mark.parametrize(("size", "density", "fonts"), [
    ({"width": 1200, "height": 560}, 2, "100%"), ({"width": 800, "height": 640}, 1.25, "120%"), (WIDE, 1, "125%"),
])
def test_lassos_of_other_windows_and_fonts(live: str, open_page: Any, size: dict[str, int], density: float, fonts: str) -> None:
    watched = open_page(live, size, density=density)
    page = open_map(watched)
    page.add_style_tag(content=f"html {{ font-size: {fonts}; font-family: monospace; }}")
    page.keyboard.down("Shift")  # the same as the button
    draw(page, ((0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0)))
    page.keyboard.up("Shift")
    words = picked(watched)
    assert not words.startswith("0 ")
    page.reload()
    until_picked(watched, words)


def test_a_better_layout_waits_for_the_lasso(live: str, open_page: Any) -> None:
    watched = open_page(live)
    layouts = Layouts(watched.page)
    layouts.is_ready = False
    page = watched.go(f"{MAP}?mode=lasso", "canvas[data-points]")
    draw(page)
    words = picked(watched)
    watched.until_at("layout=pca")
    link = page.url
    layouts.is_ready = True
    watched.until("document.querySelector('#how').textContent.includes('is ready')")
    until_picked(watched, words)
    page.click("#unpick")
    watched.until("words => document.querySelector('#how').textContent.startsWith(words)", FINAL)
    assert "layout" not in page.evaluate("location.search")
    page.goto("about:blank")
    page.goto(link)  # of a layout that is gone
    watched.until("document.querySelector('#how').textContent.includes('is gone')")
    assert page.locator("#picked-title").inner_text() == "In sight"
    assert "lasso=" not in page.evaluate("location.search")


def test_a_link_to_a_lasso_waits_for_its_layout(live: str, open_page: Any) -> None:
    watched = open_page(live)
    page = open_map(watched, f"{MAP}?mode=lasso")
    draw(page)
    words = picked(watched)
    watched.until_at("lasso=")
    layouts = Layouts(page)
    layouts.is_ready = False
    page.reload()
    watched.until("words => document.querySelector('#how').textContent.startsWith(words)", FIRST)
    assert page.locator("#picked-title").inner_text() == "In sight"
    page.select_option("#color", "fire_rate")
    page.set_viewport_size({"width": 1000, "height": 800})
    watched.until_at("color=fire_rate.*lasso=")
    layouts.is_ready = True
    until_picked(watched, words)


def test_the_sae_that_was_chosen_last_is_shown(live: str, open_page: Any) -> None:
    watched = open_page(live)
    layouts = Layouts(watched.page)
    page = open_map(watched)
    layouts.holds = True
    page.select_option("#source", "residual")
    page.fill("#find", "feature 1")  # before there is a map of it
    page.keyboard.press("Tab")
    watched.until_at("source=residual.*find=feature")
    page.go_back()
    watched.until_at("/map$")
    layouts.let_go()
    watched.until("document.querySelector('#picked a').getAttribute('href').includes('/base/')")
    assert page.input_value("#source") == "base"
    assert page.locator("canvas[aria-busy]").count() == 0
    page.go_forward()
    watched.until("document.querySelector('#picked a').getAttribute('href').includes('/residual/')")
    assert (page.input_value("#source"), page.input_value("#find")) == ("residual", "feature 1")
    assert all("feature 1" in name for name in page.locator("#picked a").all_inner_texts())


def test_the_first_layout_outlives_a_server_that_does_not_answer(live: str, open_page: Any) -> None:
    watched = open_page(live)
    watched.allowed.append("503")
    layouts = Layouts(watched.page)
    layouts.is_ready = False
    page = watched.go(MAP, "canvas[data-points]")
    page.route("**/api/runs/*/map?*", lambda route: route.fulfill(status=503, body="{}"))
    page.wait_for_selector("#problem .problem")
    assert page.locator("#picked a").count() > 0
    page.unroute("**/api/runs/*/map?*")
    watched.until("words => document.querySelector('#how').textContent.startsWith(words)", FINAL)
    assert page.locator("#problem .problem").count() == 0


def test_only_the_first_button_drags_and_the_view_is_kept_at_once(live: str, open_page: Any) -> None:
    watched = open_page(live)
    page = open_map(watched)
    box = page.locator("canvas").bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down(button="right")
    page.mouse.up(button="right")
    page.keyboard.press("Escape")
    page.mouse.move(box["x"] + 105, box["y"] + 65)
    page.wait_for_timeout(200)
    assert "view=" not in page.url
    page.mouse.wheel(0, -300)
    page.click(".brand a")  # before what the wheel did was written
    watched.until_at("/$|/runs$")
    page.go_back()
    watched.until_at("view=")
