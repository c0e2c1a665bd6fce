"""The network interfaces of new guests, and what PVE is told of them."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from gateway.exec.spec import Strict
from gateway.guests.fields import mistake


class PortSpec(Strict):
    """What interfaces of containers and cards of machines have in common: their place in the node's network."""

    bridge: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,14}$")] = "vmbr0"
    ipv4: Annotated[str, StringConstraints(max_length=18)] | None = Field(
        default="dhcp", description="`dhcp`, an address with its prefix like `10.0.0.5/24`, or null."
    )
    gateway: Annotated[str, StringConstraints(max_length=15)] | None = Field(
        default=None, description="Its IPv4 gateway; for a static address alone."
    )
    ipv6: Annotated[str, StringConstraints(max_length=43)] | None = Field(
        default=None, description="`auto` (SLAAC), `dhcp`, an address with its prefix, or null."
    )
    gateway6: Annotated[str, StringConstraints(max_length=39)] | None = Field(
        default=None, description="Its IPv6 gateway; for a static address alone."
    )
    vlan: int | None = Field(default=None, ge=1, le=4094, description="VLAN tag.")
    mac: Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f][02468ACEace](?::[0-9A-Fa-f]{2}){5}$")] | None = Field(
        default=None, description="Its hardware address. Default: a new one."
    )
    firewall: bool = Field(default=False, description="Whether PVE's firewall looks at it.")

    @model_validator(mode="after")
    def _addresses(self) -> PortSpec:
        _check_address(self.ipv4, ("dhcp",), 4, "ipv4")
        _check_address(self.ipv6, ("auto", "dhcp"), 6, "ipv6")
        _check_gateway(self.gateway, self.ipv4, 4, "gateway")
        _check_gateway(self.gateway6, self.ipv6, 6, "gateway6")
        return self


class NetworkSpec(PortSpec):
    """One network interface of a container, on a bridge of the node."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_.-]{0,14}$")] | None = Field(
        default=None, description="In the guest. Default: eth0, eth1, ..."
    )

    def value(self, number: int) -> str:
        """As PVE's `net[n]`."""
        return _join(
            {
                "name": self.name or f"eth{number}",
                "bridge": self.bridge,
                "firewall": 1 if self.firewall else None,
                "gw": self.gateway,
                "gw6": self.gateway6,
                "hwaddr": self.mac.upper() if self.mac else None,
                "ip": self.ipv4,
                "ip6": self.ipv6,
                "tag": self.vlan,
                "type": "veth",
            }
        )


class CardSpec(PortSpec):
    """One network card of a virtual machine, on a bridge of the node. Cloud-init tells the machine its addresses."""

    model: Literal["virtio", "e1000", "e1000e", "rtl8139", "vmxnet3"] = "virtio"
    ipv4: Annotated[str, StringConstraints(max_length=18)] | None = Field(
        default=None, description="`dhcp`, or an address with its prefix. Default: what cloud-init does untold, DHCP."
    )

    def value(self) -> str:
        """As PVE's `net[n]`."""
        model = f"{self.model}={self.mac.upper()}" if self.mac else self.model
        return f"{model},{_join({'bridge': self.bridge, 'firewall': 1 if self.firewall else None, 'tag': self.vlan})}"

    def addresses(self) -> str:
        """As PVE's `ipconfig[n]`; empty for none."""
        return _join({"gw": self.gateway, "gw6": self.gateway6, "ip": self.ipv4, "ip6": self.ipv6})


def _join(parts: Mapping[str, str | int | None]) -> str:
    return ",".join(f"{name}={value}" for name, value in parts.items() if value is not None)


def _check_address(text: str | None, words: Sequence[str], version: int, field: str) -> None:
    if text is None or text in words:
        return
    try:
        found = ipaddress.ip_interface(refuse_zone(text))
    except ValueError:
        found = None
    network = found.network if found is not None else None
    if found is None or network is None or "/" not in text or found.version != version:
        said = " or ".join(f"`{word}`" for word in words)
        raise mistake("bad_address", f"{said}, or an IPv{version} address with its prefix length", field)
    if network.prefixlen < network.max_prefixlen - 1 and found.ip == network.network_address:
        raise mistake("bad_address", "this is the network's address, not one in it", field)
    if version == 4 and network.prefixlen < 31 and found.ip == network.broadcast_address:
        raise mistake("bad_address", "this is the network's broadcast address", field)


def refuse_zone(text: str) -> str:
    """The same. Raises ValueError where it has a zone, for which Python takes any text, commas too (RFC 4007, 11.2)."""
    if "%" in text:
        raise ValueError("an address without a zone")
    return text


def _check_gateway(text: str | None, address: str | None, version: int, field: str) -> None:
    if text is None:
        return
    try:
        gateway = ipaddress.ip_address(refuse_zone(text))
    except ValueError:
        raise mistake("bad_address", f"an IPv{version} address without a prefix", field) from None
    if gateway.version != version:
        raise mistake("bad_address", f"an IPv{version} address without a prefix", field)
    if address is None or "/" not in address:
        raise mistake("not_static", "a gateway belongs to a static address; DHCP and SLAAC tell their own", field)
    if ipaddress.ip_interface(address).ip == gateway:
        raise mistake("bad_address", "the gateway is the guest's own address", field)
