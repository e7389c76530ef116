"""Training recipes, and the code that runs them."""
