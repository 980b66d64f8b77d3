"""Prompts and seeds as people bring them from other programs."""

from __future__ import annotations

import pytest
import torch

from scedit_cli.cli.generate_request import generation_config
from scedit_cli.cli.option_names import in_options
from scedit_cli.cli.parsing import parse_seeds
from scedit_cli.cli.prompt_files import read_prompts
from scedit_cli.generation.config import Prompt
from scedit_cli.generation.image_jobs import jobs_of
from scedit_cli.generation.syntax import foreign_syntax
from scedit_cli.utils.errors import SceditError

LARGEST = 2**64 - 1


# InvokeAI#2386, ComfyUI-SeedVR2_VideoUpscaler#385, krita-ai-diffusion#2224: seeds of ComfyUI have 64 bits.
@pytest.mark.parametrize("seed", [0, 2**31, 2**32, 10**18, 2**63 - 1, 2**63, LARGEST])
def test_every_seed_that_pytorch_takes(seed):
    assert parse_seeds(str(seed)) == (seed,)
    torch.Generator().manual_seed(seed)


# SimpleTuner#97: -1 for a random one.
@pytest.mark.parametrize("seed", ["-1", str(LARGEST + 1), f"{LARGEST}-{LARGEST + 1}", "1e5", "1.0", "0x10", ""])
def test_what_is_no_seed(seed):
    with pytest.raises(SceditError, match="--seed is") as told:
        parse_seeds(seed)
    assert f"from 0 to {LARGEST}" in told.value.hint


def test_counting_on_ends_at_the_largest_seed():
    jobs = jobs_of(generation_config({"seed": LARGEST - 1, "num": 2}))
    assert [job.seed for job in jobs] == [LARGEST - 1, LARGEST]
    with pytest.raises(SceditError, match="the largest seed is"):
        generation_config({"seed": LARGEST, "num": 2})


# webui#2255 (styles.csv), webui#3095: prompts in a column of a table.
@pytest.mark.parametrize(("name", "text", "lines"), [
    ("styles.csv", '\ufeffname,prompt,negative_prompt\nFilm,"a still, of film",drawing\n,,\nPlain,a cube,\n',
     [Prompt("a still, of film", "drawing"), Prompt("a cube")]),
    ("excel.csv", "Prompt;Seed\na cube, red;7\na cone;1-2\n",
     [Prompt("a cube, red", None, (7,)), Prompt("a cone", None, (1, 2))]),
    ("parti.tsv", "Prompt\tCategory\tNote\na cube, red\tAbstract\tx\n", [Prompt("a cube, red")]),
    ("coco.CSV", "image_id,caption\n1,a dog\n", [Prompt("a dog")]),
])  # fmt: skip
def test_prompts_in_a_table(tmp_path, name, text, lines):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_prompts(tmp_path / name) == lines


@pytest.mark.parametrize(("name", "text", "message"), [
    ("a.csv", "name,style\nx,y\n", "no prompts in a column prompt"),
    ("a.csv", "", "no prompts in a column prompt"),
    ("a.csv", "prompt,seed\n,3\n", "holds no prompts"),
    ("a.csv", "prompt,seed\na,-1\n", "row 2: seed is -1"),
    ("a.csv", "prompt\na cube\na red cube, on the floor\n", "row 3: more cells than the heading"),
    ("a.csv", "prompt,seed\na cube,7,extra\n", "row 2: more cells than the heading"),
    ("a.json", '["a red cube"]', r"\.json is not read"),
    ("a.yaml", "- a red cube\n", r"\.yaml is not read"),
])  # fmt: skip
def test_tables_and_files_without_prompts(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(SceditError, match=message):
        read_prompts(tmp_path / name)


# diffusers#2431, compel#16, miner-release#11, sd-scripts#256, webui#1446 and #5699.
@pytest.mark.parametrize(("prompt", "found"), [
    ("a (red:1.3) cube", "(red:1.3)"), ("<lora:style:0.8> a cube", "<lora:style:0.8>"),
    ("a cube --n bad --w 512", "--n"),
    ('--prompt "a cube" --seed 5', "--prompt"), ("masterpiece BREAK a cube", "BREAK"), ("a cat AND a dog", "AND"),
    ("a {red|blue} cube", "{red|blue}"), ("a __color__ cube", "__color__"), ("embedding:bad, a cube", "embedding:bad"),
    ("a [red:blue:0.5] cube", "[red:blue:0.5]"), ("a cube --ar 16:9", "--ar"),
])  # fmt: skip
@pytest.mark.parametrize("weighted", [False, True])
def test_what_other_programs_would_read_is_told(prompt, found, weighted):
    [told] = foreign_syntax(["a plain cube", prompt, prompt], weighted)
    assert told.startswith(f"{found!r} in a prompt is read as plain words: ")


def test_compels_own_weights_are_told_where_nothing_reads_them():
    assert list(foreign_syntax(["a (red)1.3 cube"], weighted=True)) == []
    [told] = foreign_syntax(["a (red)1.3 cube"], weighted=False)
    assert in_options(told).endswith("--weighted reads weights")


@pytest.mark.parametrize("prompt", [
    "", "a red cube", "a cube (red) and a cone", "rock-and-roll -- live", "SALT AND PEPPER", "at 10:30", "f(x)",
    "a_b__c",
    "[red] cube", "e-mail --", "a: b", "16:9",
])  # fmt: skip
def test_plain_words_are_not(prompt):
    assert list(foreign_syntax([prompt], weighted=False)) == []
