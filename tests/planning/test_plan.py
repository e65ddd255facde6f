"""Plans of recipes without a hub, and what the command says."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.models.tiny import save_tiny
from tests.training.small_runs import arguments, read_config
from tokenkit.cards import CARDS
from tokenkit.cli import plan as command
from tokenkit.config import load_config
from tokenkit.config.validate_layout import check_parallelism
from tokenkit.errors import ConfigError
from tokenkit.parallelisms.memory import device_bytes
from tokenkit.planning.known import MODELS, known
from tokenkit.planning.layout import Degrees, Layout, LayoutError
from tokenkit.planning.memory import count_sizes, plan_memory
from tokenkit.planning.models import build_models, open_shapes
from tokenkit.planning.placement import Placement, room_of
from tokenkit.planning.plan import make_plan
from tokenkit.planning.report import describe, summary
from tokenkit.planning.search import find_layout, layouts, with_teachers
from tokenkit.planning.speed import count_messages
from tokenkit.shipped import recipes

# As published, in billions.
PUBLISHED = {
    "meta-llama/Llama-3.2-1B-Instruct": 1.24,
    "meta-llama/Llama-3.2-3B-Instruct": 3.21,
    "meta-llama/Llama-3.1-8B": 8.03,
    "meta-llama/Llama-3.3-70B-Instruct": 70.6,
    "google/gemma-2-2b-it": 2.61,
    "google/gemma-2-9b-it": 9.24,
    "Qwen/Qwen2.5-1.5B": 1.54,
    "Qwen/Qwen2.5-7B-Instruct": 7.62,
    "Qwen/Qwen2.5-72B": 72.7,
    "Qwen/Qwen3-0.6B": 0.596,
    "Qwen/Qwen3-1.7B-Base": 1.72,
    "Qwen/Qwen3-4B": 4.02,
    "Qwen/Qwen3-8B": 8.19,
    "Qwen/Qwen3-14B": 14.77,
    "Qwen/Qwen3-32B": 32.76,
    "google/gemma-3-1b-it": 1.0,
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": 1.10,
    "HuggingFaceTB/SmolLM2-135M-Instruct": 0.1345,
}


@pytest.mark.parametrize(("name", "billions"), PUBLISHED.items())
def test_shapes_of_the_table(name, billions):
    found = known(name)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(found.model_type, **found.values)
        )
    total = sum(p.numel() for p in model.parameters())
    assert total / 1e9 == pytest.approx(billions, rel=0.005)
    assert found.tokens <= found.values["vocab_size"]


def test_revisions_and_unknown_names():
    assert known("google/gemma-2-2b-it@main") is MODELS["google/gemma-2-2b"]
    assert known("somebody/model") is None


def test_sizes_are_transformers_own(folder_of_models):
    config = read_config(folder_of_models, "")
    sizes = count_sizes(build_models(config, open_shapes(config), torch.float32))
    student, teacher = (
        sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(name).parameters())
        for name in (config.student.model, config.teacher.model)
    )
    assert (sizes.total, sizes.trained, sizes.teacher) == (student, student, teacher)


@pytest.mark.parametrize("ranks", [1, 8])
def test_a_recipe_offline(ranks):
    config = load_config(["--job.config_file", "llama3_to_qwen2"])
    plan = make_plan(config, ranks, CARDS["h100"])
    text = describe(plan)
    assert max(map(len, text.splitlines())) <= 100
    assert "fits." in text and "shapes from the planner's table" in text
    # 151,680 new rows and rank-64 adapters on seven projections of 28 layers.
    adapters = 28 * 64 * (3072 * 2 + (3072 + 1024) * 2 + 3072 * 2 + 3 * (3072 + 8192))
    rows = -(-151_665 // 128) * 128
    assert plan.sizes.trained == rows * 3072 + adapters
    # Per token: teacher 2, frozen student 4, adapters and vocabulary 6; attention on top.
    body = 28 * (3072 * 3072 * 2 + 3072 * 1024 * 2 + 3 * 3072 * 8192)
    matmuls = 6 * body + 6 * adapters + 6 * rows * 3072 + 2 * 128_256 * 3072
    assert 1.0 < plan.model_flops / (64 * 512 * matmuls) < 1.03
    found = re.fullmatch(r"(\d+) GiB a GPU, \d+(\.\d)? hours on \d x H100", summary(plan))
    if ranks == 8:  # what its header promises
        said = re.search(r"# Planned.*: (\d+) GiB a GPU", recipes()["llama3_to_qwen2"].read_text())
        assert int(found[1]) == pytest.approx(int(said[1]), abs=2)


def test_a_layout_that_fits(folder_of_models):
    """A card on which the settings do not fit, but some layout does."""
    from dataclasses import replace

    config = read_config(folder_of_models, "--training.batch_size 8 --training.dtype bfloat16")
    wanted = make_plan(config, 1, CARDS["h100"]).wished.memory
    tiny = replace(CARDS["h100"], memory=wanted.total - 0.3 * wanted.activations)
    plan = make_plan(config, 1, tiny)
    assert plan.problem.startswith("a rank needs") and plan.best is plan.better is not None
    assert plan.better.memory.total <= tiny.memory
    assert "does not fit" in describe(plan) and "--training.micro_batch_size" in describe(plan)
    impossible = make_plan(config, 1, replace(tiny, memory=1e6))
    assert impossible.best is None and "no layout of these ranks fits" in describe(impossible)


def test_attention_of_all_pairs():
    """Gemma 2 attends eagerly; transformers looks for packed rows on the way."""
    config = load_config(["--job.config_file", "gemma2_to_qwen2"])
    config.activation_checkpoint.mode = "none"
    found = []
    for length in (512, 1024):
        config.training.max_student_length = config.training.max_teacher_length = length
        shapes = open_shapes(config)
        shapes.student.hf_config.num_hidden_layers = 4
        shapes.student.hf_config.layer_types = shapes.student.hf_config.layer_types[:4]
        layout = Layout(1, 8, 1, 8, "none")
        found.append(plan_memory(config, shapes, layout, "h100").activations)
    assert found[1] > 2.3 * found[0]  # more than in proportion to the tokens


def test_layouts_divide(folder_of_models):
    config = read_config(folder_of_models, "--training.batch_size 32")
    found = list(layouts(config, 8, 2, "none"))
    assert found
    for layout in found:
        assert layout.world_size == 8
        assert 32 % (layout.micro_batch_size * layout.data_parallel) == 0
    assert not list(layouts(config, 9, 2, "none"))


def test_proposed_layouts_are_ones_that_runs_take(folder_of_models):
    """Contexts and teachers' own ones, too, and each is read back as itself."""
    config = read_config(folder_of_models, "--training.batch_size 32")
    teachers = set()
    for layout in layouts(config, 8, 1, "none", context=2):
        for variant in with_teachers(layout, config, 8):
            made = variant.applied(config)
            assert not list(check_parallelism(made, 8)), variant
            assert Layout.of(made, 8) == variant
            teachers.add(variant.teacher)
    assert {None, Degrees(1, 2, 4), Degrees(1, 1, 8)} <= teachers


