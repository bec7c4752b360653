"""Conversations in OpenAI's schema: a column of lists of {role, content}."""

from functools import partial

from engine.data.chat_columns import convert_chat, find_chat
from engine.data.format import DataFormat

FORMAT = DataFormat("messages", 20, partial(find_chat, style="messages"), convert_chat)
