"""Seconds that filters take over a large catalogue, compared with the deadline of one.

    python benchmarks/filters.py [--items=10000000] [--seconds=2]

The catalogue is synthetic: ids, names, 50 categories, a price and a stock. Each filter is evaluated by a `Filters` that
has read its columns, as every request but the first finds it. The last two are too costly, and must be refused in time.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pyarrow as pa
from comparison import print_comparison

from twotower_tf.errors import DataError
from twotower_tf.retrieval.filters import Filters
from twotower_tf.retrieval.limits import FILTER_SECONDS

FILTERS = (
    "price < 20",
    "category = 'category 7'",
    "category = 'category 7' and price < 20 and stock > 0",
    "category in ('category 1', 'category 2') or price between 3 and 4",
    "lower(category) = 'category 3'",
    "starts_with(item_name, 'item 1')",
    "item_name like '%77%'",
    "regexp_matches(item_name, '^item 1[0-9]*7$')",
    " or ".join(f"abs(stock - {each}) = 1" for each in range(60)),
    " or ".join(["item_name similar to '.*a.{30}!'"] * 200),
)


def make_catalogue(items: int) -> pa.Table:
    rng = np.random.default_rng(0)
    names = pa.array([f"item {row}" for row in range(items)])
    categories = pa.array([f"category {number}" for number in range(50)])
    codes = pa.array(rng.integers(0, 50, items).astype(np.int32))
    return pa.table(
        {
            "item_name": names,
            "category": pa.DictionaryArray.from_arrays(codes, categories).dictionary_decode(),
            "price": rng.gamma(2, 20, items),
            "stock": rng.integers(0, 99, items),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--seconds", type=float, default=FILTER_SECONDS)
    options = parser.parse_args()
    filters = Filters(make_catalogue(options.items), options.seconds)
    for predicate in FILTERS:
        begin, used = time.perf_counter(), time.process_time()
        try:
            passing = int(filters.mask(predicate).sum())
        except DataError:
            passing = None
        seconds, used = round(time.perf_counter() - begin, 3), round(time.process_time() - used, 3)
        setting = f"{options.items:,} items: {predicate[:70]}"
        found = {"cpu_seconds": used, "passing": passing}
        print_comparison("filters", seconds, filters.seconds, "s, compared with the deadline", setting, **found)


if __name__ == "__main__":
    main()
