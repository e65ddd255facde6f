"""Templates that never end, and templates that drop calls of tools."""

from __future__ import annotations

import logging
import signal
import threading

import pytest

from tokenkit.errors import TokenizerError
from tokenkit.tokenizers.chat import limit
from tokenkit.tokenizers.chat.template import ChatTemplate, Conversation
from tokenkit.tokenizers.chat.writing import ChatWriter

LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
PLAIN = "{% for m in messages %}{{ m.content }}{% endfor %}"
CHAT = Conversation([{"role": "user", "content": "Hi."}], where="x.jsonl:3")


@pytest.fixture(autouse=True)
def impatience(monkeypatch):
    monkeypatch.setattr(limit, "SECONDS", 0.2)


def test_loops_end():
    template = ChatTemplate({"default": LOOPS}, {}, name="x")
    with pytest.raises(TokenizerError, match="tokenizer 'x': its chat template runs for more"):
        template.render(CHAT)


def test_the_alarm_of_others_goes_on():
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    signal.setitimer(signal.ITIMER_REAL, 100)
    try:
        assert ChatTemplate({"default": PLAIN}, {}).render(CHAT)[0] == "Hi."
        left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
        assert 90 < left <= 100 and not rung
    finally:
        signal.signal(signal.SIGALRM, before)


def test_other_threads_have_no_alarm():
    found = []
    template = ChatTemplate({"default": PLAIN}, {})
    thread = threading.Thread(target=lambda: found.append(template.render(CHAT)[0]))
    thread.start()
    thread.join()
    assert found == ["Hi."]


def test_dropped_calls_are_said_once(monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("tokenkit"), "propagate", True)
    call = {"type": "function", "function": {"name": "weather", "arguments": {}}}
    turn = {"role": "assistant", "content": "", "tool_calls": [call]}
    chat = Conversation([*CHAT.messages, turn], where="x.jsonl:3")
    shown = "{% for c in m.tool_calls or [] %}{{ c.function.name }}{% endfor %}{% endfor %}"
    ChatWriter(ChatTemplate({"default": PLAIN.replace("{% endfor %}", shown)}, {}), ()).write(chat)
    assert not caplog.records
    writer = ChatWriter(ChatTemplate({"default": PLAIN}, {}, name="t"), ())
    writer.write(chat)
    writer.write(chat)
    (record,) = caplog.records
    assert "x.jsonl:3" in record.message and "'weather'" in record.message
