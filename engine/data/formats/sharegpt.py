"""Conversations under ShareGPT's names: a column of {from, value} lists."""

from functools import partial

from engine.data.chat_columns import convert_chat, find_chat
from engine.data.format import DataFormat

FORMAT = DataFormat("sharegpt", 21, partial(find_chat, style="sharegpt"), convert_chat)
