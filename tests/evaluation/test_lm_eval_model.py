"""The model ``tokenkit`` of the harness beside the harness's own, and out of its two traps."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM

from tests.evaluation.conftest import FOLDERS, ROOT, TASKS, save_model
from tests.launch import train
from tests.tokenizers.real_pairs import MODEL, real_tokenizer
from tests.tokenizers.specs import tokenizer
from tokenkit.errors import ConfigError, ModelError
from tokenkit.evaluation.folder import folder_bits_per_byte
from tokenkit.evaluation.lm_eval_model import TokenkitLM, open_folder
from tokenkit.evaluation.tasks import find_tasks
from tokenkit.tokenizers import load_tokenizer

CPU = torch.device("cpu")
FLOAT = {"dtype": "float32", "device": "cpu"}
DOCUMENTS = [
    json.loads(line)["text"]
    for line in (ROOT / "tests/assets/lm_eval/documents.jsonl").read_text().splitlines()
]


def asked(*arguments) -> SimpleNamespace:
    """A request as the harness makes one."""
    return SimpleNamespace(args=arguments, task_name="")


def run(model, tasks, names, **options):
    """Answers by task and document, and lm-eval's results."""
    options = {"bootstrap_iters": 0, "limit": 6, **options}
    results = simple_evaluate(model=model, tasks=names, task_manager=tasks, **options)
    return {task: [row["resps"] for row in rows] for task, rows in results["samples"].items()}


def check_equal(path, tasks, **options) -> None:
    names = TASKS[:2]
    theirs = run(HFLM(str(path), batch_size=4, **FLOAT), tasks, names, **options)
    ours = run(TokenkitLM(str(path), batch_size=4, **FLOAT), tasks, names, **options)
    assert ours["tokenkit_continue"] == theirs["tokenkit_continue"]
    assert any(text for ((text,),) in ours["tokenkit_continue"])
    pairs = zip(ours["tokenkit_arithmetic"], theirs["tokenkit_arithmetic"], strict=True)
    for own, other in pairs:
        for ((logprob, greedy),), ((wanted, wanted_greedy),) in zip(own, other, strict=True):
            assert logprob == pytest.approx(wanted, abs=1e-4) and greedy == wanted_greedy


@pytest.mark.parametrize("family", FOLDERS)
def test_equals_the_harness(family, folders, offline_tasks):
    check_equal(folders[family], offline_tasks, num_fewshot=1)


@pytest.mark.real
@pytest.mark.parametrize("options", [{}, {"apply_chat_template": True, "system_instruction": "?"}])
def test_equals_the_harness_on_a_real_model(options, offline_tasks):
    check_equal(real_tokenizer(MODEL), offline_tasks, fewshot_as_multiturn=True, **options)


# Rolling ------------------------------------------------------------------------------------


def rolling(model) -> list[float]:
    return model.loglikelihood_rolling([asked(text) for text in DOCUMENTS], disable_tqdm=True)


def check_rolling(path, max_bytes: int) -> None:
    tok = load_tokenizer(str(path))
    found = rolling(TokenkitLM(str(path), max_bytes=max_bytes, **FLOAT))
    for text, logprob in zip(DOCUMENTS, found, strict=True):
        wanted = folder_bits_per_byte(str(path), tok, [text], max_bytes=max_bytes, device=CPU)
        assert -logprob / math.log(2) / len(text.encode()) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("family", FOLDERS)
def test_rolling_equals_bits_per_byte(family, folders):
    for max_bytes in (64, 2048):
        check_rolling(folders[family], max_bytes)


@pytest.mark.real
def test_rolling_equals_bits_per_byte_of_a_real_model():
    check_rolling(real_tokenizer(MODEL), 128)


def test_rows_without_token_take_nothing_in_rolling(tmp_path):
    check_rolling(save_model(tmp_path / "m", "llama", FOLDERS["llama"], vocab_size=1600), 2048)


