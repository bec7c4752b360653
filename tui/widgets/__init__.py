"""The widgets of the workbench: panes, lists, table, key line and status line."""
