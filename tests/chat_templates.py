"""Chat templates of the kinds that pretrained models have, around the tokens of a tokenizer trained on the spot."""

from typing import Any

from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.tokenizer_training import train_tokenizer

TEXTS = ["the cat sees a dog near the river", "what comes after twenty ? it is twenty-one .", "be short ."] * 5

IM = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
CHATML = IM + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
LLAMA = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ '<<SYS>>' + m['content'] + '<</SYS>>' }}"
    "{% elif m['role'] == 'user' %}{{ '[INST] ' + m['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
)
FORGETFUL = (  # as those that leave out what was thought in earlier turns
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if loop.last or m['role'] != 'assistant' %}"
    "{{ m['content'] }}{% else %}{{ m['content'].split('|')[-1] }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ONE_END = (
    "{% for m in messages %}{{ m['content'] + '\n' }}{% endfor %}"
    "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
)
ENDLESS = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


def chat_tokenizer(template: str | None, algorithm: Any = "bpe") -> PreTrainedTokenizerFast:
    made = train_tokenizer(TEXTS, algorithm, 320, 128)
    if template is not None and "im_start" in template:
        made.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    made.chat_template = template
    return made
