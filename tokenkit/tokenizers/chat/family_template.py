"""A chat template that writes turns as a family's markers do."""

from __future__ import annotations

import json

from tokenkit.tokenizers.alphabet import literal_bytes
from tokenkit.tokenizers.families import (
    ASSISTANT_NAME,
    BOS,
    END_HEADER,
    EOT,
    ROLE_MARKERS,
    START_HEADER,
    Family,
)


def marker_text(family: Family, marker: str) -> str:
    """What a marker looks like in text; "" for one that the family does not have."""
    special = set(family.special_tokens)
    tokens = family.replacements[marker] or ()
    return "".join(t if t in special else literal_bytes(t).decode() for t in tokens)


def family_template(family: Family) -> str:
    """Jinja text; of a family without headers, it writes contents one after another."""
    names = {role: marker_text(family, marker) for role, marker in ROLE_MARKERS.items()}
    start, end, eot, bos = (
        marker_text(family, marker) for marker in (START_HEADER, END_HEADER, EOT, BOS)
    )
    allowed = ", ".join(names)

    def literal(value: object) -> str:
        """Jinja's literals of strings and dictionaries are JSON's."""
        return json.dumps(value, ensure_ascii=False)

    return (
        f"{{%- set names = {literal(names)} -%}}"
        f"{{{{- {literal(bos)} -}}}}"
        "{%- for message in messages -%}"
        "{%- if message['role'] not in names -%}"
        "{{- raise_exception(\"unknown role '\" ~ message['role'] ~ \"' "
        f'(allowed: {allowed})") -}}}}'
        "{%- endif -%}"
        f"{{{{- {literal(start)} + names[message['role']] + {literal(end)} "
        f"+ message['content'] + {literal(eot)} -}}}}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}"
        f"{{{{- {literal(start + marker_text(family, ASSISTANT_NAME) + end)} -}}}}"
        "{%- endif -%}"
    )