@torch.no_grad()
def test_the_harness_scores_a_bos_that_the_tokenizer_adds(folders):
    """With add_bos_token=False it is exact, where texts spell no special token; so is ours."""
    path = str(folders["llama"])
    ours = rolling(TokenkitLM(path, **FLOAT))
    own = rolling(HFLM(path, **FLOAT))
    exact = rolling(HFLM(path, add_bos_token=False, **FLOAT))
    model, bos = AutoModelForCausalLM.from_pretrained(path), tokenizer(FOLDERS["llama"]).bos_id
    after_bos = model(torch.tensor([[bos]])).logits[0, -1].log_softmax(-1)
    assert after_bos[bos] < -1  # what the document never had to say
    for number, text in enumerate(DOCUMENTS[:2]):
        assert ours[number] == pytest.approx(exact[number], abs=1e-4), text
        ids = tokenizer(FOLDERS["llama"]).encode_text(text)
        twice = model(torch.tensor([[bos, bos, *ids]])).logits[0].log_softmax(-1)
        wanted = sum(twice[i, t].item() for i, t in enumerate([bos, *ids]))
        assert own[number] == pytest.approx(wanted, abs=1e-3)


def test_a_model_that_reads_few_tokens_has_shorter_windows(folders):
    path = str(folders["llama"])
    small = TokenkitLM(path, max_length=32, **FLOAT)
    windows = small.windows(DOCUMENTS[2])
    assert len(windows) > 1 and all(len(window.ids) <= 33 for window in windows)
    scored = [int(i) for window in windows for i in window.ids[window.first :]]
    assert scored == load_tokenizer(path).encode_text(DOCUMENTS[2])


# A token across the join ------------------------------------------------------------------------


def plain_logprob(model, before, ids) -> float:
    with torch.no_grad():
        logits = model(torch.tensor([[*before, *ids]])).logits[0].log_softmax(-1)
    return sum(float(logits[len(before) + i - 1, t]) for i, t in enumerate(ids))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_token_across_the_join_is_scored_by_bytes(family, folders):
    path = folders[family]
    tok, context, continuation = load_tokenizer(str(path)), "say th", "e"
    whole, alone = tok.encode_text("say the"), tok.encode_text("say th")
    assert len(whole) <= len(alone)
    with pytest.raises(AssertionError):
        HFLM(str(path), **FLOAT).loglikelihood([asked(context, continuation)], disable_tqdm=True)
    lm = TokenkitLM(str(path), **FLOAT)
    others = [asked("say", " the"), asked("", "the"), asked("say", " the one")]
    requests = [others[0], asked(context, continuation), *others[1:]]
    found = lm.loglikelihood(requests, disable_tqdm=True)
    model, first = AutoModelForCausalLM.from_pretrained(path).eval(), lm.prefix_token_id
    wanted = plain_logprob(model, [first], whole) - plain_logprob(model, [first], alone)
    assert found[1][0] == pytest.approx(wanted, abs=1e-4) and found[1][1] is False
    without = lm.loglikelihood(others, disable_tqdm=True)
    assert [found[0], *found[2:]] == [pytest.approx(answer) for answer in without]


def test_a_context_of_white_space_alone_is_no_context(folders):
    lm = TokenkitLM(str(folders["gpt2"]), **FLOAT)  # GPT-2 puts no BOS before it
    requests = [asked("\n", "the"), asked("", "\nthe")]
    assert len({lm.loglikelihood([r], disable_tqdm=True)[0] for r in requests}) == 1


def test_white_space_at_the_end_of_a_context_is_the_continuations(folders):
    lm = TokenkitLM(str(folders["gpt2"]), **FLOAT)
    whole, alone = lm._two_encodings((("say ", "the"), [], []))
    wanted, _ = lm._encode_pair("say ", "the")  # the harness's own cut
    assert [lm.prefix_token_id, *wanted] == alone[1] and alone[2] == []
    assert whole[1] + whole[2] == [lm.prefix_token_id, *lm.tok_encode("say the")]