def test_a_teacher_that_is_waited_for_gets_a_layout_of_its_own():
    """One row a rank, a 70B teacher: of its weights, 512 ranks then send half."""
    config = load_config(["--job.config_file", "llama3_70b_to_8b_qwen"])
    shapes = open_shapes(config)
    sent = []
    for teacher in (None, Degrees(1, 256, 2)):
        layout = Layout(1, 512, 1, 1, "full", teacher=teacher)
        models = build_models(config, shapes, torch.bfloat16, layout)
        placement = Placement.of(config, models, layout, "h100")
        sent.append(count_messages(config, models, layout, placement))
    layers = 80 * (8192 * 8192 * 2 + 8192 * 1024 * 2 + 3 * 8192 * 28672 + 2 * 8192)
    assert sent[0].teacher_gathers == layers * 2 * 511 / 512
    assert sent[1].teacher_gathers == pytest.approx(layers / 2 * 2 * 255 / 256, rel=1e-4)
    # Two rows of 1024 tokens: two all-reduces a layer, and one rank's row sent to the other.
    states = 2 * 1024 * 8192 * 2
    assert sent[1].teacher_activations == 80 * 2 * states + states / 2


def test_memory_of_a_cpu_is_what_a_run_says(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    assert room_of("cpu", 4) == device_bytes("cpu") == room_of("cpu", 1) // 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert room_of("cpu", 4) == device_bytes("cpu") == room_of("cpu", 2)


def messages_of(config, *layout):
    layout = Layout(*layout, "none")
    models = build_models(config, open_shapes(config), torch.float32, layout)
    found = count_messages(config, models, layout, Placement.of(config, models, layout, "h100"))
    return found, models


def weights(modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def test_messages_of_fsdp(folder_of_models):
    """Ring collectives of two ranks send half of what they join: all weights forward; backward,
    all layers but the last. A teacher's ends stay whole from the first step on."""
    config = read_config(folder_of_models, "--training.batch_size 16 --parallelism.frozen sharded")
    found, models = messages_of(config, 1, 2, 1, 8)
    student, layers = weights([models.student]), models.student.layers
    assert found.gathers == (student + weights(layers[:-1])) * 4 / 2
    assert found.teacher_gathers == weights(models.teacher_model.layers) * 4 / 2
    assert found.reductions == student * 4 / 2
    assert found.copies == found.tensor_parallel == found.context_parallel == found.measured == 0
    copies, _ = messages_of(config, 2, 1, 1, 8)
    assert copies.gathers == copies.reductions == 0 and copies.copies == student * 4
    config.parallelism.reshard_after_forward = False
    kept, _ = messages_of(config, 1, 2, 1, 8)
    assert kept.gathers == student * 4 / 2 and kept.teacher_gathers == 0


def test_what_fits_is_sent_once_or_not_at_all(folder_of_models):
    """Tiny models on a large card: the teacher is whole, four micro-batches share weights."""
    config = read_config(folder_of_models, "--training.batch_size 16")
    found, models = messages_of(config, 1, 2, 1, 2)
    student, layers = weights([models.student]), models.student.layers
    assert found.gathers == found.reductions == student * 4 / 2
    assert found.teacher_gathers == 0
    config.training.accumulate, config.parallelism.frozen = "sharded", "sharded"
    apart, _ = messages_of(config, 1, 2, 1, 2)
    assert apart.gathers == 4 * (student + weights(layers[:-1])) * 4 / 2
    assert apart.reductions == 4 * found.reductions


def test_frozen_weights_are_held_in_the_compute_dtype(folder_of_models):
    """LoRA, bf16: two bytes a frozen number on each rank, four a trained one on one of them."""
    options = "--student.train lora --training.dtype bfloat16 --training.batch_size 16"
    config = read_config(folder_of_models, options)
    shapes = open_shapes(config)
    models = build_models(config, shapes, torch.bfloat16)
    sizes = count_sizes(models)
    assert sizes.trained < sizes.total
    layout = Layout(1, 2, 1, 8, "none")
    whole = plan_memory(config, shapes, layout, "h100")
    assert whole.student == 2 * (sizes.total - sizes.trained) + 4 * sizes.trained / 2
    config.parallelism.frozen = "sharded"
    cut = plan_memory(config, shapes, layout, "h100")
    assert cut.student == whole.student - (sizes.total - sizes.trained)
    assert cut.gathered > whole.gathered


def run(argv, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["tokenkit plan", *argv])
    command.main()
    return capsys.readouterr().out


def test_json(folder_of_models, capsys, monkeypatch):
    argv = arguments(folder_of_models, "")
    out = run([*argv, "--json", "--device", "cpu"], capsys, monkeypatch)
    found = json.loads(out)
    memory = found["settings"]["memory"]
    assert found["fits"] and found["device"] == "cpu" and found["settings"]["seconds"] is None
    assert memory["total"] == pytest.approx(sum(v for k, v in memory.items() if k != "total"))


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--device", "h20o"], "--device 'h20o'.*did you mean 'h200'"),
        (["--world-size", "0"], "--world-size.*0"),
        (["--student.model", "somebody/model"], "student.model = 'somebody/model'.*tokenkit fetch"),
        (["--student.tokenizer", "somebody/tokens:source=Llama3"], "somebody/tokens.*fetch"),
        ([], "student.model is empty"),
    ],
)
def test_refusals(argv, says, folder_of_models, capsys, monkeypatch):
    given = [*arguments(folder_of_models, ""), *argv] if argv else []
    with pytest.raises(ConfigError, match=says):
        run(given, capsys, monkeypatch)


