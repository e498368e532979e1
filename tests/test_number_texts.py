import pytest

from twotower_tf.number_texts import format_count, format_number, format_percent


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0 %"), (1e-7, "below 0.01 %"), (0.00012, "0.012 %"), (0.0996, "10 %"), (0.034, "3.4 %"), (0.1, "10 %"),
        (0.9949, "99 %"), (0.996, "99.6 %"), (0.99951, "above 99.9 %"), (1.0, "100 %"), (1.5, "150 %"),
    ],
)  # fmt: skip
def test_percent(share: float, text: str) -> None:
    assert format_percent(share) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (12_345, "12,345 rows")])
def test_count(count: int, text: str) -> None:
    assert format_count(count, "row") == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (3.0, "3"), (-2.5, "-2.5"), (0.1 + 0.2, "0.3"), (0.0000123, "0.0000123"), (123456.4, "123456"),
        (1234567.8, "1,234,568"), (1e15, "1,000,000,000,000,000"), (1 / 3, "0.333333"),
    ],
)  # fmt: skip
def test_number(value: float, text: str) -> None:
    assert format_number(value) == text
    assert float(format_number(value, "")) == float(text.replace(",", ""))
