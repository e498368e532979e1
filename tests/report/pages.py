"""A run's facts and a map of items for reports, and a reader of the pages."""

from html.parser import HTMLParser

from tests.evaluate.planted_run import CONFIG
from twotower_tf import config as configuration
from twotower_tf.report import report_page, run_facts

RUN = run_facts.RunFacts(
    name="small",
    run_dir="/data/runs/small",
    date="2026-01-02 03:04 UTC",
    data="9 rows read, 8 used",
    configuration=configuration.to_json(CONFIG),
    monitor="recall@20",
    best_epoch=2,
    history=[{"epoch": epoch, "loss": 1 / epoch, "recall@20": 0.1 * epoch % 0.3} for epoch in (1, 2, 3)],
)


ITEM_MAP = {
    "items": 5,
    "explained": [0.5, 0.25],
    "column": "kind",
    "names": ["shoes & <hats>", "$socks$", "(other)", "(none)"],
    "points": [[0.5, -0.25, 0], [-0.5, 0.25, 1], [0.1, 0.2, 3]],
}


def render(document, run=RUN, index=None):
    return report_page.render_report(run, document, ITEM_MAP, index)


class Page(HTMLParser):
    """Collects what a page shows and what it would load; fails on tags that do not close."""

    VOID = ("meta", "br", "img", "link", "input")

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.loads, self.tags = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href") and not (value or "").startswith("#")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
