#!/bin/sh
# compel 2.5.1: on SDXL, the pooled embedding is that of the prompt's literal text, brackets and numbers included.
#
# compel's syntax for weights is "a (red)1.0 cube", and a weight of 1.0 changes nothing: the embeddings of its words are
# those of "a red cube", exactly. SDXL's U-Net takes a second thing of the prompt, the pooled embedding of its second
# text encoder, and of that compel gives what it would give for a prompt that says "( red ) 1 . 0": as far from the
# unweighted one as another prompt's. So a weighted prompt is drawn as if its weights had been said in words too.
#
# Seen (differences to "a red cube", with two text encoders of random weights):
#   words of "a (red)1.0 cube": 0.0
#   pooled of "a (red)1.0 cube": 1.2422025203704834 (any number above 0.1)
#   pooled of "a red cube" again: 0.0
#
# Exits 0 while this is so, and 1 once it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 diffusers==0.42.1 transformers==5.24.0 compel==2.5.1 numpy==2.4.0 >&2
"$folder/venv/bin/python" - <<'PYTHON' 2>/dev/null
from types import SimpleNamespace

import torch
from compel import CompelForSDXL
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

letters = sorted(ByteLevel.alphabet())
words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
tokenizer = CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=77)
config = CLIPTextConfig(
    vocab_size=len(tokenizer),
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    projection_dim=16,
    bos_token_id=tokenizer.bos_token_id,
    eos_token_id=tokenizer.eos_token_id,
)
torch.manual_seed(0)
pipeline = SimpleNamespace(  # what CompelForSDXL takes of a StableDiffusionXLPipeline
    tokenizer=tokenizer,
    tokenizer_2=tokenizer,
    text_encoder=CLIPTextModel(config).eval(),
    text_encoder_2=CLIPTextModelWithProjection(config).eval(),
)
compel = CompelForSDXL(pipeline, device="cpu")
plain, again, weighted = (compel(prompt) for prompt in ("a red cube", "a red cube", "a (red)1.0 cube"))


def difference(one, other):
    return float((one - other).abs().max())


words = difference(weighted.embeds, plain.embeds)
pooled = difference(weighted.pooled_embeds, plain.pooled_embeds)
repeated = difference(again.pooled_embeds, plain.pooled_embeds)
print('words of "a (red)1.0 cube":', words)
print('pooled of "a (red)1.0 cube":', pooled)
print('pooled of "a red cube" again:', repeated)
assert words == repeated == 0 and pooled > 0.1
PYTHON
