"""Lists usual names of columns and values in logs, by what they mean, in lower case, letters and digits only."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from twotower_tf.onboarding.column_profile import Profile

# Nouns of users and items, likeliest first; a column has one alone or with a suffix: `user`, `userId`, `USER_KEY`.
USERS = (
    "user uid customer cust member visitor fullvisitor userpseudo anonymous distinct account acct client profile "
    "person subscriber shopper reader viewer listener player buyer reviewer rater household msno username login email "
    "guest passenger patient student learner who device cookie session visit deviceip ip"
).split()
PEOPLE = frozenset("user customer visitor member author reviewer account actor owner sender creator person".split())
ITEMS = (
    "item product prod prop sku asin parentasin stockcode stockitem stock isbn ean upc gtin barcode movie film ad "
    "creative article news video clip song track book anime manga game beer wine poi business restaurant recipe dish "
    "venue place location listing property hotel job vacancy post doc document paper content course offer deal goods "
    "good merchandise material artist band album show episode podcast campaign banner coupon thing question what"
).split()
# Names of items in some logs, and of a user's context in others.
AMBIGUOUS_ITEMS = "app url page channel station site tag term model category".split()
# Of rows that belong together where no column names a user.
GROUPS = (
    "order basket cart invoice transaction receipt bill ticket playlist trip purchase list request impression search "
    "srch"
).split()
ID_SUFFIXES = "id ids code no nr num number key uri hash idx index sk uid uuid guid".split()
TIMES = (
    "timestamp time ts eventtime eventtimestamp datetime createdat occurredat date when unixtime unixreviewtime "
    "reviewtime invoicedate orderdate hour day position rank order seq sequence step"
).split()
PER_USER_TIMES = frozenset("position rank order seq sequence step".split())  # orders where no user has one twice
TITLES = (
    "title name itemname productname producttitle itemtitle movietitle headline songname trackname artistname "
    "booktitle description"
).split()
LISTS = (
    "requestid listid impressionid searchid queryid pageviewid auctionid serpid request slateid srchid sessionid "
    "visitid"
).split()
PLACES = "position rank slot pos place displayorder listposition".split()
DATE_PARTS = frozenset("year month day hour minute second week quarter date dt ds".split())
SPLITS = frozenset("split fold set subset partition dataset phase part".split())
SPLIT_VALUES = frozenset("train training valid validation val dev test testing eval holdout".split())

# Words of a user's context: such a column is not the recommended item, and its 0 and 1 are not an outcome.
CONTEXT = frozenset(
    "device site app ip geo country region city zip browser os referrer referer language locale model domain user page "
    "url session agent network carrier conn connection type category gender age sex".split()
)
CIRCUMSTANCES = CONTEXT | frozenset(
    "mobile desktop weekend weekday holiday night premium vip logged login registered returning new first promo "
    "promotion discount discounted sale available stock verified anonymous pos position slot".split()
)

LABELS = (
    "label click clicked isclick isclicked converted conversion isconverted purchase purchased bought like liked "
    "target y response installed engaged watched"
).split()
LABEL_WORDS = frozenset(
    "label click clicked clicks converted convert conversion purchase purchased bought buy like liked likes target "
    "y response responded installed install engaged watched finished finish completed complete played booked "
    "booking ordered applied apply subscribed signup opened open added favorite favourite favorited saved shared "
    "voted recommended reward outcome success accepted interest interested positive attributed downloaded visited "
    "viewed longview effective".split()
)
REJECTION_WORDS = frozenset(
    "skip skipped dislike disliked hide hidden hated hate bounce bounced block blocked returned refunded cancelled "
    "canceled reported spam removed rejected declined unsubscribed ignored".split()
)
RATING_WORDS = frozenset("rating ratings stars star score grade overall mark".split())
COUNT_WORDS = frozenset(
    "count counts plays play playcount listens weight quantity qty amount frequency freq times hours minutes seconds "
    "secs sec mins hrs duration dwell watch watchtime playtime playratio listened read readtime ratio progress "
    "completion spend spent revenue payout total views clicks".split()
)
QUANTITY_WORDS = frozenset("quantity qty amount units".split())  # negative where something is returned
BEFORE_WORDS = frozenset("past prior history avg mean last previous before since lag".split())
VOTE_WORDS = frozenset("helpful useful funny cool votes upvotes downvotes".split())  # of readers of a review
PRICE_WORDS = frozenset("price prices cost paid disc discount revenue".split())  # of the item taken
REPEAT_WORDS = frozenset("reorder reordered repurchase repurchased repeat repeated".split())  # of what one had before
AFTER_WORDS = VOTE_WORDS | frozenset(
    "rating stars dwell watch revenue purchase purchased bought converted conversion liked order ordered clicked click "
    "label played skipped feedback review payout vote".split()
)
ACTIONS = frozenset(
    "event action behavior behaviour interaction activity feedback verb operation op reaction eventtype actiontype "
    "eventname response status".split()
)
_ACTION_FILLERS = frozenset("event action user type kind name id code category".split())
# What a person does with an item, weakest first.
REJECTED = frozenset(
    "skip skipped dislike disliked hide hidden remove removed removefromcart removecart unlike unfollow unsubscribe "
    "return returned refund refunded cancel cancelled canceled bounce report reported block blocked delete deleted "
    "notinterested negative ignore ignored decline declined reject rejected thumbsdown downvote no".split()
)
SHOWN = frozenset("impression impressions impr imp show shown exposure expose exposed display displayed serve".split())
LOOKED = frozenset(
    "view views viewed pageview pv click clicked clicks detail details productdetail open opened visit visited read "
    "play played watch watched listen listened search preview hover browse".split()
)
WANTED = frozenset(
    "addtocart cart tocart addcart basket addtobasket fav favorite favourite favorited like liked save saved wishlist "
    "addtowishlist bookmark share shared follow followed comment commented collect collected rate rated upvote "
    "download downloaded install installed complete completed finish finished yes positive thumbsup checkout".split()
)
TAKEN = frozenset(
    "transaction transactions purchase purchased buy bought order ordered sale sold conversion converted convert paid "
    "pay payment booking booked book apply applied subscribe subscribed signup".split()
)
_PREFIX = re.compile(
    "^(hashed|encoded|encrypted|masked|anonymi[sz]ed|pseudonymi[sz]ed|lineitem|orderline|target|clicked|viewed|purchased)"
    "(?=.)"
)
_OF_IDS = re.compile(f"({'|'.join([*ID_SUFFIXES, 'sku', 'asin', 'isbn', 'ean'])})*")
KNOWN_ACTIONS = REJECTED | SHOWN | LOOKED | WANTED | TAKEN


def strip_prefix(column: Profile) -> str:
    """Returns the plain name of a column without a word such as `hashed` or `lineitem` before it."""
    return _PREFIX.sub("", column.plain)


def match_ids(nouns: Sequence[str], columns: Mapping[str, Profile]) -> list[str]:
    """Returns the columns named by one of the nouns, with or without words of ids, likeliest first.

    As `user`, `userId`, `hashed_user_id`, `product_sku_hash`, `Lineitem sku`.
    """
    found = []
    for name, column in columns.items():
        plain = strip_prefix(column)
        for place, noun in enumerate(nouns):
            rest = plain.removeprefix(noun)
            if plain.startswith(noun) and _OF_IDS.fullmatch(rest):
                form = 0 if rest == "id" else 1 if not rest else 2
                found.append((place, form, name))
                break
    return [name for _, _, name in sorted(found)]


def plain_value(value: str) -> str:
    """Returns a value in lower case, letters and digits only: `add_to_cart` is addtocart."""
    return re.sub(r"[\W_]", "", value).lower()


def is_action_name(column: Profile) -> bool:
    """Tests whether a column's name says that its values are actions, such as `event`, `action_type`."""
    words = set(column.tokens)
    return column.plain in ACTIONS or (bool(words & ACTIONS) and words <= ACTIONS | _ACTION_FILLERS)


def describes_past(column: Profile) -> bool:
    """Tests whether a name says that the value was known before the event: `clicks_7d`, `spent_before`."""
    return bool(BEFORE_WORDS & set(column.tokens)) or any(
        re.fullmatch(r"\d+|d|h|\d+[dh]", token) for token in column.tokens
    )
