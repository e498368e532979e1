"""Draws the users, items and true preferences of the synthetic log.

Every user and item has a latent vector, and the true preference is `user_vector . item_vector + item_bias`, where the
bias is the log of a Zipf popularity. A vector is a function of the row's columns plus an individual part, so that a
model can both learn individuals and generalise to users and items without history.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from twotower_tf.tables.timestamps import SECONDS_PER_DAY

DIMENSION = 8
START = 1_736_121_600  # Monday 2025-01-06 00:00 UTC
ZIPF_EXPONENT = 0.65
NEW_ITEMS = 0.2  # share of the catalogue that is created while the log runs
LATE_USERS = 0.25  # share of the users who first appear after the first day
MISSING = {
    "age": 0.08,
    "gender": 0.05,
    "country": 0.03,
    "interests": 0.05,
    "category": 0.02,
    "advertiser": 0.02,
    "price": 0.04,
    "device_type": 0.02,
}  # share of empty values by column

USER_NORM = 4.0  # length of every user vector: how sharply tastes differ
OWN_TASTE = 0.25  # length of the part of a user's taste that no column predicts, relative to interests (1)
AGE_TASTE, GENDER_TASTE, COUNTRY_TASTE = 0.35, 0.25, 0.25
CATEGORY_PART, ADVERTISER_PART, OWN_PART = 1.5, 1.0, 0.85  # lengths of the parts of an item vector
PRICE_PART = 0.15  # per standard deviation of the log price

CATEGORIES = {
    "sports": ("Running Shoes", "Tennis Racket", "Yoga Mat", "Football", "Ski Goggles", "Rowing Gloves"),
    "music": ("Headphones", "Guitar Strings", "Record Player", "Festival Pass", "Drum Pad", "Violin Bow"),
    "travel": ("Weekend Trip", "Suitcase", "City Guide", "Rail Pass", "Travel Pillow", "Island Cruise"),
    "cooking": ("Chef's Knife", "Espresso Set", "Spice Box", "Cast-Iron Pan", "Baking Class", "Pasta Machine"),
    "gaming": ("Controller", "Strategy Game", "Gaming Chair", "Puzzle Box", "Card Deck", "Racing Wheel"),
    "fashion": ("Rain Jacket", "Silk Scarf", "Leather Belt", "Linen Shirt", "Sunglasses", "Wool Coat"),
    "garden": ("Rose Seeds", "Garden Hose", "Tomato Planter", "Bird Feeder", "Hedge Shears", "Lemon Tree"),
    "books": ("Mystery Novel", "Atlas", "Poetry Reader", "Cookbook", "Audiobook", "Picture Book"),
    "cars": ("Winter Tyres", "Roof Box", "Dash Camera", "Seat Covers", "Car Polish", "Charging Cable"),
    "health": ("Sleep Tracker", "Herbal Tea", "Massage Roller", "Vitamin Pack", "Reading Lamp", "Air Filter"),
    "photo": ("Tripod", "Photo Album", "Camera Bag", "Lens Kit", "Print Voucher", "Ring Light"),
    "pets": ("Dog Lead", "Cat Tower", "Aquarium", "Bird Cage", "Puppy Snacks", "Hamster Wheel"),
}
ADJECTIVES = (
    "Amber", "Brisk", "Café", "Dapper", "Élan", "Feather", "Golden", "Hôtel", "Ivory", "Jolly", "Köln", "Lunar",
    "Mellow", "Niño", "Ocean", "Pocket", "Quiet", "Rustic", "Señora", "Thunder", "Über", "Velvet", "Wild", "Ёлка",
    "Young", "Zürich", "東京", "さくら", "Αθήνα", "Kraków",
)  # fmt: skip
BRAND_STARTS = (
    "Nord", "Alto", "Bel", "Cora", "Dura", "Esk", "Fjäll", "Gala", "Hawk", "Inno", "Jade", "Kestrel",
    "Łado", "Mira", "Novo", "Orchid", "Pine", "Quanta", "Río", "Stella", "Terra", "Ursa", "Vega", "Willow",
)  # fmt: skip
BRAND_ENDS = ("vik", "mar", "works", "line", " & Co", " Labs", "haus", "ette", " 工房", "ia")
COUNTRIES = ("US", "IN", "DE", "BR", "JP", "GB", "FR", "GR", "PL", "NG")
COUNTRY_SHARES = (0.28, 0.18, 0.12, 0.1, 0.09, 0.08, 0.06, 0.04, 0.03, 0.02)
GENDERS = ("f", "m", "x")
GENDER_SHARES = (0.49, 0.48, 0.03)

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Items:
    """The catalogue.

    Attributes:
        ids: item ids, [num_items].
        vector: [num_items, DIMENSION] float32.
        bias: [num_items] float32, the log of the item's popularity; popularities sum to 1.
        group: [num_items] int64, category and advertiser as one number, dense from 0.
        created_day: [num_items] int64, day of the log on whose midnight the item is created; 0 and less: before it.
        table: the columns of items.csv, values missing as in a real catalogue.
    """

    ids: pa.Array
    vector: Floats
    bias: Floats
    group: Ints
    created_day: Ints
    table: pa.Table


@dataclass(frozen=True)
class Users:
    """The population.

    Attributes:
        ids: user ids, [num_users].
        vector: [num_users, DIMENSION] float32.
        joined_day: [num_users] int64, the first day of the log on which the user may appear.
        activity: [num_users] float64, the user's share of the log's events.
        table: the columns of users.csv, values missing as in a real table.
    """

    ids: pa.Array
    vector: Floats
    joined_day: Ints
    activity: npt.NDArray[np.float64]
    table: pa.Table


@dataclass(frozen=True)
class Space:
    """The directions in the latent space of the columns' values, each row of length 1."""

    category: Floats
    gender: Floats
    country: Floats
    age: Floats
    price: Floats


