"""`recommend` and `similar`: what may be answered, from the command line."""

import json

import pytest

from twotower_tf.bundle.bundle import Bundle
from twotower_tf.cli.main import main


@pytest.fixture
def asked(export_dir, capsys):
    """Runs a command and returns its status, its JSON lines, and what it says of errors."""

    def ask(command, *flags):
        status = main([command, f"--export_dir={export_dir}", *flags])
        out, err = capsys.readouterr()
        return status, [json.loads(line) for line in out.splitlines()], err

    return ask


def test_filter_blocklist_and_exclusions(asked, export_dir, tmp_path):
    items = Bundle.open(export_dir).items.to_pylist()
    cheap = [item["item_id"] for item in items if item["price"] is not None and item["price"] < 20]
    assert 10 < len(cheap) < 140
    (tmp_path / "gone.txt").write_text(cheap[1])
    status, (answer,), _ = asked(
        "recommend", "--user={}", "--k=150", "--filter=price < 20", f"--blocklist={tmp_path / 'gone.txt'}",
        f"--exclude={cheap[0]}",
    )  # fmt: skip
    assert status == 0
    assert set(answer["item_ids"]) == set(cheap[2:])
    status, (answer,), _ = asked("similar", f"--item={cheap[5]}", "--k=150", "--filter=price < 20")
    assert status == 0
    assert set(answer["item_ids"]) == set(cheap) - {cheap[5]}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--filter=prise < 20"], "twotower recommend: filter: unknown column 'prise'; did you mean 'price'? known: "),
        (["--filter=price <"], "twotower recommend: filter: invalid expression 'price <' (syntax error at or near"),
        (["--blocklist=/nowhere/at/all.txt"], "twotower recommend: blocklist /nowhere/at/all.txt: no such file\n"),
        ([f"--blocklist={'b' * 5000}"], f"twotower recommend: {'b' * 200}...: File name too long\n"),
        ([f"--filter={'x' * 10_001}"], "twotower recommend: filter: invalid length 10,001 (expected at most 10,000 "),
        (["--k=1001"], "twotower recommend: --k: invalid value 1001 (expected 1 to 1000); raise --max_k for more\n"),
        (["--k=11", "--max_k=10"], "--k: invalid value 11 (expected 1 to 10); raise --max_k for more\n"),
        ([f"--k={10**30}"], f"--k: invalid value {10**30} (expected 1 to 1000); raise --max_k for more\n"),
        (
            [f"--user={'[' * 100_000}{']' * 100_000}"],
            f"--user: nested too deeply (expected at most 10 levels): {'[' * 100}...; write e.g. --user=",
        ),
        (["--user=" + '{"a":' * 12 + "1" + "}" * 12], "--user: nested too deeply (expected at most 10 levels): "),
        (["--user={" + "x" * 1000], "xxxx...; write e.g. --user="),
    ],
)
def test_unusable_input_is_one_line(asked, flags, message):
    status, _, error = asked("recommend", "--user={}", *flags)
    assert status == 2
    assert message in error and error.count("\n") == 1


def test_a_k_beyond_the_catalogue_answers_all_of_it(asked):
    """Any integer, however large, is one line."""
    for command, one, count in (("recommend", "--user={}", 150), ("similar", "--item=i00042", 149)):
        status, (answer,), _ = asked(command, one, f"--k={10**30}", f"--max_k={10**30}")
        assert status == 0 and len(set(answer["item_ids"])) == len(answer["item_ids"]) == count


def test_items_by_name_and_names_on_request(asked, export_dir):
    titles = {item["item_id"]: item["item_name"] for item in Bundle.open(export_dir).items.to_pylist()}
    _, (by_id,), _ = asked("similar", "--item=i00042", "--k=3")
    status, (by_name,), _ = asked("similar", f"--item={titles['i00042']}", "--k=3", "--names")
    assert status == 0 and by_name.pop("item_names") == [titles[item] for item in by_id["item_ids"]]
    assert by_name == by_id
    _, (answer,), _ = asked("recommend", "--user={}", "--k=3", "--names")
    assert list(answer) == ["user", "item_ids", "item_names", "scores", "model_version"]
    assert answer["item_names"] == [titles[item] for item in answer["item_ids"]]
    status, _, error = asked("similar", "--item=nothing of the kind")
    assert status == 2 and "not the id or the name of one of the 150 items" in error


def test_similar_and_score_have_the_same_bound(asked, tmp_path):
    bound = "--k: invalid value 1001 (expected 1 to 1000); raise --max_k for more\n"
    assert asked("similar", "--item=i00042", "--k=1001") == (2, [], f"twotower similar: {bound}")
    flags = ("--users=nowhere", f"--output={tmp_path / 'answers'}", "--k=1001")
    assert asked("score", *flags) == (2, [], f"twotower score: {bound}")


def test_a_name_too_long_for_a_file_is_one_line(asked, tmp_path):
    status, _, error = asked("score", f"--users={tmp_path / ('u' * 300)}.csv", f"--output={tmp_path / 'answers'}")
    assert status == 2 and "Traceback" not in error
    status, _, error = asked("recommend", "--user={}", f"--export_dir={'e' * 4096}")
    assert status == 2 and "Traceback" not in error and error.count("\n") == 1


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("feature", ["age", "country", "timestamp", "history"])
def test_values_that_json_lacks_are_one_line(asked, feature, number):
    user = f'{{"{feature}": {f"[{number}]" if feature == "history" else number}}}'
    status, answers, error = asked("recommend", f"--user={user}")
    assert (status, answers) == (2, [])
    assert error == (
        f"twotower recommend: --user: not JSON ({number} is not a JSON value): {user}; "
        """write e.g. --user='{"user_id": "u1"}'\n"""
    )


def test_null_is_no_value(asked):
    nothing = '{"age": null, "country": null, "timestamp": null, "history": [null], "interests": null}'
    status, (answer,), _ = asked("recommend", f"--user={nothing}", "--k=5")
    assert status == 0
    assert answer["item_ids"] == asked("recommend", "--user={}", "--k=5")[1][0]["item_ids"]
