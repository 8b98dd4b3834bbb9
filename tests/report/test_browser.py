"""The page in headless Chromium, opened from a file. Needs Debian's `chromium` and `chromium-driver`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cycleqd_merge.comparison.page_section import page_section
from cycleqd_merge.report.page import write_page
from tests.comparison.examples import example
from tests.components import CHROMEDRIVER, CHROMIUM
from tests.report.runs import HELDOUT, make_run, measure_heldout
from tests.report.test_page import HOSTILE, Page

pytestmark = pytest.mark.needs("chromium")


class Browser:
    """Chromium at a given width, and the messages on its console."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, page: Path, width: int, scheme: str = "light", fragment: str = "") -> None:
        """Open a page. scheme: the colour scheme that the user prefers."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.get("about:blank")
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        self.driver.get(page.as_uri() + fragment)

    def all(self, selector: str) -> list[Any]:
        """Elements by CSS selector."""
        return list(self.driver.find_elements("css selector", selector))

    def text(self, selector: str) -> str:
        """The text of the one element that a selector finds."""
        (element,) = self.all(selector)
        return str(element.text)

    def run(self, script: str, *arguments: object) -> Any:
        """Run a script; returns its result."""
        return self.driver.execute_script(script, *arguments)

    def press(self, *keys: str) -> None:
        """Press keys on the focused element."""
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    @property
    def complaints(self) -> list[Any]:
        """Messages on the console since the last call."""
        return list(self.driver.get_log("browser"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(CHROMEDRIVER or "chromedriver")
    driver = webdriver.Chrome(options=options, service=service)
    yield Browser(driver)
    driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A page per number of tasks, of runs with held-out scores and failures with hostile errors."""
    written = {}
    for tasks in (2, 3, 4):
        folder = tmp_path_factory.mktemp(f"tasks-{tasks}")
        make_run(folder / "run", tasks, 60, failure=lambda number: HOSTILE if number % 11 == 9 else None)
        written[tasks] = folder / "page.html"
        write_page(measure_heldout(folder / "run", HELDOUT), "runs/mine", written[tasks])
    return written


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("tasks", [2, 3, 4])
def test_a_page_opens_without_console_messages_and_fits(
    browser: Browser, pages: dict[int, Path], tasks: int, width: int
) -> None:
    for scheme in ("light", "dark"):
        browser.open(pages[tasks], width, scheme)
        assert len(browser.all("#heatmaps .heatmap")) == tasks
        assert len(browser.all("#charts svg")) == 3
        assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth")
        assert browser.run("return document.title") == "runs/mine · cycleqd-merge"
        light = browser.run("return getComputedStyle(document.body).backgroundColor")
        assert (light == "rgb(251, 251, 250)") == (scheme == "light")
        browser.run("document.querySelectorAll('details').forEach((part) => part.open = true)")
        assert browser.complaints == []


@pytest.mark.parametrize("width", [1280, 400])
def test_a_click_on_a_cell_shows_its_elite(browser: Browser, pages: dict[int, Path], width: int) -> None:
    browser.open(pages[3], width)
    data = Page(pages[3].read_text()).data
    assert browser.text("#elite h3") == f"#{data['bestMean']} best mean"
    archive = data["archives"][1]
    elite = next(one for one in archive["elites"] if one["number"] > 3 and one["number"] != data["bestMean"])
    number, cell = elite["number"], ",".join(map(str, elite["cell"]))
    (button,) = browser.all(f"button[aria-label^='{archive['task']}:{cell} #{number},']")
    button.click()
    assert browser.text("#elite h3") == f"#{number}"
    assert f"{archive['task']}:{cell}" in browser.text("#elite .cells")
    shown = [row.text.split()[:2] for row in browser.all("#elite .compact tbody tr")[:3]]
    scores = data["evaluations"][number]["scores"]
    assert shown == [[task, f"{score:.3f}"] for task, score in zip(data["tasks"], scores, strict=True)]
    assert browser.text("#elite .command code") == f"cycleqd-merge export runs/mine '#{number}' model-{number}"
    assert browser.text("#lineage h3") == f"Lineage of #{number}"
    assert len(browser.all("#lineage .ancestor")) == len(data["evaluations"][number]["lineage"])
    assert f"#{number}," in browser.all("[aria-pressed=true]")[0].get_attribute("aria-label")
    assert browser.run("const box = arguments[0].getBoundingClientRect(); return box.width * box.height > 25", button)
    assert browser.complaints == []


def test_everything_can_be_reached_by_keys(browser: Browser, pages: dict[int, Path]) -> None:
    browser.open(pages[3], 1280)
    best = browser.text("#elite h3").split()[0]
    stops = browser.all("#heatmaps button[tabindex='0']")
    assert len(stops) == 3  # one stop per heatmap, arrows go on inside
    browser.run("arguments[0].focus()", stops[0])
    moved = ""
    for arrow in ("\ue012", "\ue013", "\ue014", "\ue015"):  # left, up, right, down
        browser.press(arrow)
        moved = str(browser.driver.switch_to.active_element.get_attribute("aria-label"))
        if f"{best}," not in moved:
            break
    browser.press("\ue007")  # Enter
    assert browser.text("#elite h3").split()[0] == moved.split()[1].rstrip(",") != best
    ancestor = browser.all("#lineage .ancestor")[0]
    browser.run("arguments[0].focus()", ancestor)
    browser.press("\ue007")
    assert browser.text("#elite h3") == "#0"
    assert "Expert sql" in browser.text("#elite .origin")
    chart = browser.all("#charts svg")[0]
    browser.run("arguments[0].focus()", chart)
    browser.press("\ue011", "\ue014")  # Home, right
    assert {label.text for label in browser.all("#charts .when")} == {"generation 1"}
    assert browser.complaints == []