def make_space(rng: np.random.Generator) -> Space:
    """Draws the directions."""
    return Space(
        category=_draw_directions(rng, len(CATEGORIES)),
        gender=_draw_directions(rng, len(GENDERS)),
        country=_draw_directions(rng, len(COUNTRIES)),
        age=_draw_directions(rng, 2),
        price=_draw_directions(rng, 1),
    )


def make_items(rng: np.random.Generator, space: Space, count: int, days: int) -> Items:
    """Draws a catalogue of `count` items for a log of `days` days."""
    advertisers_each = min(max(count // (len(CATEGORIES) * 16), 2), 20)  # of a category
    category = rng.choice(len(CATEGORIES), count, p=_make_shares(len(CATEGORIES)))
    advertiser = category * advertisers_each + rng.integers(0, advertisers_each, count)
    log_price = rng.normal(0.0, 1.0, count).clip(-2, 2)
    price = np.exp(2.5 + 0.15 * category + 0.8 * log_price).round(2)
    parts = (
        CATEGORY_PART * space.category[category],
        ADVERTISER_PART * _draw_directions(rng, len(CATEGORIES) * advertisers_each)[advertiser],
        PRICE_PART * log_price[:, None] * space.price,
        OWN_PART * _draw_directions(rng, count),
    )
    popularity = (1.0 + rng.permutation(count)) ** -ZIPF_EXPONENT
    new = rng.permutation(count) < round(NEW_ITEMS * count) if days > 1 else np.zeros(count, bool)
    created_day = np.where(new, rng.integers(1, max(days, 2), count), -rng.integers(0, 90, count))
    ids = number_ids("i", np.arange(count), 5)
    table = pa.table(
        {
            "item_id": ids,
            "title": _make_titles(category),
            "category": insert_missing(rng, "category", take_names(list(CATEGORIES), category)),
            "advertiser": insert_missing(rng, "advertiser", take_names(_make_brands(advertisers_each), advertiser)),
            "price": insert_missing(rng, "price", pa.array(price)),
            "created": pa.array(START + SECONDS_PER_DAY * created_day),
        }
    )
    return Items(
        ids=ids,
        vector=sum(parts).astype(np.float32),  # type: ignore[union-attr]
        bias=np.log(popularity / popularity.sum()).astype(np.float32),
        group=np.unique(advertiser, return_inverse=True)[1].astype(np.int64),
        created_day=created_day,
        table=table,
    )


def make_users(rng: np.random.Generator, space: Space, count: int, days: int) -> Users:
    """Draws a population of `count` users for a log of `days` days."""
    interested = _draw_interests(rng, count)
    age = (18 + 62 * rng.beta(1.6, 2.6, count)).astype(np.int64)
    gender = rng.choice(len(GENDERS), count, p=GENDER_SHARES)
    country = rng.choice(len(COUNTRIES), count, p=COUNTRY_SHARES)
    turn = 2 * np.pi * (age - 18) / 80  # tastes move along a curve as people grow older
    taste = _normalize(interested @ space.category)
    taste = taste + AGE_TASTE * (np.stack([np.cos(turn), np.sin(turn)], axis=1) @ space.age)
    taste = taste + GENDER_TASTE * space.gender[gender] + COUNTRY_TASTE * space.country[country]
    taste = taste + OWN_TASTE * _draw_directions(rng, count)
    late = rng.random(count) < LATE_USERS
    joined_day = np.where(late, rng.integers(0, days, count), 0)
    activity = rng.lognormal(0.0, 0.9, count) * (days - joined_day)
    ids = number_ids("u", np.arange(count), 6)
    table = pa.table(
        {
            "user_id": ids,
            "age": insert_missing(rng, "age", pa.array(age)),
            "gender": insert_missing(rng, "gender", take_names(GENDERS, gender)),
            "country": insert_missing(rng, "country", take_names(COUNTRIES, country)),
            "interests": insert_missing(rng, "interests", _join_names(list(CATEGORIES), interested)),
        }
    )
    return Users(
        ids=ids,
        vector=(USER_NORM * _normalize(taste)).astype(np.float32),
        joined_day=joined_day,
        activity=activity / activity.sum(),
        table=table,
    )


def number_ids(prefix: str, numbers: Ints, digits: int) -> pa.Array:
    """Formats `numbers` as ids: the prefix and at least `digits` digits, all of the same length."""
    digits = max(digits, len(str(int(numbers[-1])))) if len(numbers) else digits
    padded = pc.utf8_lpad(pc.cast(pa.array(numbers), pa.string()), digits, "0")
    return pc.binary_join_element_wise(prefix, padded, "")


def take_names(names: Any, codes: Ints) -> pa.Array:
    """Returns the name of every code, as text."""
    return pa.array(names, pa.string()).take(pa.array(codes))


def insert_missing(rng: np.random.Generator, column: str, values: pa.Array) -> pa.Array:
    """Replaces the share `MISSING[column]` of `values` by null."""
    missing = pa.array(rng.random(len(values)) < MISSING[column])
    return pc.if_else(missing, pa.scalar(None, values.type), values)


def _normalize(vectors: npt.NDArray[Any]) -> npt.NDArray[Any]:
    unit: npt.NDArray[Any] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _draw_directions(rng: np.random.Generator, count: int) -> Floats:
    return _normalize(rng.normal(size=(count, DIMENSION))).astype(np.float32)


def _make_shares(count: int) -> npt.NDArray[np.float64]:
    weights = np.reciprocal(3.0 + np.arange(count, dtype=np.float64))
    return np.asarray(weights / weights.sum(), np.float64)


def _draw_interests(rng: np.random.Generator, count: int) -> npt.NDArray[np.bool_]:
    """Draws one to three categories for each user, [count, categories]."""
    order = np.argsort(rng.random((count, len(CATEGORIES))), axis=1)
    return order < rng.choice([1, 2, 3], count, p=[0.45, 0.4, 0.15])[:, None]


def _join_names(names: list[str], chosen: npt.NDArray[np.bool_]) -> pa.Array:
    """Joins the names that each row chose by `|`."""
    offsets = np.concatenate([[0], chosen.sum(axis=1).cumsum()]).astype(np.int32)
    lists = pa.ListArray.from_arrays(pa.array(offsets), take_names(names, np.nonzero(chosen)[1]))
    return pc.binary_join(lists, "|")


def _make_titles(category: Ints) -> pa.Array:
    nouns = list(CATEGORIES.values())
    seen = [0] * len(nouns)
    titles = []
    for code in category.tolist():
        number = seen[code]
        seen[code] += 1
        edition, place = divmod(number, len(ADJECTIVES) * len(nouns[code]))
        # The two lengths share a factor; stepping the noun along with each round reaches every pair once.
        noun = nouns[code][(place + place // len(ADJECTIVES)) % len(nouns[code])]
        title = f"{ADJECTIVES[place % len(ADJECTIVES)]} {noun}"
        titles.append(f"{title} {edition + 1}" if edition else title)
    return pa.array(titles, pa.string())


def _make_brands(each: int) -> list[str]:
    """Returns a name for each advertiser of each category."""
    names = [start + end for end in BRAND_ENDS for start in BRAND_STARTS]
    return names[: each * len(CATEGORIES)]