def test_nothing_to_say_is_certain(folders):
    lm = TokenkitLM(str(folders["llama"]), **FLOAT)
    assert lm.loglikelihood([asked("a", "")], disable_tqdm=True) == [(0.0, True)]


# Several processes, bad input ---------------------------------------------------------------------


def test_two_processes_answer_as_one(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = {}
    for world in (1, 2):
        output = tmp_path / f"{world}.json"
        argv = ["--model", str(folders["llama"]), "--tasks", ",".join(TASKS), "--dtype", "float32",
                "--include-path", "tests/assets/lm_eval", "--log-samples", "--output", str(output),
                "--batch-size", "auto", "--limit", "5"]  # fmt: skip
        train(argv, world, tmp_path / f"log{world}", program="tokenkit.cli.eval")
        lines = (tmp_path / f"{world}.samples.jsonl").read_text().splitlines()
        rows = sorted(map(json.loads, lines), key=lambda row: (row["task"], row["doc_id"]))
        found[world] = rows, json.loads(output.read_text())["results"]
        assert (tmp_path / f"log{world}").read_text().count("tokenkit_arithmetic  ") == 1
    for one, two in zip(found[1][0], found[2][0], strict=True):
        assert one["doc"] == two["doc"]
        answers = flat(two["filtered_resps"])
        assert answers == pytest.approx(flat(one["filtered_resps"]), abs=1e-4)
    assert len(found[1][0]) == 14
    for task, metrics in found[1][1].items():
        for name, value in metrics.items():
            if isinstance(value, float) and "stderr" not in name:
                assert found[2][1][task][name] == pytest.approx(value, rel=1e-5)


def flat(row) -> list[float]:
    """Numbers of answers; texts by their characters, so that they are compared, too."""
    if isinstance(row, (list, tuple)):
        return [x for item in row for x in flat(item)]
    return [float(ord(c)) for c in row] if isinstance(row, str) else [float(row)]


def test_code_of_a_model_is_not_run_unasked(folders, tmp_path):
    config = json.loads((folders["llama"] / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoModelForCausalLM": "modeling_own.OwnLM"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"own Python code.*--trust-remote"):
        open_folder(str(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "/no/such"}, "model folder '/no/such' does not exist"),
        ({"dtype": "float23"}, "--dtype 'float23' is none of auto"),
    ],
)
def test_bad_models(options, message, folders):
    with pytest.raises((ModelError, ConfigError), match=message):
        open_folder(**{"model": str(folders["llama"]), **options})


def test_unknown_tasks_are_named(offline_tasks):
    with pytest.raises(ConfigError, match="no task 'tokenkit_aritmetic'.*mean 'tokenkit_arith"):
        find_tasks(["tokenkit_aritmetic"], "tests/assets/lm_eval")
    names, _ = find_tasks(["tokenkit_*"], "tests/assets/lm_eval")
    assert sorted(names) == sorted(TASKS)


def test_releases_that_read_entry_points_find_it(folders, offline_tasks):
    import tomli
    from lm_eval.api.registry import model_registry

    project = tomli.loads((ROOT / "pyproject.toml").read_text())["project"]
    target = project["entry-points"]["lm_eval.models"]["tokenkit"]
    if "tokenkit" not in model_registry:
        model_registry.register("tokenkit", target=target)
    arguments = f"pretrained={folders['llama']},dtype=float32,device=cpu,batch_size=4"
    found = run("tokenkit", offline_tasks, TASKS[:1], model_args=arguments)
    wanted = run(TokenkitLM(str(folders["llama"]), **FLOAT), offline_tasks, TASKS[:1])
    assert flat(list(found.values())) == pytest.approx(flat(list(wanted.values())), abs=1e-4)
