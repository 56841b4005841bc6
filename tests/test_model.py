import json

import pytest
import torch
from conftest import ARCHITECTURES, byte_tokenizer

from workbench.encoding import chat, encode, locate
from workbench.errors import ModelError, PromptError
from workbench.model import changed, describe, load_model, plain, state, untouched

TEXTS = {
    "Thai, no spaces": "ทำไมสุนัขเห่า",
    "Khmer, stacked": "ហេតុអ្វីបានជាឆ្កែព្រុស",
    "Burmese, stacked": "ခွေးက ဘာလို့ဟောင်တာလဲ",
    "Chinese": "狗为什么叫",
    "Yoruba, combining marks": "Kí ló dé tí ajá fi ń gbó̩",
    "Arabic, right to left": "لماذا ينبح الكلب؟",
    "Hebrew, right to left": "למה הכלב נובח?",
    "emoji at the end": "why 🐕",
    "blank at the end": "why does it bark? \n",
    "text of the template": "say [assistant] </s> twice",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_last_instruction_is_the_last_token_of_the_users_text(text):
    """Independent of offsets: the bytes up to the token are the prompt up to the text's last visible character."""
    tokenizer = byte_tokenizer()
    (e,) = encode(tokenizer, [text])
    prompt = chat(tokenizer, text)
    start = prompt.index("[user] ") + len("[user] ")
    upto = (prompt[:start] + text.rstrip()).replace("<s>", "").replace("</s>", "#")
    assert e.last_instruction == len(upto.encode())  # one token per byte, one for <s>, one for </s>
    assert locate(tokenizer, text, "last_instruction") == e.last_instruction
    assert locate(tokenizer, text, "last_prompt") == len(e.ids) - 1 > e.last_instruction


def test_templates_that_put_text_after_the_users_turn_do_not_move_the_position():
    tokenizer = byte_tokenizer()
    before = locate(tokenizer, "hello", "last_instruction")
    tokenizer.chat_template = tokenizer.chat_template.replace("{% if add", " Answer briefly, hello. {% if add")
    assert locate(tokenizer, "hello", "last_instruction") == before
    assert locate(tokenizer, "hello", "last_prompt") > before + len(" Answer briefly, hello. ")


def test_templates_that_trim_the_text_are_understood_and_those_that_rewrite_it_are_refused():
    tokenizer = byte_tokenizer()
    plain = locate(tokenizer, "hello", "last_instruction")
    tokenizer.chat_template = tokenizer.chat_template.replace("m['content']", "m['content'] | trim")
    assert locate(tokenizer, "  hello  ", "last_instruction") == plain
    tokenizer.chat_template = tokenizer.chat_template.replace("| trim", "| upper")
    with pytest.raises(ModelError, match=r"probe|rewrites|show the user's text"):
        locate(tokenizer, "hello", "last_instruction")


def test_blank_prompts_and_unknown_positions_are_errors_in_words():
    with pytest.raises(PromptError, match="blank"):
        encode(byte_tokenizer(), ["  \n"])
    with pytest.raises(ModelError, match="average"):
        locate(byte_tokenizer(), "hello", "prompt_mean")


def test_equal_token_ids_have_equal_keys_and_other_ids_other_keys():
    a, b, c = encode(byte_tokenizer(), ["hello", "hello", "hello!"])
    assert a.key == b.key != c.key


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_loaded_model_is_checked_and_described(tiny, architecture):
    model = tiny(architecture)
    about = describe(model)
    assert (about.n_layers, about.d_model, about.dtype) == (4, 32, "float32")
    assert model.tokenizer.padding_side == "left"
    assert type(about).from_json(about.to_json()) == about


def test_the_fingerprint_depends_on_weights_dtype_and_template_and_on_nothing_else(tiny, model_folder, tmp_path):
    base = describe(tiny("llama"))
    again = describe(load_model(model_folder("llama"), device="cpu", dtype=torch.float32))
    assert again.fingerprint == base.fingerprint
    other = describe(tiny("llama", seed=1))
    half = describe(tiny("llama", dtype=torch.bfloat16))
    assert len({base.fingerprint, other.fingerprint, half.fingerprint}) == 3
    assert "weights" in base.differences(other) and "dtype" not in base.differences(other)
    assert "dtype" in base.differences(half)


def test_one_changed_weight_changes_the_fingerprint(tiny, model_folder, tmp_path):
    from conftest import random_model

    hf = random_model("llama")
    hf.model.layers[2].mlp.up_proj.weight.data[3, 5] += 1e-3
    hf.save_pretrained(tmp_path / "m")
    byte_tokenizer().save_pretrained(tmp_path / "m")
    changed_model = load_model(tmp_path / "m", device="cpu", dtype=torch.float32)
    assert describe(changed_model).fingerprint != describe(tiny("llama")).fingerprint


def test_an_unknown_alias_names_the_nearest():
    with pytest.raises(ModelError, match=r"qwen2\.5-coder-0\.5b"):
        load_model("qwen2.5-coder-0.5")


def test_a_model_without_a_chat_template_says_what_to_do(model_folder, tmp_path):
    import shutil

    shutil.copytree(model_folder("llama"), tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="chat template"):
        load_model(tmp_path / "base", device="cpu")


def test_too_little_memory_is_noticed_before_loading(model_folder, monkeypatch):
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1000})())
    with pytest.raises(ModelError, match="GiB are free"):
        load_model(model_folder("llama"), device="cpu")


