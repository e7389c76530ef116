"""Transfer: new tags for models that already know music.

    audio files or shards ─▶ embeddings ─▶ heads, cross-validated ─▶ one tagger

The embeddings come from a cache (`inference.embedding_cache`), the heads from `heads`.
The result is measured beside `baseline`.
"""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import pandas as pd

import tagger
from tagger.evaluation import bootstrap, metrics, rates
from tagger.evaluation.metrics import Evaluation
from tagger.fitting import baseline, heads, labelled_clips
from tagger.fitting.labelled_clips import LabelledClips
from tagger.inference.embedding_cache import Backbone, EmbeddingCache, key_of
from tagger.inference.selection import open_engine
from tagger.models import graphs
from tagger.models.head import Head, appended, kept_tags
from tagger.models.metadata import PENULTIMATE, ModelInfo, check_alike
from tagger.options import Option
from tagger.text import TaggerError
from tagger.weights import composition, pretrained

NUM_RESAMPLES = 1000
MIN_JUDGED_CLIPS = 5  # fewer positive clips say too little about a tag
KEPT_RATE = 0.1  # share of the clips that get an appended tag without a threshold


@dataclasses.dataclass(frozen=True)
class FitOptions:
    """Options of a fit.

    Attributes:
        layer: Layer of the base model whose output is the embedding; penultimate is the
            input of the last layer.
        appends: Keep the base models' own tags beside the new ones.
        min_clips: Fewest positive clips of a tag; tags with fewer are left out.
        num_folds: Number of folds of the cross-validation, if the data names none; no
            artist is in two.
        left_out_fold: Do not use the clips of this fold, which eval --fold N can then
            score; None: use all clips.
        max_skipped: Largest share of the files that may be impossible to decode.
        has_baselines: Measure log-mel statistics for comparison.
        seed: Random seed of the folds.
    """

    layer: Annotated[str, Option(metavar="NAME")] = PENULTIMATE
    appends: Annotated[bool, Option(flag="--append")] = False
    min_clips: Annotated[int, Option(ge=1)] = 1
    num_folds: Annotated[int, Option(ge=2, flag="--folds")] = 5
    left_out_fold: Annotated[int | None, Option(ge=0, flag="--leave-out-fold")] = None
    max_skipped: Annotated[float, Option(ge=0, le=1)] = 0.1
    has_baselines: Annotated[bool, Option(flag="--no-baselines")] = True
    seed: Annotated[int, Option(ge=0)] = 0


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A fitted model and how good it is.

    Attributes:
        head: Head on the embeddings of the bases.
        info: What the model says of itself: tags, thresholds and provenance.
        bases: Base models, as given.
        networks: Their graphs.
        layer: Layer whose output is the embedding.
        scored: Out-of-fold scores of the tags that can be judged.
        baselines: The same for the baseline, by its name, if it was measured.
        num_positives: Number of positive clips of each new tag.
        notes: Sentences about clips and tags that were left out or not judged.
    """

    head: Head
    info: ModelInfo
    bases: tuple[str | os.PathLike, ...]
    networks: tuple[onnx.ModelProto, ...]
    layer: str
    scored: Evaluation
    baselines: dict[str, Evaluation]
    num_positives: dict[str, int]
    notes: tuple[str, ...]

    def save(self, path: str | os.PathLike) -> None:
        """Writes the model, which is named after the file.

        Args:
            path: `.onnx`; or `.keras`, which holds it for Keras too.

        Raises:
            ValueError, ImportError: see `composition.check_output`.
            OSError: the file cannot be written.
        """
        composition.check_output(path, self.bases)
        info = dataclasses.replace(self.info, name=Path(path).stem)
        composition.write(path, self.bases, self.networks, self.head, info, self.layer)

    def table(self) -> pd.DataFrame:
        """Returns clips, AUCs, their 95 % intervals and the baselines' AUCs by tag."""
        table = pd.DataFrame({"clips": pd.Series(self.num_positives, dtype=int)})
        own = metrics.per_tag(self.scored)[["roc_auc", "pr_auc"]]
        ends = bootstrap.intervals_per_tag(self.scored, NUM_RESAMPLES)
        table = table.join(own).join(ends)
        for name, scored in self.baselines.items():
            aucs = metrics.per_tag(scored)[["roc_auc", "pr_auc"]]
            table = table.join(aucs.add_suffix(f", {name}"))
        table.index.name = "tag"
        return table

    def verdicts(self) -> list[str]:
        """Returns the macro scores and a comparison with each baseline, by line."""
        if not self.scored.tags:
            return []
        lines = [
            f"macro {line}"
            for line in bootstrap.describe(
                bootstrap.bootstrap(self.scored, NUM_RESAMPLES)
            )
        ]
        for name, scored in self.baselines.items():
            pair = bootstrap.bootstrap(self.scored, NUM_RESAMPLES, scored)
            difference = pair["roc_auc"]
            verdict = "better than" if difference.low > 0 else "NOT better than"
            macro = metrics.macro(scored)
            lines.append(
                f"{verdict} {name} ({macro['roc_auc']:.4f} / {macro['pr_auc']:.4f}):"
                f" ROC-AUC {difference.value:+.4f}, 95 % interval"
                f" {difference.low:+.4f} to {difference.high:+.4f}"
            )
        return lines


