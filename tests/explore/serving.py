"""The page of ``vlae-codec explore``, served while a test runs."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conftest import GOLDEN

from vlae_codec.explore import server
from vlae_codec.explore.digits import Choice


@contextmanager
def served(models: list[Path]) -> Iterator[str]:
    """The address of a page with these models, and a tiny one for photographs."""
    choices = [Choice(path.stem, str(path)) for path in models]
    with server.running(server.create_app(choices, str(GOLDEN / "tiny.safetensors"), "cpu")) as address:
        yield address


def get(
    address: str, name: str, data: bytes | None = None, headers: dict[str, str] | None = None, /, **query: Any
) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers of an answer."""
    url = f"{address}{name}?{urllib.parse.urlencode(query)}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers or {})) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read(), dict(error.headers)


def ask(address: str, name: str, data: bytes | None = None, /, **query: Any) -> dict[str, Any]:
    """A JSON answer, which must be none of an error."""
    status, body, _ = get(address, f"/api/{name}", data, None, **query)
    assert status == 200, body
    return json.loads(body)


def refusal(address: str, name: str, data: bytes | None = None, /, **query: Any) -> str:
    """The sentence with which something is refused."""
    status, body, _ = get(address, f"/api/{name}", data, None, **query)
    assert status == 400, body
    return json.loads(body)["error"]
