"""Training recipes, and the code that runs them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "calibration",
        "callbacks",
        "distillation",
        "distribution",
        "fine_tuning",
        "heads",
        "labelled_clips",
        "noisy_student",
        "recipes",
        "runs",
        "teacher_scores",
        "trainer",
        "transfer",
    ],
)
