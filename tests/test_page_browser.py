"""report.html in a real browser: what it fetches, what it says, and whether all of it fits."""

import csv

import pytest

from common.report.files import write_results
from common.report.frame import to_csv, to_frame
from common.report.page import to_page
from steps import LADDER
from tests.browser import NAMES, Browser, program
from tests.test_page import STEADY, refuse

WIDTHS = (400, 1280)
PATH = program()
if PATH is None:
    pytest.skip(f"no browser on PATH ({', '.join(NAMES)})", allow_module_level=True)

# texts that end outside of the window or of the box that holds them, but for boxes that scroll
OVERFLOWING = """(() => {
  for (const one of document.querySelectorAll('details')) one.open = true;
  const found = [], wide = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > wide) found.push('the page scrolls sideways');
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, range = document.createRange();
    if (!node.data.trim() || node.parentElement.closest('.scroll, pre')) continue;
    range.selectNodeContents(node);
    let box = node.parentElement;
    while (getComputedStyle(box).display === 'inline') box = box.parentElement;
    const edge = Math.min(wide, box.getBoundingClientRect().right);
    for (const text of range.getClientRects())
      if (text.right > edge + 1 || text.left < -1) { found.push(node.data); break; }
  }
  for (const box of document.querySelectorAll('.scroll, pre, svg, .card')) {
    const one = box.getBoundingClientRect();
    const swipes = box.tagName === 'svg' && box.closest('.swipe');
    if (one.right > wide + 1 && !swipes) found.push(box.outerHTML.slice(0, 80));
  }
  return found;
})()"""
FIGURES = """[...document.querySelectorAll('table')][0].querySelectorAll('tbody tr')"""
SEEN = f"""[...{FIGURES}].map(row => [row.dataset.rung,
  ...[...row.querySelectorAll('data')].map(one => one.value)])"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(PATH, tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run with a page in each language, and one of two runs."""
    out = tmp_path_factory.mktemp("run")
    records = refuse(STEADY, 3, "failed", "a_reason_without_any_space_" * 20)
    write_results(records, out, LADDER)
    (out / "ja.html").write_text(to_page([records], LADDER, "ja"))
    (out / "two.html").write_text(to_page([STEADY, records], LADDER))
    return out


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["report.html", "ja.html", "two.html"])
def test_a_page_renders_fits_and_fetches_nothing(browser, folder, name, width):
    browser.open(folder / name, width)
    assert browser.value("window.innerWidth") == width
    assert browser.value(OVERFLOWING) == []
    assert browser.value("document.querySelector('.headline').getBoundingClientRect().height") > 20
    asked = [event["request"]["url"] for event in browser.seen("Network.requestWillBeSent")]
    assert [url for url in asked if not url.startswith("data:")] == [(folder / name).as_uri()]
    assert not browser.seen("Runtime.consoleAPICalled")
    assert not browser.seen("Runtime.exceptionThrown")
    assert not browser.seen("Log.entryAdded")


def test_figures_are_the_csvs(browser, folder):
    browser.open(folder / "report.html", 1280)
    with (folder / "ladder.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = ("rung", "tok_per_s", "x_prev", "x_base", "peak_reserved_gib")
    assert browser.value(SEEN) == [[row[n] for n in names if row[n]] for row in rows]
    assert to_csv(to_frame(STEADY, LADDER.workload)) != (folder / "ladder.csv").read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_the_page_by_day_and_by_night(browser, folder, scheme):
    browser.open(folder / "report.html", 1280, scheme=scheme)
    colours = "[getComputedStyle(document.body).color, getComputedStyle(document.body)"
    ink, paper = browser.value(f"{colours}.backgroundColor]")
    bright = [sum(map(int, c.strip("rgb()").split(","))) > 3 * 128 for c in (ink, paper)]
    assert bright == ([False, True] if scheme == "light" else [True, False])
    letters = "getComputedStyle(document.querySelector('.drawn')).fill"
    assert browser.value(letters) == ink


def test_a_phone_is_shown_bars_and_paper_the_picture(browser, folder):
    shown = "['.wide', '.bars'].map(c => getComputedStyle(document.querySelector(c)).display)"
    browser.open(folder / "report.html", 400)
    assert browser.value(shown) == ["none", "block"]
    browser.open(folder / "report.html", 400, media="print")
    assert browser.value(shown) == ["block", "none"]
