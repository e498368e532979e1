"""Figures: every series has a colour of its own in the light and the dark theme."""

import re
from importlib import resources

from twotower_tf.report import figures

KINDS = ["positives", "InBatch", "Uniform", "Popularity", "SameAttribute", "Rejections", "SkipAbove", "Mined", "Queue"]


def test_each_kind_has_a_colour_of_its_own_that_the_page_knows_by_day_and_by_night():
    shares = {name: [0.25, 0.75] for name in KINDS}
    drawn = figures.draw_histograms(shares, [0, 1, 2], "training positives", ["0", "1 to 2"])
    used = set(re.findall(r"var\((--\w+)\)", drawn))
    assert len(used - {"--ink", "--soft", "--line"}) == len(KINDS)
    styles = resources.files("twotower_tf.report").joinpath("page.css.jinja").read_text(encoding="utf-8")
    by_day, by_night = styles.split("@media (prefers-color-scheme: dark)")
    for part in (by_day, by_night):
        known = dict(re.findall(r"(--\w+): (#\w+);", part))
        assert used <= set(known)
        assert len({known[name] for name in used}) == len(used)
    assert not re.findall(r"#[0-9a-f]{6}\b", drawn)  # nothing keeps the colour of the day
    assert all(name in drawn for name in KINDS)
    assert re.findall(r">(\d+) %</text>", drawn)[:3] == ["0", "20", "40"]


def test_no_legend_lies_over_the_bars():
    group = {"metrics": {"recall@20": 0.4}, "popularity": {"recall@20": 0.1}}
    drawn = figures.draw_bars({name: group for name in ("new", "low", "medium", "high")}, "recall@20")
    top = float(re.search(r'<clipPath[^>]*>\s*<rect[^>]* y="([\d.]+)"', drawn)[1])  # of where bars may be
    places = [float(y) for y in re.findall(r'y="([\d.]+)"[^>]*>(?:model|popularity)</text>', drawn)]
    assert len(places) == 2 and max(places) < top
