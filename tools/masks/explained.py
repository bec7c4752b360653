"""Reasons for differences between the masks of a peer and ftbench, by tool and shape, from the peer's source.

The line feed after ChatML's end token is explained once, in tools/RESULTS.md.
"""

EXPLAINED: dict[tuple[str, str], str] = {
    ("trl", "reasoning in earlier turns"): (
        "Qwen3's template drops the reasoning of earlier turns. ftbench renders the template as it is, masks "
        "the earlier answers, which were not written after this prompt, and warns. trl replaces the template "
        "with a copy that retains the earlier reasoning (`get_training_chat_template`) and trains on all of "
        "it."
    ),
    ("trl", "opens with an answer"): (
        "The conversation starts with an answer. ftbench masks it, because it follows no prompt, and warns. "
        "trl trains on every `{% generation %}` block of the template."
    ),
    ("trl", "ends with a question"): (
        "The conversation ends with a question. ftbench stops at the last answer: nothing after it is in the "
        "loss. trl retains the question, masked: the loss is the same."
    ),
    ("trl", "empty answer in the middle"): (
        "An empty answer. ftbench masks it and warns; axolotl masks it as well. trl trains on its end token, "
        "so the model learns to give an empty answer."
    ),
    ("LLaMA-Factory", "empty answer in the middle"): (
        "An empty answer. ftbench masks it and warns; axolotl masks it as well. LLaMA-Factory trains on its "
        "end token, so the model learns to give an empty answer."
    ),
    ("LLaMA-Factory", "alpaca with input"): (
        "LLaMA-Factory joins instruction and input with one line feed (`AlpacaDatasetConverter`), ftbench "
        "with an empty line. The answers are the same."
    ),
    ("LLaMA-Factory", "parallel tool calls"): (
        "LLaMA-Factory's OpenAI format replaces an answer's text with its tool calls "
        "(`OpenAIDatasetConverter`), so 'I look.' is lost. ftbench retains both."
    ),
    ("LLaMA-Factory", "plain text"): (
        "LLaMA-Factory's collator masks the padding token, which in SmolLM2 is the end token, so the model "
        "does not learn to stop."
    ),
    ("LLaMA-Factory", "answer cut at max_length"): (
        "If prompt and answer both have at least half of max_length, LLaMA-Factory truncates both in "
        "proportion (`infer_seqlen`), here in the middle of the system prompt. ftbench truncates on the right "
        "only."
    ),
    ("LLaMA-Factory", "prompt longer than max_length"): (
        "The prompt alone fills max_length, so no token is in the loss. ftbench leaves the row out and counts "
        "it (as trl does). LLaMA-Factory truncates the end of the prompt, including the generation prompt, "
        "and trains on the answer after it (`infer_seqlen`)."
    ),
    ("LLaMA-Factory", "reasoning in earlier turns"): (
        "Qwen3's template drops the reasoning of earlier turns. ftbench renders the template as it is, masks "
        "the earlier answers, which were not written after this prompt, and warns. LLaMA-Factory writes all "
        "turns with its own template, which retains the earlier reasoning unless `mask_history` is set "
        "(`ReasoningTemplate.encode_multiturn`), and trains on them."
    ),
    ("LLaMA-Factory", "answer without reasoning"): (
        "The text is the same. LLaMA-Factory encodes the empty reasoning block separately "
        "(`get_thought_word_ids`), so its line feeds can be other tokens than in the full text."
    ),
    ("LLaMA-Factory", "opens with an answer"): (
        "The conversation starts with an answer. ftbench masks it, because it follows no prompt, and warns. "
        "LLaMA-Factory drops every conversation in which user and assistant do not alternate, starting with "
        "the user (`SharegptDatasetConverter`)."
    ),
    ("LLaMA-Factory", "ends with a question"): (
        "The conversation ends with a question. ftbench stops at the last answer: nothing after it is in the "
        "loss. LLaMA-Factory drops conversations of an odd number of messages (`SharegptDatasetConverter`)."
    ),
    ("axolotl", "prompt longer than max_length"): (
        "The prompt alone fills max_length, so no token is in the loss. ftbench leaves the row out and counts "
        "it (as trl does). With `excess_length_strategy: truncate` axolotl retains the row without any token "
        "in the loss; by default it drops every row longer than the limit."
    ),
    ("axolotl", "reasoning"): (
        "axolotl locates an answer by comparing the text with one in which the answer is replaced with a "
        "placeholder (`_find_turn_from_text`). Qwen3's template writes <think> for the placeholder too, so "
        "the opening <think> is not in the loss although the model has to write it."
    ),
    ("axolotl", "reasoning in earlier turns"): (
        "Qwen3's template drops the reasoning of earlier turns. ftbench renders the template as it is, masks "
        "the earlier answers, which were not written after this prompt, and warns. axolotl trains on the "
        "earlier answer without its reasoning, as the template writes it; for the opening <think> see above."
    ),
    ("axolotl", "answer without reasoning"): (
        "As with the opening <think> above, the empty reasoning block that the template writes is not in its loss."
    ),
    ("axolotl", "opens with an answer"): (
        "The conversation starts with an answer. ftbench masks it, because it follows no prompt, and warns. "
        "axolotl trains on every message with the role assistant."
    ),
    ("axolotl", "ends with a question"): (
        "The conversation ends with a question. ftbench stops at the last answer: nothing after it is in the "
        "loss. axolotl retains the question, masked: the loss is the same."
    ),
}