def fit(
    bases: Sequence[str | os.PathLike],
    source: str | os.PathLike,
    options: FitOptions = FitOptions(),
    tags: tuple[str, ...] | None = None,
    tag_separator: str = ";",
    cache: EmbeddingCache | None = None,
) -> Fitted:
    """Fits new tags on the embeddings of one or several base models.

    Args:
        bases: Model files or names of pretrained models. With several, the new head
            sees the embeddings of all.
        source: A csv or a folder with one subfolder per tag (see
            `datasets.csv_manifest`), or a folder of shards. Clips of the split test are
            not used.
        options: Options of the fit.
        tags: Tags to learn, in order. Default: all in alphabetical order.
        tag_separator: Separator of the tags in the column `tags` of a csv.
        cache: Cache of the embeddings. Default: the one in `storage.cache_folder`.

    Raises:
        FileNotFoundError: there is no such model, csv or folder.
        ValueError: the base models cannot be joined, the data cannot be learnt from, or
            too many files cannot be decoded. Computed embeddings stay in the cache.
        OSError: the cache cannot be written.
    """
    cache = cache or EmbeddingCache()
    networks = [composition.graph_of(base, options.layer) for base in bases]
    infos = [graphs.info_of(network) for network in networks]
    check_alike(infos, list(map(str, bases)))
    info = infos[0]
    kept = _heads_of(networks, bases, options.layer) if options.appends else []
    backbones = [backbone_of(base, options.layer) for base in bases]
    representations = {"": backbones}
    if options.has_baselines:
        representations[baseline.NAME] = [baseline.backbone(info)]
    clips = labelled_clips.read_clips(
        source, info, tags, tag_separator, options.left_out_fold
    )
    everything = [b for several in representations.values() for b in several]
    report = []
    embedded = labelled_clips.embed(
        clips, cache, everything, info, options.max_skipped, report
    )
    loaded = {
        name: embedded.examples(cache, several)
        for name, several in representations.items()
    }
    clips = labelled_clips.without_copies(embedded, loaded[""], report)
    clips = labelled_clips.learnable(clips, options.min_clips, report)
    is_kept = np.isin(embedded.names, clips.names)
    loaded = {
        name: dataclasses.replace(examples.chosen(is_kept), labels=clips.labels)
        for name, examples in loaded.items()
    }
    clips = labelled_clips.with_folds(
        clips, loaded[""].means(), options.num_folds, options.seed, report
    )
    validated = {
        name: heads.cross_validate(examples, clips.folds)
        for name, examples in loaded.items()
    }
    judged = _judged(clips, validated.values(), report)
    evaluations = {
        name: _evaluation(clips, scores, judged) for name, scores in validated.items()
    }
    scored = evaluations.pop("")
    examples = loaded[""]
    head = heads.fit(examples)
    thresholds = _thresholds(examples, head, scored)
    head = dataclasses.replace(head, tags=clips.tags)
    if kept:
        thresholds = _kept_thresholds(kept, infos, clips.tags, examples) + thresholds
        head = appended(kept, head)
    about = pretrained.provenance_of(bases, infos) | _provenance(scored)
    described = dataclasses.replace(
        info,
        name="fitted",
        num_tags=len(head.tags),
        tags=head.tags,
        thresholds=tuple(thresholds),
        provenance=about,
    )
    counts = map(int, clips.labels.sum(axis=0))
    positives = dict(zip(clips.tags, counts, strict=True))
    return Fitted(
        head,
        described,
        tuple(bases),
        tuple(networks),
        options.layer,
        scored,
        evaluations,
        positives,
        tuple(report),
    )


# --- Base models ----------------------------------------------------------------------


def backbone_of(base: str | os.PathLike, layer: str = PENULTIMATE) -> Backbone:
    """Opens a base model as what computes embeddings.

    Args:
        base: Model file or name of a pretrained model.
        layer: See `models.embedding_network`.
    """
    engine = open_engine(base, layer=layer)
    return Backbone(
        str(base),
        key_of(pretrained.digest(base), layer),
        engine.predictor("embedding"),
        engine.embedding_size,
    )


def _heads_of(
    networks: Sequence[onnx.ModelProto],
    bases: Sequence[str | os.PathLike],
    layer: str,
) -> list[Head]:
    """Returns the heads of base models, whose tags are to be kept.

    Raises:
        ValueError: a head sees another layer, is an average, or has no tag names.
    """
    if layer != PENULTIMATE:
        raise TaggerError(
            f"`append=` needs the input of the last layer, not {layer}: leave out"
            " `layer=`."
        )
    found = [graphs.head_of(network) for network in networks]
    for base, head in zip(bases, found, strict=True):
        if head.tags is None:
            raise TaggerError(
                f"`append=` keeps the tags of {base}, but it holds no tag names. Leave"
                " out `append=`."
            )
    return found


