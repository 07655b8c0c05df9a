"""The page in a real browser: sliders move, tables sort, nothing is logged, nothing is asked for.

The distribution's Chromium and its driver are used; nothing is downloaded.
"""

import json
import shutil
import time

import numpy as np
import pytest

pytestmark = pytest.mark.long

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
DRIVER = shutil.which("chromedriver")


def start(*options):
    if BROWSER is None or DRIVER is None:
        pytest.skip("no Chromium with its driver is installed")
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    chosen = ChromeOptions()
    chosen.binary_location = BROWSER
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1300,1000"):
        chosen.add_argument(option)
    for option in options:
        chosen.add_argument(option)
    chosen.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return Chrome(options=chosen, service=ChromeService(DRIVER))


@pytest.fixture
def opened(page_of, tmp_path):
    """Factory: a browser that shows the page; closed at the end."""
    browsers = []

    def make(*options, **content):
        path = tmp_path / "report.html"
        path.write_text(page_of(**content), encoding="utf-8")
        browsers.append(start(*options))
        browsers[-1].get(path.as_uri())
        return browsers[-1]

    yield make
    for browser in browsers:
        browser.quit()


def requests_of(browser):
    """Addresses that were asked for, without those that the page carries itself."""
    messages = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    sent = [
        m["params"]["request"]["url"]
        for m in messages
        if m["method"] == "Network.requestWillBeSent"
    ]
    return [url for url in sent if not url.startswith("data:")]


def all_of(browser, selector):
    return browser.find_elements("css selector", selector)


def move(browser, slider, keys):
    slider.send_keys(keys)
    time.sleep(0.2)


def test_sliders_sorting_console_and_requests(opened):
    from selenium.webdriver.common.keys import Keys

    browser = opened()
    asked = requests_of(browser)
    assert [url.rpartition("/")[2] for url in asked] == ["report.html"]

    # The opacity slider, by keyboard.
    opacity = all_of(browser, ".opacity")[0]
    heat = all_of(browser, "#picture-0 .heat-tokens")
    assert len(heat) == 2 and heat[0].value_of_css_property("opacity") == "0.65"
    move(browser, opacity, Keys.HOME)
    assert [each.value_of_css_property("opacity") for each in heat] == ["0", "0"]
    assert opacity.get_attribute("aria-valuetext") == "0 percent"
    other = all_of(browser, "#picture-1 .heat-tokens")[0]
    assert other.value_of_css_property("opacity") == "0.65"

    # The block slider begins at the first block that decides.
    block = all_of(browser, "#picture-0 .block")[0]
    tokens = all_of(browser, "#picture-0 .now .tokens")
    captions = all_of(browser, "#picture-0 .now figcaption")
    assert captions[0].text.startswith("block 2: ")
    before = [each.get_attribute("src") for each in tokens]
    move(browser, block, Keys.ARROW_RIGHT)
    assert captions[0].text.startswith("block 3: ") and captions[1].text.startswith("block 3: ")
    assert all(a != b.get_attribute("src") for a, b in zip(before, tokens, strict=True))
    move(browser, block, Keys.END)
    assert captions[0].text.startswith("block 5: ")

    # The table sorts, both ways.
    def column(number):
        return [
            float(cell.get_attribute("data-value"))
            for cell in all_of(browser, f"#table tbody td:nth-child({number})")
        ]

    head = all_of(browser, "#table th button")[3]
    head.send_keys(Keys.ENTER)
    assert column(4) == sorted(column(4)) and len(set(column(4))) > 1
    head.send_keys(Keys.ENTER)
    assert column(4) == sorted(column(4), reverse=True)
    cell = head.find_element("xpath", "..")
    assert cell.get_attribute("aria-sort") == "descending"
    all_of(browser, "#table th button")[0].click()
    assert cell.get_attribute("aria-sort") is None

    assert browser.get_log("browser") == []
    assert requests_of(browser) == []


