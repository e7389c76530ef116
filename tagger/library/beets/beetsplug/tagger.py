"""A beets plugin: scores of tags as flexible fields, on import or with `beet tagger`.

In beets' configuration:

    plugins: tagger
    tagger:
        auto: yes           # analyse what is imported
        model: student      # pretrained model, or model file
        excerpts: 0         # segments of each song to hear; 0: all
        genre: no           # also write the clearest genres to the field genres
        threshold: 0.5      # score from which a genre counts; by default the
                            # thresholds in the model, or 0.3 if it holds none

Then `beet ls rock:0.5.. slow:0.3..` finds songs. Spaces in names become underscores,
and a tag with the name of a field of beets gets the prefix `tag_`.
"""

import functools
import os
import re

import numpy as np
from beets.dbcore import types
from beets.library import Album, Item
from beets.plugins import BeetsPlugin
from beets.ui import Subcommand, UserError, should_write
from beets.util import displayable_path, syspath

from tagger.inference.streaming import StreamOptions, progress
from tagger.inference.tagger import Tagger
from tagger.library import mapping
from tagger.models.files import read_info
from tagger.models.metadata import DEFAULT_MODEL
from tagger.weights import pretrained

MODEL_FIELD = "tagger_model"  # digest of the model whose scores an item holds
MAX_GENRES = 3
DEFAULT_THRESHOLD = 0.3


def field_of(tag: str) -> str:
    """Returns the name of the flexible field for a tag."""
    name = re.sub(r"[^\w]+", "_", tag.strip().lower()).strip("_") or "tag"
    known = {*Item._fields, *Album._fields, MODEL_FIELD}
    return f"tag_{name}" if name in known or name[0].isdigit() else name


class TaggerPlugin(BeetsPlugin):
    """The plugin; beets creates it."""

    def __init__(self):
        super().__init__("tagger")
        self.config.add(
            {
                "auto": True,
                "model": DEFAULT_MODEL,
                "excerpts": 0,
                "genre": False,
                "threshold": None,
            }
        )
        if self.config["auto"].get(bool):
            self.import_stages = [self.imported]

    @property
    def item_types(self) -> dict[str, types.Type]:
        """Makes the fields numbers, so that `rock:0.5..` finds ranges."""
        try:
            return {field_of(tag): types.FLOAT for tag in self._tags()}
        except (ValueError, OSError) as error:  # `analyse` reports it
            self._log.debug("{}", error)
            return {}

    def _model(self) -> str:
        return self.config["model"].as_str()

    def _tags(self) -> tuple[str, ...]:
        model = self._model()
        if model in pretrained.PRETRAINED:
            return pretrained.PRETRAINED[model].tags
        if model.endswith((".keras", ".onnx")):
            return read_info(model).tags or ()
        return self._tagger().tags

    @functools.cache  # noqa: B019, there is one plugin
    def _tagger(self) -> Tagger:
        return Tagger(self._model())

    def commands(self) -> list[Subcommand]:
        """Returns the command `beet tagger`."""
        command = Subcommand("tagger", help="score the tags of songs")
        command.parser.add_option(
            "-f",
            "--force",
            action="store_true",
            default=False,
            help="analyse songs that have scores of this model already",
        )
        command.func = lambda lib, options, words: self.analyse(
            lib.items(words), options.force
        )
        return [command]

    def imported(self, session, task) -> None:
        """Analyses what was imported."""
        self.analyse(task.imported_items(), False)

    def analyse(self, items, force: bool) -> None:
        """Scores songs and stores the scores.

        Args:
            items: Items of beets' library.
            force: Whether to score those too that this model has scored.

        Raises:
            UserError: the model cannot be opened.
        """
        try:
            num_excerpts = self.config["excerpts"].get(int) or None
            digest = pretrained.digest(self._model())
            if num_excerpts:
                digest += f" excerpts {num_excerpts}"
            waiting = {
                syspath(item.path): item
                for item in items
                if force or item.get(MODEL_FIELD) != digest
            }
            if not waiting:
                return
            paths = [os.fsdecode(path) for path in waiting]
            tagger = self._tagger()
        except (ValueError, OSError, ImportError) as error:
            raise UserError(f"tagger: {error}") from error
        options = StreamOptions(num_excerpts, None)
        with progress(len(paths), "Tagging") as bar:
            found = tagger.taggrams(paths, None, bar, options)
            for item, one in zip(waiting.values(), found, strict=True):
                if one.error:
                    self._log.warning("{}: {}", displayable_path(one.path), one.error)
                    continue
                self._store(item, tagger, one.value.aggregated(), digest)

    def _store(self, item: Item, tagger: Tagger, scores, digest: str) -> None:
        for tag, score in zip(tagger.tags, scores, strict=True):
            item[field_of(tag)] = round(float(score), 4)
        item[MODEL_FIELD] = digest
        if self.config["genre"].get(bool):
            thresholds = np.full(len(scores), DEFAULT_THRESHOLD)
            if self.config["threshold"].get() is not None:
                thresholds[:] = self.config["threshold"].get(float)
            elif tagger.info.thresholds:
                thresholds = mapping.thresholds_to_write(tagger.info.thresholds)
            values = mapping.read_mapping().values(
                tagger.tags, scores, thresholds, MAX_GENRES
            )
            if values.get("genre"):
                held = list(item.get("genres") or [])
                new = [value for value in values["genre"] if value not in held]
                item["genres"] = held + new
        item.store()
        if self.config["genre"].get(bool) and should_write():
            item.try_write()
