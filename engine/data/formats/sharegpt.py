"""Conversations in ShareGPT's schema: a column of lists of {from, value}."""

from functools import partial

from engine.data.formats import DataFormat
from engine.data.formats.messages import convert_chat, find_chat

FORMAT = DataFormat("sharegpt", 21, partial(find_chat, style="sharegpt"), convert_chat)
