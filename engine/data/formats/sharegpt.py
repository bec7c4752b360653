"""Conversations in ShareGPT's schema: a column of lists of {from, value}."""

from functools import partial

from engine.data.chat_columns import convert_chat, find_chat
from engine.data.format import DataFormat

FORMAT = DataFormat("sharegpt", 21, partial(find_chat, style="sharegpt"), convert_chat)
