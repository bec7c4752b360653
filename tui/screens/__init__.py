"""The screens of the workbench, and the controllers that the bench composes."""