# --- Judging --------------------------------------------------------------------------


def _judged(
    clips: LabelledClips,
    validated: Iterable[np.ndarray],
    report: list[str],
) -> np.ndarray:
    """Returns the numbers of the tags with enough clips, and reports the others."""
    held_out = clips.folds >= 0
    counts = clips.labels[held_out].sum(axis=0)
    is_judged = counts >= MIN_JUDGED_CLIPS
    for scores in validated:
        is_judged &= ~np.isnan(scores).all(axis=0)
    reasons = []
    for tag in np.flatnonzero(~is_judged):
        positives = clips.labels[:, tag] == 1
        num_groups = len(np.unique(clips.groups[positives & held_out]))
        found = f"{counts[tag]} clips"
        if clips.group_kind == "artist":
            found += f" by {num_groups} artist{'s' * (num_groups != 1)}"
        reasons.append(f"{clips.tags[tag]} ({found})")
    if reasons:
        by = " by different artists" if clips.group_kind == "artist" else ""
        report.append(
            f"Learnt, but not judged: {', '.join(reasons)}. Judging a tag takes"
            f" {MIN_JUDGED_CLIPS} clips{by} in at least 2 folds."
        )
    return np.flatnonzero(is_judged)


def _evaluation(
    clips: LabelledClips, scores: np.ndarray, judged: np.ndarray
) -> Evaluation:
    held_out = clips.folds >= 0
    labels, scores = clips.labels[held_out][:, judged], scores[held_out][:, judged]
    bounded = np.clip(scores.astype(np.float64), heads.EPSILON, 1 - heads.EPSILON)
    losses = np.where(labels == 1, np.log(bounded), np.log1p(-bounded))
    return Evaluation(
        dataset="csv",
        split="out-of-fold",
        split_rule=_about(clips),
        tags=tuple(clips.tags[tag] for tag in judged),
        clip_ids=clips.names[held_out],
        labels=labels,
        scores=scores,
        loss=float(-losses.mean()) if len(judged) else float("nan"),
        columns=tuple(int(tag) for tag in judged),
        folds=clips.folds[held_out],
    )


def _about(clips: LabelledClips) -> str:
    folds = clips.folds
    numbers = np.unique(folds[folds >= 0])
    artists = ""
    if clips.group_kind == "artist":
        artists = f" by {len(np.unique(clips.groups)):,} artists"
    rule = f"{len(numbers)} folds"
    if len(numbers) == 1:
        rule = f"{(folds >= 0).sum():,} of them held out"
    return (
        f"{clips.source.name}: {len(clips.keys):,} clips{artists},"
        f" {len(clips.tags)} tags, {rule}"
    )


def _thresholds(
    examples: heads.Examples, head: heads.Head, scored: Evaluation
) -> list[float]:
    """Returns a threshold per tag: as many clips reach it as have the tag.

    The scores are out-of-fold; those of tags that were not judged are the head's own.
    The threshold of the best F1 fits rare tags too closely (Yang, SIGIR 2001, "A study
    of thresholding strategies for text categorization"): on our corpus it gave a clip
    five tags, where it has one and a half.
    """
    scores, labels = examples.scores(head), examples.labels
    thresholds = rates.thresholds_reached_by(scores, _counts(labels))
    judged = rates.thresholds_reached_by(scored.scores, _counts(scored.labels))
    for number, threshold in zip(scored.columns, judged, strict=True):
        thresholds[number] = threshold
    return thresholds


def _counts(labels: np.ndarray) -> np.ndarray:
    return labels.sum(axis=0, dtype=np.int64)


def _kept_thresholds(
    kept: Sequence[Head],
    infos: Sequence[ModelInfo],
    new_tags: Sequence[str],
    examples: heads.Examples,
) -> list[float]:
    """Returns the thresholds of the appended tags, see `head.appended`.

    A model without thresholds gets those that a tenth of the clips exceed.
    """
    found, start = {}, 0
    for head, info in zip(kept, infos, strict=True):
        # The base model's own head sees only its own embedding.
        rows = examples.rows[:, start : start + len(head.kernel)]
        start += len(head.kernel)
        scores = dataclasses.replace(examples, rows=rows).scores(head)
        usual = np.quantile(scores, 1 - KEPT_RATE, axis=0)
        for tag, threshold in zip(head.tags, info.thresholds or usual, strict=True):
            found.setdefault(tag, float(threshold))
    return [found[tag] for tag in kept_tags(kept, new_tags)]


def _provenance(scored: Evaluation) -> dict[str, str]:
    about = {
        "made by": f"tagger fit {tagger.__version__}",
        "data": scored.split_rule,
    }
    if scored.tags:
        macro = metrics.macro(scored)
        about["out-of-fold macro"] = (
            f"ROC-AUC {macro['roc_auc']:.4f}, PR-AUC {macro['pr_auc']:.4f}"
            f" ({len(scored.tags)} tags)"
        )
    return about
