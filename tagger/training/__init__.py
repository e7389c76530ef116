"""Training recipes, and the code that runs them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "callbacks",
        "devices",
        "fine_tuning",
        "losses",
        "optimizers",
        "recipes",
        "run_table",
        "runs",
        "supervision",
        "tasks",
        "teacher_scores",
        "trainer",
    ],
)