def test_ranks_that_do_not_fit_the_layout(folder_of_models, capsys, monkeypatch):
    argv = [*arguments(folder_of_models, "--parallelism.tensor_parallel_degree 3"),
            "--world-size", "8", "--device", "cpu"]  # fmt: skip
    said = run(argv, capsys, monkeypatch)
    assert "does not fit: parallelism.tensor_parallel_degree = 3 does not di" in said


def test_search_finds_what_is_there(folder_of_models):
    config = read_config(folder_of_models, "--training.batch_size 32 --training.dtype bfloat16")
    shapes = open_shapes(config)
    models = build_models(config, shapes, torch.bfloat16)
    layout, memory = find_layout(config, shapes, models, CARDS["h100"], 4)
    assert layout.world_size == 4 and layout.tp == 1 and memory.total < CARDS["h100"].memory


def test_a_teacher_with_learned_positions(folder_of_models, tmp_path, monkeypatch):
    """Its rows cannot be divided: not where nothing fits, and a wish is answered."""
    folder = save_tiny(tmp_path / "gpt2", "gpt2", vocab_size=1505, n_layer=2)
    config = read_config(folder_of_models, f"--teacher.model {folder}")
    shapes = open_shapes(config)
    models = build_models(config, shapes, torch.float32)
    assert find_layout(config, shapes, models, replace(CARDS["h100"], memory=1), 2) is None
    config.parallelism.context_parallel_degree = 2
    with pytest.raises(LayoutError, match="learned positions"):
        plan_memory(config, shapes, Layout(1, 1, 1, 1, "none", 2), "h100")


@pytest.mark.parametrize("state", ["float32", "bfloat16"])
def test_gradnorm_has_a_plan(folder_of_models, state):
    given = f"--loss.aggregation gradnorm --optimizer.state_dtype {state}"
    found = make_plan(read_config(folder_of_models, given), 2, CARDS["h100"])
    assert found.best is not None


def test_a_search_says_what_it_does(folder_of_models, capsys, monkeypatch):
    """On stderr, without a bar, since nobody has a terminal."""
    argv = [*arguments(folder_of_models, "--training.dtype bfloat16"), "--device", "h100"]
    monkeypatch.setattr("sys.argv", ["tokenkit plan", *argv, "--search", "--json"])
    command.main()
    said = capsys.readouterr()
    assert json.loads(said.out)["proposal"] and "looking at layouts" in said.err
    assert "\r" not in said.err
