"""A bench: a model, interventions and a direction as one callable that answers a prompt token by token.

What `widgets.SteeringBench` is given. The text it ends with is the text that `complete` gives, steered or not.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.completions import _end_ids, _logits
from workbench.directions import Direction
from workbench.encoding import Encoded, chat, encode
from workbench.errors import WorkbenchError, nearest
from workbench.model import SITES, describe, input_device
from workbench.parts import Intervention
from workbench.scopes import Layout, run_batch
from workbench.steering import steered

if TYPE_CHECKING:
    import torch
    from transformer_lens.model_bridge import TransformerBridge

_PROBE = "☃"


@dataclass(frozen=True)
class Token:
    """One token, and how harmful the direction finds it.

    Attributes:
        text: what it adds to the text; empty where it ends inside a character, which the next one then brings whole.
        part: `template`, `prompt` (the user's text) or `reply`.
        projection: of the residual stream at the token, as the model goes on with it, residual-stream units; missing for
            the newest token of a reply, which the model has not read yet.
    """

    text: str
    part: str
    projection: float


@dataclass(frozen=True)
class Reply:
    """A reply so far.

    Attributes:
        completion: its text.
        tokens: of the prompt, then of the reply.
        finish: `end` or `length`; empty while it goes on.
        trace: what the intervention recorded, known at the end: `logit`, `threshold`, `fired`, `added_norm`.
    """

    completion: str
    tokens: tuple[Token, ...]
    finish: str = ""
    trace: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_new_tokens(self) -> int:
        """Tokens of the reply."""
        return sum(token.part == "reply" for token in self.tokens)


@dataclass(frozen=True, eq=False)
class Bench:
    """Answers prompts, plain and steered: `bench(text, name, strength)` yields the reply as it grows.

    Attributes:
        model: from `load_model`.
        interventions: name -> function of a strength, such as `{"add harm": lambda a: wb.add(harm, strength=a)}`.
        direction: what every token is projected on.
        max_new_tokens: at most so many.
    """

    model: TransformerBridge
    interventions: Mapping[str, Callable[[float], Intervention]]
    direction: Direction
    max_new_tokens: int = 48

    def __post_init__(self) -> None:
        self.direction.check(describe(self.model))
        if "" in self.interventions:
            raise WorkbenchError("An intervention must have a name; got ''. The empty name is the model itself.")
        if self.max_new_tokens < 1:
            raise WorkbenchError(f"max_new_tokens must be 1 or more; got {self.max_new_tokens}.")

    @property
    def typical(self) -> tuple[float, float]:
        """Projections typical of harmless and of harmful prompts: quartiles of the rows the direction was fitted on."""
        high, low = self.direction.quantiles
        return (low, high)

    def __call__(self, text: str, name: str = "", strength: float = 1.0) -> Iterator[Reply]:
        """The greedy reply to a prompt, growing by a token at a time; the last one has `finish` and `trace`.

        Everything that is on is taken off when the iterator ends or is closed. Use one iterator at a time in a thread.

        Args:
            text: the user's message, in any language.
            name: an intervention's; empty for the model itself.
            strength: given to the intervention's function.

        Raises:
            WorkbenchError: there is no such intervention, the text is blank, or the intervention does not belong here or
                touched nothing.
        """
        if name and name not in self.interventions:
            raise WorkbenchError(
                f"An intervention must be one of the bench's; got {name!r}. " + nearest(name, self.interventions)
            )
        (encoded,) = encode(self.model, [text])
        on = steered(self.model, self.interventions[name](strength)) if name else contextlib.nullcontext()
        return self._replies(text, encoded, on)

    def _replies(self, text: str, encoded: Encoded, on: contextlib.AbstractContextManager) -> Iterator[Reply]:
        ends, texts, ids = _end_ids(self.model), _Texts(self.model.tokenizer), []
        tokens = [Token(t, part, np.nan) for t, part in _prompt_tokens(self.model, text, encoded)]
        layout = Layout.padded_left([len(encoded.ids)], input_device(self.model), [encoded.key])
        finish = ""
        with on, self._reading() as read, run_batch(self.model, layout) as batch:
            steps = _Steps(self.model, encoded)
            while not finish:
                token = steps.next()
                tokens = _filled(tokens, read())
                if token in ends:
                    finish = "end"
                    batch.excused = not ids
                    break
                ids.append(token)
                tokens.append(Token(texts.add(token), "reply", np.nan))
                finish = "length" if len(ids) == self.max_new_tokens else ""
                if not finish:
                    yield Reply(self._text(ids), tuple(tokens))
        yield Reply(self._text(ids), tuple(tokens), finish, batch.trace[0])

    def _text(self, ids: list[int]) -> str:
        return self.model.tokenizer.decode(ids, skip_special_tokens=True)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Callable[[], list[float]]]:
        """Read the projections of every pass of this thread, after whatever changes the stream at the same place."""
        seen: list[float] = []
        thread = threading.get_ident()

        def hook(value: torch.Tensor, hook: Any) -> None:
            if threading.get_ident() == thread:
                seen.extend(self.direction(value[0].detach().float().cpu().numpy()).tolist())

        def read() -> list[float]:
            new = list(seen)
            seen.clear()
            return new

        site = SITES[self.direction.site].format(layer=self.direction.layer)
        with self.model.hooks(fwd_hooks=[(site, hook)]):
            yield read


class _Steps:
    """Greedy generation of one row, a step at a time."""

    def __init__(self, model: TransformerBridge, encoded: Encoded) -> None:
        import torch
        from transformers import DynamicCache

        self._hf, self._cache, self._n = model.original_model, DynamicCache(), 0
        self._ids = torch.tensor([encoded.ids], device=input_device(model))

    def next(self) -> int:
        """Run what has not been run yet; the token that comes next."""
        import torch

        # Not around the generator: the mode would stay on in whoever reads it.
        with torch.inference_mode():
            n = self._n + self._ids.shape[1]
            places = torch.arange(self._n, n, device=self._ids.device)[None]
            mask = torch.ones((1, n), dtype=torch.long, device=self._ids.device)
            hidden = self._hf.base_model(
                input_ids=self._ids,
                attention_mask=mask,
                position_ids=places,
                past_key_values=self._cache,
                use_cache=True,
            ).last_hidden_state
            chosen = _logits(self._hf, hidden[:, -1]).argmax(-1)
        self._n, self._ids = n, chosen[:, None]
        return int(chosen)


class _Texts:
    """Token ids, one after the other -> what each adds to the text."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self._ids, self._start, self._read = tokenizer, [], 0, 0

    def add(self, token: int) -> str:
        """The text that a token adds; empty while a character is not whole."""
        self._ids.append(token)
        # Decoded behind the token before it: alone, many tokenizers drop a leading space.
        before, now = self._decode(self._ids[self._start : self._read]), self._decode(self._ids[self._start :])
        if now.endswith("\ufffd"):
            return ""
        self._start, self._read = self._read, len(self._ids)
        return now[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def _prompt_tokens(model: TransformerBridge, text: str, encoded: Encoded) -> list[tuple[str, str]]:
    """Text and part of each token of the chat prompt."""
    before = chat(model, _PROBE).partition(_PROBE)[0]
    told = model.tokenizer(chat(model, text), add_special_tokens=False, return_offsets_mapping=True)
    assert tuple(told["input_ids"]) == encoded.ids, "the chat prompt was encoded differently"
    parts = [
        "prompt" if stop > len(before) and i <= encoded.last_instruction else "template"
        for i, (_, stop) in enumerate(told["offset_mapping"])
    ]
    texts = _Texts(model.tokenizer)
    return [(texts.add(token), part) for token, part in zip(encoded.ids, parts, strict=True)]


def _filled(tokens: list[Token], projections: list[float]) -> list[Token]:
    """The tokens with the projections of the last of them, which were just read."""
    old, new = tokens[: -len(projections)], tokens[-len(projections) :]
    return old + [Token(t.text, t.part, p) for t, p in zip(new, projections, strict=True)]
