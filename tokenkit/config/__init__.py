"""Configuration: defaults, then a TOML file, then the command line; strict about every key."""

from tokenkit.config.load import config_from_dict, load_config, save_config
from tokenkit.config.schema import Config
from tokenkit.config.validate import validate

__all__ = ["Config", "config_from_dict", "load_config", "save_config", "validate"]
