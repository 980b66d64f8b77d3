"""Stage 3: the tokenizer and the small CLIP text encoder.

A caption of this world states few facts, so the encoder is trained to predict them: at each noun the colour, shape,
size and gloss of that object; at the end of the sentence the floor, its texture, the sky and the objects in the scene.
Then it is frozen, so that its embeddings can be cached while the U-Net trains.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from scedit_cli.scenes.build import pictures
from scedit_cli.scenes.build.loop import train
from scedit_cli.scenes.captions import named_objects
from scedit_cli.scenes.scene import COLORS, FLOORS, SHAPES, SKIES, TEXTURES

MAX_TOKENS = 40
STEPS = 500
WIDTH = 128


def new_tokenizer(folder: Path, texts: list[str]) -> CLIPTokenizer:
    """Train a byte-pair tokenizer in CLIP's layout: a word of `texts` is one token, and other texts still encode."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    as_bytes = pre_tokenizers.ByteLevel(False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(), as_bytes]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1024, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.model.save(str(folder))
    vocab, merges = _complete(folder, alphabet)
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_TOKENS)


def _complete(folder: Path, alphabet: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return vocabulary and merges in CLIP's order: every byte, alone and at a word's end, then the merged tokens, then
    the two special ones."""
    import json

    learnt = json.loads((folder / "vocab.json").read_text())
    merges = [tuple(line.split(" ")) for line in (folder / "merges.txt").read_text().splitlines()[1:] if line]
    tokens = sorted(alphabet) + [letter + "</w>" for letter in sorted(alphabet)]
    tokens += [token for token in learnt if token not in set(tokens)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}, merges


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


class _Questions(torch.nn.Module):
    """Linear heads on the encoder's states, for training only."""

    def __init__(self) -> None:
        super().__init__()
        self.noun = torch.nn.Linear(WIDTH, len(COLORS) + len(SHAPES) + 5)
        named = len(FLOORS) + len(TEXTURES) + 1 + len(SKIES) + 1 + len(COLORS) * len(SHAPES)
        self.whole = torch.nn.Linear(WIDTH, named)


def train_text_encoder(work: Path, scenes: int) -> tuple[CLIPTokenizer, CLIPTextModel]:
    captions = pictures.load(work, "plain", scenes, "captions")[0].tolist()
    tokenizer = new_tokenizer(work / "tokenizer", captions)
    torch.manual_seed(0)
    encoder, questions = new_text_encoder(tokenizer).train(), _Questions()
    ids = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    shape_ids = torch.tensor([tokenizer.convert_tokens_to_ids(f"{shape}</w>") for shape in SHAPES])
    nouns = torch.isin(ids, shape_ids)
    labels = [_labels(text) for text in captions]
    noun_labels = torch.zeros(*ids.shape, 4, dtype=torch.long)
    for row, (objects, _, _) in enumerate(labels):
        noun_labels[row, nouns[row]] = torch.tensor(objects)
    whole_labels = torch.tensor([whole for _, whole, _ in labels])
    present = torch.stack([there for _, _, there in labels])
    ends = (ids == tokenizer.eos_token_id).int().argmax(1)
    noun_parts = (len(COLORS), len(SHAPES), 3, 2)
    whole_parts = (len(FLOORS), len(TEXTURES) + 1, len(SKIES) + 1, len(COLORS) * len(SHAPES))

    def loss_at(step: int) -> torch.Tensor:
        rows = torch.randint(0, len(captions), (64,))
        states = encoder(ids[rows]).last_hidden_state
        at = nouns[rows]
        answers = questions.noun(states[at]).split(noun_parts, dim=-1)
        truth = noun_labels[rows][at]
        loss = sum(functional.cross_entropy(a, truth[:, i]) for i, a in enumerate(answers))
        whole = questions.whole(states[torch.arange(len(rows)), ends[rows]])
        floor, texture, sky, there = whole.split(whole_parts, dim=-1)
        for i, answer in enumerate((floor, texture, sky)):
            loss = loss + functional.cross_entropy(answer, whole_labels[rows, i])
        return loss + 4 * functional.binary_cross_entropy_with_logits(there, present[rows])

    train(
        "text", work, {"encoder": encoder, "questions": questions}, loss_at, steps=STEPS, learning_rate=1e-3, warmup=100
    )
    return tokenizer, encoder.eval()


def _labels(text: str) -> tuple[list[list[int]], list[int], torch.Tensor]:
    """Return a caption's labels: per noun (colour, shape, size, gloss), for the whole (floor, texture, sky), and 1 for
    every (colour, shape) that is there, else 0."""
    colors, shapes = list(COLORS), list(SHAPES)
    there = torch.zeros(len(colors) * len(shapes))
    objects, words = [], text.replace(",", "").replace(":", "").split()
    for at, word in enumerate(words):
        if word not in shapes:
            continue
        before = words[max(0, at - 4) : at]
        adjectives = []
        for candidate in reversed(before):  # back to the article that opens this noun phrase
            if candidate in ("a", "an"):
                break
            adjectives.append(candidate)
        size = 1 if "large" in adjectives else 2 if "small" in adjectives else 0
        objects.append([colors.index(adjectives[0]), shapes.index(word), size, int("shiny" in adjectives)])
    for color, shape in named_objects(text):
        there[colors.index(color) * len(shapes) + shapes.index(shape)] = 1
    floor = next(i for i, name in enumerate(FLOORS) if f"{name} floor" in text)
    texture = next((i for i, name in enumerate(TEXTURES) if name in words), len(TEXTURES))
    sky = next((i for i, name in enumerate(SKIES) if f"{name} sky" in text), len(SKIES))
    return objects, [floor, texture, sky], there
