"""What PVE's words may not repeat of what it was told."""

from __future__ import annotations

import pytest

from gateway.pve.withheld import withhold


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"cipassword": "hunter22"}, "invalid format - 'hunter22'"),
        ({"password": "a b c"}, "value 'a b c' is too short"),
        ({"env": "A=1\0TOKEN=hunter22"}, "bad environment variable 'hunter22'"),
        ({"sshkeys": "ssh-ed25519%20AAAAhunter22%20me"}, "not a key: ssh-ed25519 AAAAhunter22 me"),
        ({"ssh-public-keys": "ssh-rsa AAAA\nssh-rsa hunter22"}, "not a key: ssh-rsa hunter22"),
    ],
)
def test_a_secret_option_is_not_repeated(parameters: dict[str, str], said: str) -> None:
    """Whole, as a line of several, decoded, or behind a name; what stands around it stays."""
    told = withhold(said, parameters)
    assert "hunter22" not in told and "a b c" not in told and "(not repeated)" in told
    assert told.startswith(said[:5])


def test_other_options_are() -> None:
    """PVE's words about what is no secret tell what was wrong."""
    said = "hostname: value 'web_1' does not look like a valid DNS name"
    assert withhold(said, {"hostname": "web_1", "cores": 2, "cipassword": "we"}) == said
