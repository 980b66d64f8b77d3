"""Weighted prompts in compel's syntax: their parsing, and their pooled embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scedit_cli.utils.errors import SceditError, not_installed, reason

if TYPE_CHECKING:
    from compel.embeddings_provider import EmbeddingsProvider
    from compel.prompt_parser import Blend, Conjunction, FlattenedPrompt
    from torch import Tensor


def parsed(prompt: str) -> Conjunction:
    """Parse a weighted prompt by compel.

    Raises:
        SceditError: compel is not installed, or the prompt is not in its syntax, has no words, has weights that add up
            to 0, or uses swap() or withLora().
    """
    try:
        from compel import Compel
        from compel.prompt_parser import FlattenedPrompt
    except ImportError as error:
        raise not_installed("a weighted prompt", "compel", "prompts") from error
    try:
        conjunction = Compel.parse_prompt_string(prompt)
    except Exception as error:  # compel's own errors, its parser's, and those of malformed numbers
        raise SceditError(
            f"prompt {prompt!r}: it is not in compel's syntax: {reason(error)}",
            hint="write a \\ before brackets that are text, or leave `weighted` out",
        ) from error
    for part in conjunction.prompts:
        if isinstance(part, FlattenedPrompt) and part.wants_cross_attention_control:
            raise SceditError(f"prompt {prompt!r}: swap() is not supported", hint="write the words to be drawn")
    if conjunction.lora_weights:
        raise SceditError(f"prompt {prompt!r}: withLora() is not supported", hint="give tuners with `tuners`")
    if not conjunction.prompts:
        raise SceditError(f"prompt {prompt!r}: it has no words", hint="write some, or leave the brackets out")
    blends = [part for part in conjunction.prompts if hasattr(part, "prompts") and part.normalize_weights]
    if any(sum(each.weights) == 0 for each in (conjunction, *blends)):
        raise SceditError(f"prompt {prompt!r}: its weights add up to 0", hint="blend(1, -1, no_normalize) takes such")
    return conjunction


def pooled(conjunction: Conjunction, encoder: EmbeddingsProvider) -> Tensor:
    """Return the pooled embedding (1, width) of a weighted prompt's words alone, since a pooled embedding has no tokens
    to weight. compel would pool the literal text, with brackets and numbers. Several prompts, from `blend()` or
    `and()`, give the mean by their weights."""
    vectors = [_of_part(part, encoder) for part in conjunction.prompts]
    return _mean(vectors, conjunction.weights)


def _of_part(part: Blend | FlattenedPrompt, encoder: EmbeddingsProvider) -> Tensor:
    if hasattr(part, "prompts"):
        vectors = [_of_part(each, encoder) for each in part.prompts]
        return _mean(vectors, part.weights, part.normalize_weights)
    return encoder.get_pooled_embeddings([" ".join(fragment.text for fragment in part.children)])


def _mean(vectors: list[Tensor], weights: list[float], normalized: bool = True) -> Tensor:
    total = sum(vector * weight for vector, weight in zip(vectors, weights, strict=True))
    return total / sum(weights) if normalized else total
