"""What is told to PVE of a new guest's addresses is addresses and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.guests.network import CardSpec, NetworkSpec
from gateway.guests.wish import FreshWish

ZONES = ["fe80::1%", "fe80::1%eth0", "fe80::1%,trunks=2", "fe80::1%\nx"]


@pytest.mark.parametrize("spec", [NetworkSpec, CardSpec])
@pytest.mark.parametrize("zone", ZONES)
def test_no_address_has_a_zone(spec: type[NetworkSpec | CardSpec], zone: str) -> None:
    """Python takes any text for one, and in a list of options a comma would begin another."""
    static: dict[str, Any] = {"ipv6": "2001:db8::2/64", "gateway6": "fe80::1"}
    assert spec.model_validate(static).gateway6 == "fe80::1"
    for wrong in ({"ipv6": f"{zone}/64"}, static | {"gateway6": zone}):
        with pytest.raises(ValidationError):
            spec.model_validate(wrong)


@pytest.mark.parametrize("zone", ZONES)
def test_no_name_server_has_a_zone(zone: str) -> None:
    """They are told in a list, too."""
    assert "nameservers" in FreshWish.model_fields
    with pytest.raises(ValidationError, match="IP addresses of name servers"):
        FreshWish.model_validate({"nameservers": [zone]})
