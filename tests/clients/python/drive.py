"""Drives a gateway by the generated client and prints what it saw as JSON: see docs/clients.md."""

from __future__ import annotations

import json
import os
import ssl
import uuid
from collections.abc import Iterator

from pve_exec import (
    ApiClient,
    ApiException,
    Background,
    Command,
    Configuration,
    ContainerRequest,
    Exec,
    ExecEndEvent,
    ExecEvent,
    ExecOutputEvent,
    ExecRequest,
    ExecsApi,
    ExecState,
    FilesApi,
    GuestRequest,
    GuestsApi,
    Problem,
)


def connect() -> ApiClient:
    """A client of the gateway that the environment names."""
    client = ApiClient(Configuration(host=os.environ["GATEWAY_URL"], access_token=os.environ["GATEWAY_TOKEN"]))
    context = ssl.create_default_context(cafile=os.environ["GATEWAY_CA"])
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # from Python 3.13 on it would ask for what PVE's own CA lacks
    client.rest_client.pool_manager.connection_pool_kw["ssl_context"] = context
    return client


def stream(execs: ExecsApi, vmid: int, request: ExecRequest) -> Iterator[ExecEvent]:
    """The events of a command as they happen; the last one is its end."""
    reply = execs.run_exec_without_preload_content(
        vmid, request, idempotency_key=str(uuid.uuid4()), _headers={"Accept": "application/x-ndjson"}
    )
    if reply.status != 200:
        raise ApiException(http_resp=reply, data=Problem.from_json(reply.read().decode()))
    for line in reply:
        yield ExecEvent.from_json(line.decode())


def wait_for(execs: ExecsApi, exec_id: str) -> Exec:
    """The exec when it has ended: asked for again and again, each time for up to 30 seconds."""
    while True:
        found = execs.show_exec(exec_id, wait=30)
        if found.state is ExecState.ENDED:
            return found


def problem_of(exc: ApiException) -> Problem:
    """What the gateway said. Raises `exc` where it said nothing."""
    if not isinstance(exc.data, Problem):
        raise exc
    return exc.data


def main() -> None:
    vmid = int(os.environ["GATEWAY_VMID"])
    with connect() as client:
        execs, files, guests = ExecsApi(client), FilesApi(client), GuestsApi(client)

        container = ContainerRequest(vmid=vmid, template=os.environ["TEMPLATE"], storage="local-lvm")
        made = guests.create_guest(GuestRequest(container), wait=60)
        started = guests.start_guest(vmid, wait=60)
        running = next(guest.status for guest in guests.list_guests().guests if guest.vmid == vmid)

        result = execs.run_exec(vmid, ExecRequest(command=Command(["sh", "-c", "echo out; echo err >&2; exit 3"])))

        told = []
        script = "echo ready; until [ -e /tmp/go ]; do sleep 0.1; done; echo gone"
        for event in stream(execs, vmid, ExecRequest(command=Command(script))):
            match event.actual_instance:
                case ExecOutputEvent(type=name, data=data):
                    told.append(f"{name}: {data.strip()}")
                    if data == "ready\n":
                        files.write_file(vmid, "/tmp/go", body=b"now")
                case ExecEndEvent(exit_code=code):
                    told.append(f"end: {code}")

        later = ExecRequest(command=Command(["cat"]), stdin="later\n", background=Background.KILL)
        begun = execs.run_exec(vmid, later, prefer="respond-async")
        ended = wait_for(execs, begun.id)
        output = execs.read_stdout(begun.id).decode()

        content = bytes(range(256)) * 1024
        written = files.write_file(vmid, "/tmp/data", mode="0600", body=content)
        equal = files.read_file(vmid, "/tmp/data") == content

        try:
            guests.show_guest(999_999_999)
        except ApiException as exc:
            status, problem = exc.status, problem_of(exc)

        stopped = guests.stop_guest(vmid, wait=60)
        guests.delete_guest(vmid, confirm=vmid, wait=60)
    print(
        json.dumps(
            {
                "guest": [made.state, started.state, running, stopped.state],
                "run": [result.stdout, result.stderr, result.exit_code, result.reason],
                "stream": [told],
                "detached": [ended.exit_code, output],
                "file": [written.size, written.mode, equal],
                "problem": [status, problem.code, problem.vmid],
            }
        )
    )


if __name__ == "__main__":
    main()