def test_overlays_lie_exactly_on_the_photograph(opened):
    """60 x 90 pixels in patches of 8: the last row and column of tokens stick out and are cut."""
    browser = opened(count=1)
    stage = all_of(browser, ".heat")[0].rect
    tokens = all_of(browser, ".heat-tokens")[0].rect
    assert tokens["width"] / stage["width"] == pytest.approx(96 / 90, rel=0.01)
    assert tokens["height"] / stage["height"] == pytest.approx(64 / 60, rel=0.01)
    assert stage["width"] / stage["height"] == pytest.approx(1.5, rel=0.01)


def test_a_phone_needs_no_scrolling_aside(opened):
    browser = opened("--window-size=400,800")
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True},
    )
    width = browser.execute_script("return document.documentElement.scrollWidth")
    assert width <= 360


@pytest.mark.parametrize(("width", "side_by_side"), [(1400, True), (800, False), (360, False)])
def test_two_models_stand_side_by_side_on_a_wide_screen(opened, width, side_by_side):
    browser = opened()
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    one, other = (each.rect for each in all_of(browser, "#picture-0 .arm-row"))
    assert (one["y"] == other["y"]) is side_by_side
    assert (other["x"] > one["x"] + one["width"]) is side_by_side
    # Each view of one model stands beside the same view of the other.
    heats = [each.rect for each in all_of(browser, "#picture-0 .heat")]
    assert (heats[0]["y"] == heats[1]["y"]) is side_by_side
    assert heats[0]["width"] == pytest.approx(heats[1]["width"], abs=1)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_one_model_has_the_whole_width(opened):
    browser = opened("--window-size=1500,900", arms=1)
    row = all_of(browser, "#picture-0 .arm-row")[0].rect
    assert row["width"] > 0.95 * all_of(browser, "#picture-0 .controls")[0].rect["width"]


def test_without_javascript_everything_is_there(opened):
    browser = opened()
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.refresh()
    assert not all_of(browser, ".controls")[0].is_displayed()
    tiles = all_of(browser, "#picture-0 .tiles figure")
    assert len(tiles) == 12 and all(tile.is_displayed() for tile in tiles)
    assert all_of(browser, "#picture-0 .heat-tokens")[0].is_displayed()
    assert len(all_of(browser, ".chart")) == 5


def test_in_the_dark_the_ground_is_dark(opened):
    browser = opened()
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    colour = browser.find_element("css selector", "body").value_of_css_property("background-color")
    assert "20, 23, 26" in colour


def test_a_film_plays(opened, tmp_path):
    """What the video command writes, whole and as a killed process leaves it."""
    from svit_det.video.writer import film_to, partial_path

    random = np.random.default_rng(0)
    path = tmp_path / "film.mp4"
    with pytest.raises(KeyError), film_to(path, size=(64, 96), fps=10.0) as writer:
        for _ in range(25):
            writer.add(random.integers(0, 255, (64, 96, 3), dtype=np.uint8))
        until = time.monotonic() + 60
        while partial_path(path).stat().st_size < 20000 and time.monotonic() < until:
            writer.add(random.integers(0, 255, (64, 96, 3), dtype=np.uint8))
            time.sleep(0.02)
        (tmp_path / "killed.mp4").write_bytes(partial_path(path).read_bytes())
        raise KeyError
    browser = opened()
    for name in ("film.mp4", "killed.mp4"):
        page = tmp_path / "player.html"
        page.write_text(f"<video muted src={name}></video>")
        browser.get(page.as_uri())
        played = browser.execute_async_script(
            """const [done] = arguments, film = document.querySelector("video");
            film.onerror = () => done(film.error.message);
            film.ontimeupdate = () => {
              if (film.currentTime > 0.3) done([film.videoWidth, film.videoHeight]);
            };
            film.play();"""
        )
        assert played == [96, 64], name
