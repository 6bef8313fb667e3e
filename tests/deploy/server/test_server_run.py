"""A server that runs: state machine, disk and service together, over loopback."""

import asyncio
from typing import Any

import pytest
from deploy_toy import QUICK
from machines import Desk, check_in, plain, put, with_settings

import fedjaxlite as fl
from fedjaxlite.deploy.device import enrolling, link
from fedjaxlite.deploy.device.protocol import Message
from fedjaxlite.deploy.server.disk.journal import open_at
from fedjaxlite.deploy.server.run import running, serve
from fedjaxlite.transport import authority, client_context


async def _client(port: int, token: str, values: list[float]) -> Any:
    enrolled = await enrolling.enroll("127.0.0.1", port, token, random=lambda: 0.5)
    line = link.link_to("127.0.0.1", port, client_context(enrolled.credentials), random=lambda: 0.5, timeouts=QUICK)
    pending = -1
    while True:
        reply = await link.ask(line, check_in(pending=pending))
        if reply.head.get("settled", -1) >= 0:
            assert reply.head["counted"]
            pending = -1
        if reply.kind == "finished":
            await link.close(line)
            return enrolled.client
        if reply.kind == "wait":
            await asyncio.sleep(0.05)
            continue
        number = reply.head["round"]
        model = await link.ask(line, Message("get", {"sha256": reply.head["model"], "offset": 0}))
        assert len(model.body) == 4
        assert (await link.ask(line, put(values[number], number))).kind == "taken"
        pending = number


def test_a_run_over_loopback_ends_and_another_process_finds_it_ended(tmp_path) -> None:
    authority.create(tmp_path / "authority")
    tokens = [authority.new_token(tmp_path / "authority") for _ in range(3)]
    server, told = with_settings()._replace(num_rounds=2), []

    async def both() -> Any:
        port = asyncio.get_running_loop().create_future()
        served = asyncio.create_task(
            serve(
                *(server, tmp_path / "run", tmp_path / "authority"),
                stay=0.2,
                every=0.05,
                timeouts=QUICK,
                on_listening=port.set_result,
                on_record=told.append,
            )
        )
        at = await port
        found = await asyncio.gather(*(_client(at, token, [1.0, float(i)]) for i, token in enumerate(tokens)))
        return await served, found

    state, found = asyncio.run(both())
    assert sorted(found) == [0, 1, 2]
    assert (state.phase, float(state.rounds.params)) == ("finished", -2.0)
    lines = fl.observers.records.read(tmp_path / "run" / "records.jsonl")
    assert [line["round"] for line in lines] == [line["round"] for line in told] == [1, 2]
    assert all(line["wire_up"] > line["bytes_up"] and line["wire_down"] > line["bytes_down"] for line in lines)
    again = running(server, open_at(tmp_path / "run"))
    assert again.answer(1, check_in(pending=1)).head == {"rounds": 2, "settled": 1, "counted": True}


def test_a_reply_is_lost_and_nothing_is_promised_where_the_disk_fails() -> None:
    desk = Desk(plain())
    desk.all_in(range(3))

    def full(path: str, data: bytes) -> None:
        raise OSError("No space left on device")

    at = running(desk.server, desk.journal._replace(keep=full), clock=lambda: 0.0)
    with pytest.raises(OSError, match="No space left"):
        at.answer(1, put(1.0))
    assert at.state().open is not None
    assert not at.state().open.taken
