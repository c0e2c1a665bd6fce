"""The configuration file that the package installs."""

from pathlib import Path

import yaml

from gateway.config import Config, load

DEFAULT = Path(__file__).parents[1] / "packaging/config.yaml"


def test_default_config_says_what_the_code_does() -> None:
    """Every key stands in the file, the node's name apart, and with the value it has without the file."""
    written = yaml.safe_load(DEFAULT.read_text())
    assert written == Config().model_dump(mode="json", exclude={"node"})
    assert load(DEFAULT) == Config()
