"""A minimal Textual app: the baseline for the workbench's first paint."""

from textual.app import App, ComposeResult
from textual.widgets import Static


class Hello(App[None]):
    """An app with one line of text."""

    def compose(self) -> ComposeResult:
        yield Static("Hello, World!")


if __name__ == "__main__":
    Hello().run()
