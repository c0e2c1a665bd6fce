"""The examples of the API's description are true: a gateway answers so today."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from tests.examples.recorder import RECORDED, Recorder, as_json, is_alike, write
from tests.examples.story import FIRST, LAST, MACHINE, tell
from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.guests.made import sweep
from tests.pvesim.api import machines, storages
from tests.pvesim.api.process import Api as PveProcess


@pytest.fixture(scope="module")
def api(gateway: Gateway, pve: PveProcess) -> Iterator[Api]:
    """The API as a token that may do all to the story's guests, one of which is a machine."""
    machine = machines.create(MACHINE)
    opened = gateway.api(gateway.token("storyteller", actions="all", guests=f"{FIRST}-{LAST}"))
    yield opened
    opened.close()
    machine.destroy()
    sweep(FIRST, LAST)
    for left in storages.find("shared").place("vztmpl").glob("alpine-*"):
        left.unlink()


def test_examples_are_true(api: Api, pve: PveProcess) -> None:
    """The story, told to this gateway, is answered as it was when it was recorded; ids, times and figures differ."""
    recorder = Recorder(api)
    tell(recorder, pve)
    if os.environ.get("RECORD_EXAMPLES"):
        print("recorded anew:", write(recorder.exchanges))
        return
    differing = [
        operation_id
        for operation_id, told in recorder.exchanges.items()
        if not is_alike(json.loads((RECORDED / f"{operation_id}.json").read_text()), as_json(told))
    ]
    assert not differing, f"answered in another shape than was recorded (make examples): {differing}"
