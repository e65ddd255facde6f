"""Configuration: defaults, then a TOML file, then the command line; strict about every key."""

from tokenkit.config.components import add_check, add_section
from tokenkit.config.key import key
from tokenkit.config.load import config_from_dict, config_tables, load_config, save_config, to_toml
from tokenkit.config.local_paths import whole_value, with_whole_paths
from tokenkit.config.schema import Config
from tokenkit.config.settle import rows_at_once, settle
from tokenkit.config.validate import validate

__all__ = [
    "Config",
    "add_check",
    "add_section",
    "config_from_dict",
    "config_tables",
    "key",
    "load_config",
    "rows_at_once",
    "save_config",
    "settle",
    "to_toml",
    "validate",
    "whole_value",
    "with_whole_paths",
]