def test_a_gated_model_without_a_token_says_what_to_do(monkeypatch):
    import httpx
    import transformers
    from huggingface_hub.errors import GatedRepoError

    def gated(*args, **kwargs):
        raise GatedRepoError("gated", response=httpx.Response(403, request=httpx.Request("GET", "http://hub")))

    monkeypatch.setattr("workbench.hardware.count_parameters", lambda where: None)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", gated)
    with pytest.raises(ModelError, match="licence"):
        load_model("llama-3.1-8b", device="cpu")


def test_a_folder_that_is_not_a_model_is_an_error_in_words(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ModelError, match="could not be loaded"):
        load_model(tmp_path, device="cpu")


def test_a_model_that_was_not_loaded_here_cannot_be_described():
    class Bare(torch.nn.Module):
        pass

    with pytest.raises(ModelError, match="load_model"):
        describe(Bare())


def test_what_is_on_is_registered_and_comes_off_also_after_an_error(tiny):
    model = tiny("llama")
    with changed(model, "outer"), changed(model, "inner"):
        assert state(model) == "outer + inner"
    with pytest.raises(RuntimeError), changed(model, "outer"):
        raise RuntimeError
    assert state(model) == ""


@pytest.mark.real
def test_the_default_model_places_tokens_by_their_text(default_model):
    for text in TEXTS.values():
        (e,) = encode(default_model, [text])
        tail = default_model.tokenizer.decode(e.ids[e.last_instruction + 1 :])
        assert tail.strip().startswith("<|im_end|>")
        assert default_model.tokenizer.decode(e.ids).split("user\n")[-1].startswith(text.strip()[:5])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_plain_modules_give_the_same_bits_and_the_bridge_comes_back(tiny, architecture):
    model = tiny(architecture, torch.bfloat16)
    ids = torch.randint(0, 250, (3, 17), generator=torch.Generator().manual_seed(0))

    def hidden():
        with torch.inference_mode():
            return model.original_model.base_model(input_ids=ids, use_cache=False).last_hidden_state

    def fired():
        seen = []
        with model.hooks(fwd_hooks=[("blocks.1.hook_out", lambda v, hook: seen.append(1))]):
            out = hidden()
        return out, len(seen)

    with_bridge, n = fired()
    with pytest.raises(RuntimeError, match="on purpose"), plain(model) as blocks:
        without, silent = fired()
        assert len(blocks) == model.cfg.n_layers
        raise RuntimeError("on purpose")
    assert torch.equal(with_bridge, without) and (n, silent) == (1, 0)
    assert fired()[1] == 1


def test_a_hook_put_on_by_hand_is_listened_to_by_capture_and_completion(home, tiny, prompts):
    from workbench.activations import cache_activations
    from workbench.completions import complete

    model, seen = tiny(), []
    assert untouched(model)
    with model.hooks(fwd_hooks=[("blocks.1.hook_out", lambda v, hook: seen.append(1))]):
        assert not untouched(model)
        cache_activations(model, prompts[:2], progress=False)
        captured = len(seen)
        complete(model, prompts[:2], max_new_tokens=2, progress=False)
    assert 0 < captured < len(seen) and untouched(model)
