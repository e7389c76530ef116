"""Evaluates a model on a split: ROC-AUC and PR-AUC, macro and per tag."""

from tagger import cli

main = cli.main_of("eval", "eval.py")

if __name__ == "__main__":
    cli.run(main)
