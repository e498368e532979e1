"""The page at `/`, in a real browser: it shows what the service answers, and loads nothing from elsewhere."""

import pytest

from tests.serve.browser import opened
from tests.serve.running import running

TABLE = "[...document.querySelectorAll('#%s tbody tr')].map((row) => [...row.cells].map((cell) => cell.textContent))"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with opened(tmp_path_factory.mktemp("profile")) as found:
        yield found


def expected(answer):
    (found,) = answer["predictions"]
    rows = zip(found["item_ids"], found["item_names"], found["scores"], strict=True)
    return [[str(rank), item, name, f"{score:.4f}"] for rank, (item, name, score) in enumerate(rows, 1)]


def test_a_person_picks_a_user_types_another_and_looks_at_an_item(tiny, browser):
    model = tiny.get("/page.json")[1]
    browser.call("Page.navigate", url=tiny.url("/"))
    first = browser.wait(f"(() => {{ const rows = {TABLE % 'recommended'}; return rows.length ? rows : null; }})()")
    body = {"k": 10, "names": True}
    assert first == expected(tiny.post("/v1/models/tiny:recommend", {"instances": [model["examples"][0]], **body})[1])
    shown = browser.evaluate("document.getElementById('version').textContent")
    assert "version 7" in shown and "150 items" in shown and "measured recall 1" in shown
    history = browser.evaluate("document.getElementsByName('feature:history')[0].value")
    assert history.split("|") == model["examples"][0]["history"]

    browser.evaluate("document.querySelector('#recommended td button').click()")
    near = browser.wait(f"(() => {{ const rows = {TABLE % 'similar'}; return rows.length ? rows : null; }})()")
    assert near == expected(tiny.post("/v1/models/tiny:similar", {"item": first[0][1], **body})[1])

    browser.evaluate(
        "document.querySelectorAll('#features input').forEach((each) => { each.value = ''; });"
        "document.getElementsByName('feature:user_id')[0].value = 'u000003';"
        "document.getElementsByName('feature:interests')[0].value = 'sports|health';"
        "document.getElementById('k').value = '3'; document.getElementById('filter').value = 'price > 20';"
        "document.getElementById('form').requestSubmit()"
    )
    user = {"user_id": "u000003", "interests": ["sports", "health"]}
    request = {"instances": [user], "k": 3, "filter": "price > 20", "names": True}
    wanted = expected(tiny.post("/v1/models/tiny:recommend", request)[1])
    browser.wait(f"{TABLE % 'recommended'}.length === 3")
    assert browser.evaluate(TABLE % "recommended") == wanted

    browser.evaluate(
        "document.getElementById('filter').value = 'prise > 20'; document.getElementById('form').requestSubmit()"
    )
    assert "did you mean 'price'?" in browser.wait("document.getElementById('problem').textContent")

    sent = [each["params"] for each in browser.events if each["method"] == "Network.requestWillBeSent"]
    urls = [each["request"]["url"] for each in sent]
    assert urls and all(url.startswith(tiny.url("/")) for url in urls)
    assert [each for each in browser.events if each["method"] == "Runtime.exceptionThrown"] == []


def test_the_page_asks_for_the_token(served_root, browser):
    with running(served_root, grpc_port=0, token="s3cret") as service:
        browser.call("Page.navigate", url=service.url("/"))
        browser.wait("document.getElementById('problem').textContent.includes('bearer token')")
        assert browser.evaluate("document.getElementById('secret').hidden") is False
        browser.evaluate(
            "document.getElementById('token').value = 's3cret'; document.getElementById('form').requestSubmit()"
        )
        assert len(browser.wait(f"{TABLE % 'recommended'}.length && {TABLE % 'recommended'}")) == 10


def test_the_page_can_be_switched_off(served_root):
    with running(served_root, grpc_port=0, page=False) as service:
        assert service.send("GET", "/").status == service.send("GET", "/page.json").status == 404