def test_a_projection_shows_the_best_elite_and_leads_to_the_others(browser: Browser, pages: dict[int, Path]) -> None:
    browser.open(pages[4], 1280)
    data = Page(pages[4].read_text()).data
    archive = data["archives"][0]
    for pair, (x, y) in enumerate(((0, 1), (0, 2), (1, 2))):
        browser.run(
            "const s = arguments[0]; s.value = arguments[1]; s.dispatchEvent(new Event('change'))",
            browser.all("select")[0],
            pair,
        )
        places: dict[tuple[int, int], list[int]] = {}
        for elite in archive["elites"]:
            places.setdefault((elite["cell"][x], elite["cell"][y]), []).append(elite["number"])
        shown = browser.all(".heatmap:first-child .grid button")
        best = [max(numbers, key=lambda n: data["evaluations"][n]["scores"][0]) for numbers in places.values()]
        qualities = sorted(f"{data['evaluations'][number]['scores'][0]:.3f}" for number in best)
        assert sorted(b.get_attribute("aria-label").split()[2].rstrip(",") for b in shown) == qualities
    crowd = max(places.values(), key=len)
    assert len(crowd) > 1
    (button,) = [b for b in shown if f"best of {len(crowd)} " in b.get_attribute("aria-label")][:1]
    button.click()
    seen = set()
    for _ in crowd:
        seen.add(browser.text("#elite h3").split()[0])
        browser.all("#elite .stack button")[1].click()
    assert len(seen) == len(crowd)
    assert browser.complaints == []


def test_a_link_leads_to_a_model(browser: Browser, pages: dict[int, Path]) -> None:
    browser.open(pages[2], 1280, fragment="#model-5")
    assert browser.text("#elite h3").split()[0] == "#5"
    browser.open(pages[2], 1280, fragment="#model-999")
    assert browser.text("#elite h3").endswith("best mean")
    browser.open(pages[2], 1280, fragment="#model-9")  # it failed, with a hostile error
    includes = "return document.querySelector('#elite .note').textContent.includes(arguments[0])"
    assert browser.run(includes, HOSTILE.split(" & ")[0])  # the rest has a lone surrogate, which no driver accepts
    assert browser.complaints == []


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run that is part of a comparison."""
    folder = tmp_path_factory.mktemp("compared")
    write_page(make_run(folder / "run", 2), "runs/mine", folder / "page.html", page_section(example()))
    return folder / "page.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_a_comparison_fits_and_can_be_read_and_sorted(
    browser: Browser, compared: Path, width: int, scheme: str
) -> None:
    browser.open(compared, width, scheme)
    curves, winners = browser.all("#comparison-charts .plot")
    assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth")
    assert len(browser.run("return arguments[0].querySelectorAll('polyline')", curves)) == 2
    assert len(browser.run("return arguments[0].querySelectorAll('.winner')", winners)) == 5
    for text in browser.run("return [...arguments[0].querySelectorAll('text')]", winners):
        assert browser.run("return arguments[0].getBoundingClientRect().right <= window.innerWidth", text)
        assert browser.run("return parseFloat(getComputedStyle(arguments[0]).fontSize) >= 11", text)
    heading = browser.all("#comparison-models thead button")[1]  # sql
    orders = []
    for _ in range(2):
        browser.run("arguments[0].click()", heading)
        orders.append([float(cell.text) for cell in browser.all("#comparison-models td:nth-child(2)")])
    assert orders[0] == sorted(orders[0], reverse=True)
    assert orders[1] == sorted(orders[1])
    assert browser.complaints == []


def test_values_along_the_curves_and_of_a_winner_can_be_read_by_keys(browser: Browser, compared: Path) -> None:
    browser.open(compared, 1280)
    (curves, _) = browser.all("#comparison-charts .plot")
    browser.run("arguments[0].focus()", curves)
    readings = "#comparison-charts .chart:first-child .readings"
    browser.press("\ue011")  # Home
    assert browser.text(readings).split("\n") == ["cma-es \u2013", "cycleqd 0.175 0.150 to 0.200"]
    browser.press("\ue010")  # End
    assert browser.text(readings).split("\n") == ["cma-es 0.375 0.300 to 0.450", "cycleqd 0.475 0.450 to 0.500"]
    browser.run(
        "const s = arguments[0]; s.value = 'coverage'; s.dispatchEvent(new Event('change'))",
        browser.all("#comparison-charts select")[0],
    )
    assert browser.text(readings).split("\n")[1] == "cycleqd 50.0%"
    first = browser.all("#comparison-charts .readings button")[0]
    browser.run("arguments[0].focus()", first)
    browser.press("\ue007")  # Enter
    assert [value.text for value in browser.all("#comparison-charts .value")] == ["0.600", "0.400", "0.500"]
    assert len(browser.all("#comparison-charts .faded")) == 4
    assert browser.complaints == []
