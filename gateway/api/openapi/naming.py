"""What things are called for generated clients: tags and schemas."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from gateway.api.openapi.members import describe_members
from gateway.api.openapi.plain import make_plain
from gateway.api.route import Route
from gateway.api.schemas import REF, Schema

TAGS = {
    "Execs": "Run commands in guests; look at them, read their output, feed and end them.",
    "Terminals": "WebSockets (subprotocol `pvex.v1`) that start a command or follow one, and the tickets for them.",
    "Files": "Read and write files of guests.",
    "Guests": "The cluster's containers and machines: find, make, change, start, stop, move and destroy them.",
    "Snapshots": "Take snapshots of guests, go back to them, remove them.",
    "Backups": "Back guests up; list and remove backups. POST /guests makes a guest of one.",
    "Templates": "What guests are made of: templates, images, CDs.",
    "Devices": "The node's devices, and those that guests have of it.",
    "Tasks": "PVE's tasks: what they do, how they ended, what they said.",
    "Cluster": "Nodes, storages, pools, free vmids.",
    "Tokens": "Make, change and end tokens; ask what the caller's own may do.",
    "Audit": "The log of everything that was done or refused, and whether it is whole.",
    "Service": "The gateway itself: health, metrics, this description.",
}
_BY_SEGMENT = {
    "exec": "Execs",
    "execs": "Execs",
    "tickets": "Terminals",
    "terminal": "Terminals",
    "attach": "Terminals",
    "batches": "Execs",
    "files": "Files",
    "guests": "Guests",
    "provisions": "Guests",
    "snapshots": "Snapshots",
    "backups": "Backups",
    "templates": "Templates",
    "devices": "Devices",
    "tasks": "Tasks",
    "nodes": "Cluster",
    "storages": "Cluster",
    "pools": "Cluster",
    "nextid": "Cluster",
    "tokens": "Tokens",
    "audit": "Audit",
    "health": "Service",
    "metrics": "Service",
    "openapi.json": "Service",
    "openapi.yaml": "Service",
    "docs": "Service",
}

NAMES = {
    "Action": "GrantAction",
    "AddressView": "GuestAddress",
    "Addresses": "GuestAddresses",
    "Alive": "Liveness",
    "CheckView": "ReadinessCheck",
    "ConfigView": "GuestConfiguration",
    "CardSpec": "NetworkCard",
    "Content": "StorageContent",
    "DiskSpec": "NewDisk",
    "Encodings": "OutputEncodings",
    "Event": "AuditEvent",
    "EventEnd": "ExecEndEvent",
    "EventGap": "ExecGapEvent",
    "EventHeartbeat": "ExecHeartbeatEvent",
    "EventOutput": "ExecOutputEvent",
    "EventStart": "ExecStartEvent",
    "ExecSpec": "ExecRequest",
    "GivenView": "GivenToGuest",
    "GrantSpec": "GrantRequest",
    "GuestKind": "GuestType",
    "Keep": "OutputKeep",
    "Kind": "DeviceKind",
    "LimitsSpec": "TokenLimitsRequest",
    "LimitsView": "TokenLimits",
    "LogFault": "AuditFault",
    "LogVerdict": "AuditVerdict",
    "MountRequest": "GuestMountRequest",
    "MountSpec": "MountRequest",
    "NetworkSpec": "NetworkRequest",
    "NewGuest": "CreatedGuest",
    "NodeView": "ClusterNode",
    "OnFull": "OutputOnFull",
    "OnLimit": "OutputOnLimit",
    "Order": "AuditOrder",
    "OutputSpec": "OutputRequest",
    "Reach": "TokenReach",
    "ReachTerms": "TokenReachTerms",
    "Reason": "ExecReason",
    "RecordActor": "AuditActor",
    "ResizeDisk": "ResizeDiskRequest",
    "SecretView": "TokenSecret",
    "State": "ExecState",
    "StorageView": "NodeStorage",
    "Target": "SignalTarget",
    "TemplateView": "GuestTemplate",
    "Timing": "ExecTiming",
    "TokenPatch": "TokenChanges",
    "GuestPatch": "GuestChanges",
    "TtySpec": "TtyRequest",
    "Usage": "ExecUsage",
    "Witness": "AuditWitness",
    "Work": "GuestWork",
    "Wrong": "AuditFaultKind",
}
"""Schemas whose Python name says too little outside of its module. Of all others `View` alone is taken away."""


def tag_of(route: Route) -> str:
    """The last part of its path that belongs to one; where none does, the first part says what it is."""
    segments = [part for part in route.path.split("/") if part and not part.startswith("{")]
    tags = [_BY_SEGMENT[part] for part in segments if part in _BY_SEGMENT]
    return tags[-1] if tags else segments[0].capitalize()


def name_schemas(document: Schema) -> Schema:
    """The document with its schemas plain, under the names of clients. Raises ValueError where two have one name."""
    document = json.loads(json.dumps(document))  # whatever was used twice is two things now
    schemas = document["components"]["schemas"]
    names = {name: NAMES.get(name, name.removesuffix("View")) for name in schemas}
    if len({*names.values()}) < len(names):
        raise ValueError(f"two schemas have the same name: {sorted(names.values())}")
    document["components"]["schemas"] = {names[name]: schemas[name] for name in sorted(schemas, key=names.__getitem__)}
    for schema in _schemas_in(document):
        make_plain(schema)
    describe_members(document["components"]["schemas"])
    for node in _objects_in(document):
        ref = node.get("$ref")
        if isinstance(ref, str) and ref.startswith(REF):
            node["$ref"] = REF + names[ref.removeprefix(REF)]
        mapping = node.get("mapping")
        if "propertyName" in node and isinstance(mapping, dict):
            node["mapping"] = {word: REF + names[target.removeprefix(REF)] for word, target in mapping.items()}
    return document


def _schemas_in(document: Schema) -> Iterator[Schema]:
    """Every schema, those below others included, the inner ones first."""
    for node in _objects_in(document):
        if isinstance(node.get("schema"), dict):
            yield from _with_inner(node["schema"])
    for schema in document["components"]["schemas"].values():
        yield from _with_inner(schema)


def _with_inner(schema: Schema) -> Iterator[Schema]:
    inner: list[Any] = [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]
    inner += [*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())]
    inner += [schema.get("propertyNames"), *schema.get("patternProperties", {}).values()]
    for each in inner:
        if isinstance(each, dict):
            yield from _with_inner(each)
    yield schema


def _objects_in(value: Any) -> Iterator[dict[str, Any]]:
    """Every object of the document; examples are none of it."""
    if isinstance(value, Mapping):
        assert isinstance(value, dict)
        yield value
        for key, member in value.items():
            if key not in ("example", "examples", "x-example"):
                yield from _objects_in(member)
    elif isinstance(value, list):
        for item in value:
            yield from _objects_in(item)
