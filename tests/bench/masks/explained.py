"""Why a peer's mask differs from ours, by tool and shape, found by reading the peer's source.

What the line feed behind ChatML's end token changes is said once, in MASKS.md, and not here.
"""

EXPLAINED: dict[tuple[str, str], str] = {
    ("trl", "reasoning in earlier turns"): (
        "Qwen3's template drops the reasoning of earlier turns. ftbench renders the template as it is, masks the "
        "earlier answers, which were not written after this prompt, and says so in a warning. trl replaces the "
        "template by a copy that keeps the earlier reasoning (`get_training_chat_template`) and trains on all of "
        "it."
    ),
    ("trl", "opens with an answer"): (
        "The conversation starts with an answer. ftbench masks it, because no prompt asks for it, and says so in "
        "a warning. trl trains on every generation block of the template."
    ),
    ("trl", "ends with a question"): (
        "The conversation ends with a question. ftbench stops at the last answer: nothing after it is in the "
        "loss. trl keeps the question, masked: the loss is the same."
    ),
    ("trl", "empty answer in the middle"): (
        "An answer without text. ftbench masks it and says so in a warning, as axolotl does. trl trains its end token: "
        "to end a turn without a word."
    ),
    ("LLaMA-Factory", "empty answer in the middle"): (
        "An answer without text. ftbench masks it and says so in a warning, as axolotl does. LLaMA-Factory trains its "
        "end token: to end a turn without a word."
    ),
    ("LLaMA-Factory", "alpaca with input"): (
        "LLaMA-Factory joins instruction and input by one line feed (`AlpacaDatasetConverter`), ftbench by an "
        "empty line. The answers are the same."
    ),
    ("LLaMA-Factory", "parallel tool calls"): (
        "LLaMA-Factory's OpenAI format replaces an answer's text by its tool calls (`OpenAIDatasetConverter`), so "
        "'I look.' is lost. ftbench keeps both."
    ),
    ("LLaMA-Factory", "plain text"): (
        "LLaMA-Factory's collator masks the padding token, which in SmolLM2 is the end token, so the model does "
        "not learn to stop."
    ),
    ("LLaMA-Factory", "answer cut at max_length"): (
        "Where prompt and answer both have at least half of max_length it cuts both in proportion "
        "(`infer_seqlen`), here in the middle of the system prompt. ftbench cuts on the right only."
    ),
    ("LLaMA-Factory", "prompt longer than max_length"): (
        "The prompt alone fills max_length, so no token is in the loss. ftbench leaves the row out and counts it "
        "(as trl does). LLaMA-Factory cuts the end off the prompt, generation prompt included, and trains the "
        "answer behind the rest (`infer_seqlen`)."
    ),
    ("LLaMA-Factory", "reasoning in earlier turns"): (
        "Qwen3's template drops the reasoning of earlier turns. ftbench renders the template as it is, masks the "
        "earlier answers, which were not written after this prompt, and says so in a warning. LLaMA-Factory "
        "writes all turns by its own template, which keeps the earlier reasoning unless `mask_history` is set "
        "(`ReasoningTemplate.encode_multiturn`), and trains on them."
    ),
    ("LLaMA-Factory", "answer without reasoning"): (
        "The text is the same. LLaMA-Factory encodes the empty reasoning block by itself "
        "(`get_thought_word_ids`), so its line feeds may be other tokens than those of the whole text."
    ),
    ("LLaMA-Factory", "opens with an answer"): (
        "The conversation starts with an answer. ftbench masks it, because no prompt asks for it, and says so in "
        "a warning. LLaMA-Factory drops every conversation in which user and assistant do not alternate from a "
        "user message on (`SharegptDatasetConverter`)."
    ),
    ("LLaMA-Factory", "ends with a question"): (
        "The conversation ends with a question. ftbench stops at the last answer: nothing after it is in the "
        "loss. LLaMA-Factory drops conversations of an odd number of messages (`SharegptDatasetConverter`)."
    ),
    ("axolotl", "prompt longer than max_length"): (
        "The prompt alone fills max_length, so no token is in the loss. ftbench leaves the row out and counts it "
        "(as trl does). With `excess_length_strategy: truncate` axolotl keeps the row without any token in the "
        "loss; by default it drops every row longer than the limit."
    ),
    ("axolotl", "reasoning"): (
        "axolotl finds an answer by what differs when the answer is replaced by a placeholder "
        "(`_find_turn_from_text`). Qwen3's template writes <think> for the placeholder too, so the opening "
        "<think> is not in the loss although the model has to write it."
    ),
    ("axolotl", "reasoning in earlier turns"): (
        "Qwen3's template drops the reasoning of earlier turns. ftbench renders the template as it is, masks the "
        "earlier answers, which were not written after this prompt, and says so in a warning. axolotl trains the "
        "earlier answer without its reasoning, as the template writes it; as for the opening <think> see above."
    ),
    ("axolotl", "answer without reasoning"): (
        "As for the opening <think> above: the empty reasoning block that the template writes is not in its loss."
    ),
    ("axolotl", "opens with an answer"): (
        "The conversation starts with an answer. ftbench masks it, because no prompt asks for it, and says so in "
        "a warning. axolotl trains every message of the role assistant."
    ),
    ("axolotl", "ends with a question"): (
        "The conversation ends with a question. ftbench stops at the last answer: nothing after it is in the "
        "loss. axolotl keeps the question, masked: the loss is the same."
    ),
}
