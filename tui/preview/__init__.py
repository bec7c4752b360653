"""Before a launch: what each method would take, what will happen, and what is wrong."""
