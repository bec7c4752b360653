"""Launch preview: memory of each method, what a run or ladder will do, and problems found before it starts."""
