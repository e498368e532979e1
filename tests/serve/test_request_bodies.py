"""Bodies: bounded in bytes, in time, and all together."""

import asyncio
import socket
import threading
import time

import pytest

from tests.serve.running import ROW, running
from twotower_tf.serve import json_tensors
from twotower_tf.serve.request_bodies import BodyReader
from twotower_tf.serve.service_errors import ServiceError


class Upload:
    """A request whose body arrives in two parts, the second when it may."""

    headers = {}

    def __init__(self):
        self.go = asyncio.Event()

    async def stream(self):
        yield b"x" * 5
        await self.go.wait()
        yield b"y" * 5


def test_all_bodies_together_are_bounded():
    """16 of the largest size are held; one more is refused, and there is room when they are done."""

    async def scenario():
        reader = BodyReader(10)
        uploads = [Upload() for _ in range(33)]

        async def read(upload):
            async with reader.read(upload, 10.0) as body:
                return body

        held = [asyncio.ensure_future(read(each)) for each in uploads[:32]]  # 5 bytes each: 160 in all
        await asyncio.sleep(0.01)
        with pytest.raises(ServiceError) as caught:
            await read(uploads[32])
        assert caught.value.code == "RESOURCE_EXHAUSTED"
        for each in held[16:]:
            each.cancel()
        await asyncio.sleep(0)
        for each in uploads:
            each.go.set()
        assert await asyncio.gather(*held[:16], read(uploads[32])) == [b"xxxxxyyyyy"] * 17

    asyncio.run(scenario())


def test_a_body_that_does_not_arrive_is_not_waited_for(served_root):
    with running(served_root, grpc_port=0, timeout_seconds=0.3, page=False) as service:
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", service.options.rest_port), timeout=30) as raw:
            raw.sendall(b"POST /v1/models/tiny:recommend HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
            answer = b""
            while not answer.endswith(b"}"):
                answer += raw.recv(10_000)
    assert answer.startswith(b"HTTP/1.1 504 ") and b"Deadline exceeded while the body was read" in answer
    assert time.monotonic() - began < 20


def test_large_bodies_and_answers_are_converted_in_a_thread(tiny, monkeypatch):
    """The event loop goes on: a request of another client does not wait for them."""
    names = []
    parse = json_tensors.parse_object

    def parse_and_note(body):
        names.append(threading.current_thread().name)
        return parse(body)

    monkeypatch.setattr(json_tensors, "parse_object", parse_and_note)
    small = tiny.post("/v1/models/tiny:recommend", {"instances": [ROW], "k": 5})[1]["predictions"]
    status, answer = tiny.post("/v1/models/tiny:recommend", {"instances": [ROW] * 600, "k": 5})
    assert status == 200
    assert [each["item_ids"] for each in answer["predictions"]] == [small[0]["item_ids"]] * 600
    assert not names[0].startswith("large") and names[1].startswith("large")
