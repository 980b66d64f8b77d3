#!/bin/sh
# transformers 5.24.0: after textual inversion, the pooled embedding of Stable Diffusion XL is the new word's.
#
# The text encoders of Stable Diffusion say eos_token_id 2 in their configuration, although their end token is the last
# of the vocabulary. For that number CLIPTextModel pools at the largest token of the text, which is the end token until
# textual inversion adds a word behind it: then the pooled embedding, one of the two things that SDXL's U-Net takes of
# a prompt, is taken at that word, and nothing that follows the word has any part in it.
#
# Seen (a text of begin, 5, the added word, 7, end, padded with the end token):
#   eos_token_id 2: pooled at position 2, changed by the word after it: False
#   eos_token_id 99, the tokenizer's: pooled at position 4, changed by the word after it: True
#
# Exits 0 while this is so, and 1 once it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 transformers==5.24.0 numpy==2.4.0 >&2
"$folder/venv/bin/python" - <<'PYTHON' 2>/dev/null
import torch
from transformers import CLIPTextConfig, CLIPTextModel

BEGIN, END, ADDED = 98, 99, 100


@torch.no_grad()
def pooled(eos_token_id):
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        bos_token_id=BEGIN,
        eos_token_id=eos_token_id,
        pad_token_id=END,
    )
    model = CLIPTextModel(config).eval()
    model.resize_token_embeddings(101)
    outputs = [model(torch.tensor([[BEGIN, 5, ADDED, word, END, END, END, END]])) for word in (7, 8)]
    states, embedding = outputs[0].last_hidden_state[0], outputs[0].pooler_output[0]
    position = [torch.allclose(state, embedding, atol=1e-5) for state in states].index(True)
    follows = not torch.allclose(embedding, outputs[1].pooler_output[0], atol=1e-5)
    print(f"eos_token_id {eos_token_id}: pooled at position {position}, changed by the word after it: {follows}")
    return position, follows


assert pooled(2) == (2, False)
assert pooled(END) == (4, True)
PYTHON
