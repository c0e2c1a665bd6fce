"""`pvex nodes|storages|pools|nextid|health`: what there is beside guests, and whether the gateway can work."""

from __future__ import annotations

import sys
from typing import Any

import click

from pvex.completion import complete_nodes
from pvex.context import Context, note
from pvex.errors import FAILED, Problem
from pvex.show import dump, duration, show_list, size


@click.command()
@click.pass_obj
def nodes(context: Context, /) -> None:
    """List the nodes of the cluster."""
    columns = {
        "NAME": lambda one: one["name"],
        "STATUS": lambda one: "online" if one["online"] else "offline",
        "CPUS": lambda one: one["cpus"],
        "BUSY": lambda one: _percent(one["cpu_used"]),
        "MEMORY": lambda one: size(one["memory"]),
        "USED": lambda one: size(one["memory_used"]),
        "UPTIME": lambda one: duration(one["uptime"]),
    }
    show_list(context.output, list(context.api.pages("/nodes", "nodes")), columns)


@click.command()
@click.option("--node", shell_complete=complete_nodes, help="The node that sees them. Default: the gateway's.")
@click.option(
    "--content",
    type=click.Choice(["rootdir", "images", "vztmpl", "iso", "backup", "snippets"]),
    help="Only those that may hold this: disks of containers, of machines, templates, ...",
)
@click.pass_obj
def storages(context: Context, /, **query: str | None) -> None:
    """List the storages of a node."""
    columns = {
        "NAME": lambda one: one["name"],
        "TYPE": lambda one: one["type"],
        "STATUS": lambda one: "active" if one["active"] else "inactive" if one["enabled"] else "disabled",
        "SHARED": lambda one: one["shared"],
        "TOTAL": lambda one: size(one["total"]),
        "USED": lambda one: size(one["used"]),
        "FREE": lambda one: size(one["available"]),
        "CONTENT": lambda one: one["content"],
    }
    show_list(context.output, list(context.api.pages("/storages", "storages", query)), columns)


@click.command()
@click.pass_obj
def pools(context: Context, /) -> None:
    """List the resource pools, with the guests that the token may see."""
    columns = {
        "NAME": lambda one: one["name"],
        "GUESTS": lambda one: one["guests"],
        "COMMENT": lambda one: one["comment"],
    }
    show_list(context.output, list(context.api.pages("/pools", "pools")), columns)


@click.command()
@click.pass_obj
def nextid(context: Context, /) -> None:
    """Print the lowest vmid that is free and that the token may make a guest under. It is not reserved."""
    answer = context.api.get("/nextid")
    if context.output == "table":
        click.echo(answer["vmid"])
    else:
        dump(context.output, answer)


@click.command()
@click.pass_obj
def health(context: Context, /) -> None:
    """Show whether commands can run, and what is missing if not: 125 then."""
    try:
        answer: dict[str, Any] = context.api.get("/health/ready")
    except Problem as problem:
        if "checks" not in problem.document:
            raise
        answer = problem.document
    if context.output == "table":
        columns = {
            "CHECK": lambda one: one["name"],
            "OK": lambda one: one["ok"],
            "DETAIL": lambda one: one.get("detail"),
        }
        show_list("table", answer["checks"], columns)
    else:
        dump(context.output, answer)
    if answer["status"] != "ready":
        note("commands cannot run on this node")
        sys.exit(FAILED)


def _percent(part: float | None) -> str | None:
    return None if part is None else f"{part:.0%}"


CLUSTER_COMMANDS = (nodes, storages, pools, nextid, health)
