"""`pvex audit`: who has done what."""

from __future__ import annotations

from typing import Any

import click

from pvex.completion import complete_guests, complete_tokens
from pvex.context import Context
from pvex.show import cut, dump, plain, show_list


@click.command()
@click.option("--guest", shell_complete=complete_guests, help="Only records about this guest.")
@click.option("--token", shell_complete=complete_tokens, help="Only records of, or about, the token with this id.")
@click.option("--exec", "exec_id", help="Only records about this exec.")
@click.option("--event", multiple=True, help="Only such records: exec:intent, request:denied, ... Repeatable.")
@click.option("--since", help="Written at this time or later (RFC 3339).")
@click.option("--until", help="Written before this time.")
@click.option("-n", "--last", type=click.IntRange(1), default=50, show_default=True, help="How many at most.")
@click.option("--verify", is_flag=True, help="Instead: whether the log is as it was written; 125 where it is not.")
@click.pass_obj
def audit(context: Context, /, guest: str | None, verify: bool, last: int, **query: Any) -> None:
    """Show the audit log, the newest record last."""
    from pvex.guests import find_vmid

    if verify:
        _verify(context)
        return
    vmid = find_vmid(context.api, guest) if guest else None
    records = list(context.api.pages("/audit", "records", {**query, "vmid": vmid}, most=last))[::-1]
    columns = {
        "TIME": lambda one: one["ts"][:19],
        "EVENT": lambda one: one["event"],
        "TOKEN": lambda one: (one.get("actor") or {}).get("name"),
        "VMID": lambda one: one.get("vmid"),
        "WHAT": lambda one: cut(_what(one), 60),
    }
    show_list(context.output, records, columns)


def _what(record: dict[str, Any]) -> str:
    data = record.get("data") or {}
    command = data.get("command")
    if isinstance(command, list):
        return " ".join(map(str, command))
    return str(data.get("reason") or data.get("code") or record.get("exec_id") or plain(None))


def _verify(context: Context) -> None:
    from pvex.errors import ClientError

    after = None
    count = 0
    while True:
        part = context.api.get("/audit/verify", {"after": after}, wait=60)
        count += part["records"] or 0
        if not part["good"]:
            fault = part["fault"]
            if fault is None:
                raise ClientError("the log is not as it was written; where is told to a token with audit:read of all")
            raise ClientError(f"{fault['file']}, line {fault['line']}: {fault['wrong']}: {fault['detail']}")
        if part["next"] is None:
            break
        after = part["next"]
    records = None if part["records"] is None else count
    if context.output != "table":
        dump(context.output, {"good": True, "records": records})
    else:
        click.echo(f"{'all' if records is None else records} records are as they were written")
