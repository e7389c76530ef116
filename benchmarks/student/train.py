"""Trains the student in PyTorch, in a third of the time per step of train.py.

    pip install torch==2.13.0
    python benchmarks/student/train.py --music music/tfrecord --teacher teacher.keras \
        --scores-dir music/scores --train-dir student

The network is that of `short_chunk_resnet`, written in PyTorch, compiled, and in
bfloat16. Log-mel spectrograms are computed once, and augmented as power spectra: gain,
noise and delay of `augmentations`. Unlike in train.py, a segment begins up to --shift
of its length from where the teacher heard it, and learns a mixture of the teacher's
outputs for both; and the learning rate falls along a cosine. Run again, it goes on
after the last epoch.
Writes resume.pt, log.csv and model.keras.
"""

import argparse
import csv
import math
import os
import sys
import threading
from pathlib import Path
from queue import Queue

os.environ["KERAS_BACKEND"] = "torch"
# With AMX, unlike `tagger`: the NaN that its bug can cause would stop the run.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "DEFAULT")

import keras
import numpy as np
import torch
from torch import nn
from torch.nn.functional import dropout, relu
from tqdm import tqdm

from tagger import models, storage
from tagger.data.clips import open_shards
from tagger.evaluation.agreement import rank_correlations
from tagger.models.files import read_info
from tagger.models.frontends import LogMelSpectrogram
from tagger.models.presets import filters_of, preset
from tagger.segmentation import Segmentation, to_float
from tagger.training.losses import binary_crossentropy, similarity, softened
from tagger.training.teacher_scores import Stored, StoredScores
from tagger.weights.conversion import convert

NUM_SAMPLES = 48128
WHOLE = Segmentation(NUM_SAMPLES, "pad").dropping()
LOG_MEL = preset("won2020_128")
HOP = LOG_MEL.hop_length
NUM_HOPS = NUM_SAMPLES // HOP  # of a segment, which has one frame more
COLUMNS = ("epoch", "loss", "val_rho")


def main() -> None:
    """Trains, validates after each epoch, and writes the model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--music", required=True, metavar="DIR", help="shards of music.csv")
    add("--teacher", required=True, metavar="FILE", help=".keras")
    add("--scores-dir", required=True, metavar="DIR", help="for the teacher's scores")
    add("--train-dir", default="student", metavar="DIR", help="default: student")
    add("--num-filters", type=int, default=16, help="default: 16")
    add("--widths", default="1,1,2,2,4,4,8", help="default: 1,1,2,2,4,4,8")
    add("--num-epochs", type=int, default=44, help="default: 44")
    add("--batch-size", type=int, default=64, help="default: 64")
    add("--lr", type=float, default=2e-3, help="the highest; default: 0.002")
    add("--dropout-rate", type=float, default=0.2, help="default: 0.2")
    add("--temperature", type=float, default=3.0, help="default: 3")
    add("--shift", type=float, default=0.25, help="default: 0.25")
    add("--share", type=float, default=1.0, help="of the train segments; default: 1")
    add("--seed", type=int, default=0, help="default: 0")
    args = parser.parse_args()
    args.widths = tuple(map(int, args.widths.split(",")))
    torch.manual_seed(args.seed)
    folder = Path(args.train_dir)
    folder.mkdir(parents=True, exist_ok=True)
    train, val = (Heard(args, split) for split in ("train", "val"))
    run = Run(args, train)
    run.resume(folder / "resume.pt")
    for epoch in range(run.epoch, args.num_epochs):
        loss = run.train(epoch)
        row = (epoch + 1, f"{loss:.4f}", f"{run.rho(val):.4f}")
        print(f"epoch {epoch + 1}, loss {loss:.4f}, val rho {row[-1]}", flush=True)
        with (folder / "log.csv").open("a", newline="") as file:
            csv.writer(file).writerows([COLUMNS, row] if not epoch else [row])
        run.save(folder / "resume.pt")
    tags = read_info(args.teacher).tags
    models.save_model(in_keras(run.network, args, tags), folder / "model.keras")


def in_keras(network: "Network", args: argparse.Namespace, tags) -> keras.Model:
    """Returns the model that is saved."""
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    return convert(
        weights,
        "short_chunk_resnet",
        widths=args.widths,
        num_samples=NUM_SAMPLES,
        dropout_rate=args.dropout_rate,
        tags=tags,
    )


# --- Data -----------------------------------------------------------------------------


class Heard:
    """The music of a split in memory, and what the teacher says about it.

    Attributes:
        log_mel: Spectrograms of all clips, float16 [num_frames, n_mels].
        energy: Mean square of the samples of each frame, [num_frames].
        outputs: The teacher's scores and embedding of each segment.
        counts: Number of segments of each clip.
    """

    def __init__(self, args: argparse.Namespace, split: str):
        shards, parent = open_shards(args.music), Path(args.scores_dir)
        stored = Stored(args.teacher, WHOLE, has_embeddings=True)
        clips = shards.clips(split)
        scores = StoredScores(stored.store(shards, split, parent), clips, WHOLE)
        outputs = list(scores.of_clips())
        self.outputs = np.concatenate(outputs)
        self.counts = np.array([len(rows) for rows in outputs])
        frontend, log_mel, energy = LogMelSpectrogram(LOG_MEL), [], []
        for number, count in enumerate(tqdm(self.counts, split, disable=None)):
            waveform = to_float(clips.content(number)[: count * NUM_SAMPLES])
            log_mel.append(frontend(waveform[None])[0].numpy().astype(np.float16))
            of_hops = np.square(waveform).reshape(-1, HOP).mean(axis=1)
            energy.append(np.append(of_hops, of_hops[-1:]))
        self.log_mel, self.energy = np.concatenate(log_mel), np.concatenate(energy)
        ends = np.cumsum(self.counts)
        self._last = np.repeat(ends - 1, self.counts)
        self._first = np.repeat(ends - self.counts, self.counts)
        # A clip has one frame more than its segments have hops.
        clip = np.repeat(np.arange(len(self.counts)), self.counts)
        self._start = np.arange(len(clip)) * NUM_HOPS + clip

    def batch(
        self, segments: np.ndarray, shift: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns log-mel, energies and the teacher's outputs for shifted segments.

        Args:
            segments: Numbers of the segments.
            shift: How far each is moved within its clip, as a share of its length.
        """
        beside = segments + np.sign(shift).astype(int)
        beside = np.clip(beside, self._first[segments], self._last[segments])
        shift = np.where(beside == segments, 0, shift)
        starts = self._start[segments] + np.round(shift * NUM_HOPS).astype(int)
        frames = starts[:, None] + np.arange(NUM_HOPS + 1)
        share = np.abs(shift)[:, None].astype(np.float32)
        outputs = (1 - share) * self.outputs[segments] + share * self.outputs[beside]
        parts = self.log_mel[frames], self.energy[frames].mean(axis=1), outputs
        return tuple(map(torch.from_numpy, parts))

    def means(self, scores: np.ndarray) -> np.ndarray:
        """Returns the mean scores of each clip."""
        sums = np.add.reduceat(scores, np.cumsum(self.counts) - self.counts)
        return sums / self.counts[:, None]


class Augment:
    """Gain, noise and delay of `augmentations`, on log-mel spectrograms in dB."""

    def __init__(self):
        filters = torch.tensor(filters_of(LOG_MEL), dtype=torch.float32)
        window = torch.hann_window(LOG_MEL.n_fft)
        # The power that white noise of variance 1 has in a band. It varies like the
        # mean of as many squares as the band is wide; here, with their logarithm.
        self._of_noise = window.square().sum() * filters.sum(0)
        width = filters.sum(0).square() / filters.square().sum(0).clamp_min(1e-6)
        self._spread = torch.log1p(1 / width.clamp_min(1)).sqrt()

    def __call__(self, log_mel: torch.Tensor, energy: torch.Tensor) -> torch.Tensor:
        """Returns changed spectrograms [batch, num_frames, n_mels].

        Args:
            log_mel: The spectrograms.
            energy: Mean square of the samples of each, [batch].
        """
        power = torch.pow(10.0, log_mel / 10)
        chosen = self._chosen(power, 0.3)
        normal = torch.randn(len(chosen), *power.shape[1:])
        level = self._uniform(chosen, 0.3, 0.5).square() * energy[chosen]
        noise = torch.exp(self._spread * normal - self._spread.square() / 2)
        power[chosen] += level[:, None, None] * self._of_noise * noise
        chosen = self._chosen(power, 0.2)
        decibels = self._uniform(chosen, -20.0, -1.0)
        power[chosen] *= torch.pow(10.0, decibels / 10)[:, None, None]
        for number in self._chosen(power, 0.5).tolist():
            seconds = 0.05 * int(torch.randint(4, 10, ()))
            num_frames = round(seconds * LOG_MEL.sample_rate / HOP)
            late = power[number, :-num_frames].clone() / 4
            power[number, num_frames:] += late
            power[number] /= 4
        return 10 * torch.log10(power.clamp_min(LOG_MEL.floor))

    @staticmethod
    def _chosen(batch: torch.Tensor, probability: float) -> torch.Tensor:
        return torch.nonzero(torch.rand(len(batch)) < probability)[:, 0]

    @staticmethod
    def _uniform(chosen: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(len(chosen))


# --- Network --------------------------------------------------------------------------


class Residual(nn.Module):
    """`blocks.residual_block` with stride 2, with the names of the original."""

    def __init__(self, channels: int, filters: int):
        super().__init__()
        strides = {1: 2, 2: 1, 3: 2}
        for number, stride in strides.items():
            inputs = filters if number == 2 else channels
            conv = nn.Conv2d(inputs, filters, 3, stride, padding=1)
            self.add_module(f"conv_{number}", conv)
            self.add_module(f"bn_{number}", nn.BatchNorm2d(filters))

    def forward(self, x):
        inner = relu(self.bn_1(self.conv_1(x)))
        return relu(self.bn_2(self.conv_2(inner)) + self.bn_3(self.conv_3(x)))


class Network(nn.Module):
    """log-mel [batch, 1, n_mels, num_frames] -> logits, embedding."""

    def __init__(self, args: argparse.Namespace, num_tags: int):
        super().__init__()
        self.dropout_rate, channels = args.dropout_rate, 1
        self.spec_bn = nn.BatchNorm2d(1)
        self.names = [f"layer{number}" for number in range(1, 1 + len(args.widths))]
        for name, width in zip(self.names, args.widths, strict=True):
            filters = width * args.num_filters
            self.add_module(name, Residual(channels, filters))
            channels = filters
        self.dense1 = nn.Linear(channels, channels)
        self.bn = nn.BatchNorm1d(channels)
        self.dense2 = nn.Linear(channels, num_tags)

    def forward(self, x):
        x = self.spec_bn(x)
        for name in self.names:
            x = getattr(self, name)(x)
        embedding = relu(self.bn(self.dense1(x.amax((2, 3)))))
        dropped = dropout(embedding, self.dropout_rate, self.training)
        return self.dense2(dropped), embedding


# --- Training -------------------------------------------------------------------------


class Run:
    """Network, optimiser and the epoch that is next."""

    def __init__(self, args: argparse.Namespace, music: Heard):
        self.args, self.music, self.epoch = args, music, 0
        self.num_tags = len(read_info(args.teacher).tags)
        self.network = Network(args, self.num_tags)
        self.network.to(memory_format=torch.channels_last)
        weights, others = [], []
        for parameter in self.network.parameters():
            (weights if parameter.ndim > 1 else others).append(parameter)
        groups = [{"params": weights}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.01, fused=True)
        self._compiled = torch.compile(self.network)
        self._augment = Augment()
        self.num_steps = int(args.share * len(music.outputs)) // args.batch_size

    def train(self, epoch: int) -> float:
        """Trains for one epoch and returns its mean loss."""
        self.network.train()
        losses, batches = [], Queue(4)
        reader = threading.Thread(target=self._read, args=(epoch, batches), daemon=True)
        reader.start()
        steps = range(epoch * self.num_steps, (epoch + 1) * self.num_steps)
        for step in tqdm(steps, f"Epoch {epoch + 1}", disable=None, leave=False):
            log_mel, energy, outputs = batches.get()
            for group in self.optimizer.param_groups:
                group["lr"] = self._rate(step)
            with torch.no_grad():
                image = self._image(self._augment(log_mel.float(), energy))
            with torch.autocast("cpu", torch.bfloat16):
                logits, embeddings = self._compiled(image)
            loss = self._loss(outputs, logits.float(), embeddings.float())
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
            if math.isnan(losses[-1]):
                sys.exit(f"The loss is NaN in epoch {epoch + 1}. Run this again.")
        reader.join()
        self.epoch = epoch + 1
        return float(np.mean(losses))

    def _read(self, epoch: int, batches: Queue) -> None:
        rng, size = np.random.default_rng((self.args.seed, epoch)), self.args.batch_size
        # The same part of the music in every epoch.
        kept = np.random.default_rng(self.args.seed).permutation(
            len(self.music.outputs)
        )
        order = rng.permutation(kept[: self.num_steps * size])
        for segments in order.reshape(-1, size):
            shift = rng.uniform(-self.args.shift, self.args.shift, size)
            batches.put(self.music.batch(segments, shift))

    def _rate(self, step: int) -> float:
        """Rises for one epoch, then falls along a cosine."""
        warm, total = self.num_steps, self.num_steps * self.args.num_epochs
        if step < warm:
            return self.args.lr * (step + 1) / warm
        return (
            self.args.lr * (1 + math.cos(math.pi * (step - warm) / (total - warm))) / 2
        )

    @staticmethod
    def _image(log_mel: torch.Tensor) -> torch.Tensor:
        image = log_mel.transpose(1, 2).unsqueeze(1)
        return image.contiguous(memory_format=torch.channels_last)

    def _loss(self, outputs, logits, embeddings) -> torch.Tensor:
        """Returns what `tasks.Distillation` minimises."""
        heat = self.args.temperature
        scores = softened(outputs[:, : self.num_tags], heat)
        of_scores = heat**2 * binary_crossentropy(scores, logits / heat).mean()
        return of_scores + similarity(outputs[:, self.num_tags :], embeddings).mean()

    @torch.no_grad()
    def rho(self, music: Heard) -> float:
        """Returns the mean over the tags of Spearman's rho with the teacher."""
        self.network.eval()
        scores = []
        for first in range(0, len(music.outputs), self.args.batch_size):
            last = min(first + self.args.batch_size, len(music.outputs))
            log_mel, _, _ = music.batch(np.arange(first, last), np.zeros(last - first))
            logits, _ = self.network(self._image(log_mel.float()))
            scores.append(torch.sigmoid(logits).numpy())
        heard = music.means(music.outputs[:, : self.num_tags])
        found = music.means(np.concatenate(scores))
        return float(np.nanmean(rank_correlations(heard, found)))

    def save(self, path: Path) -> None:
        """Saves what `resume` needs."""
        with storage.replacing(path) as unfinished:
            torch.save(
                {
                    "epoch": self.epoch,
                    "network": self.network.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                },
                unfinished,
            )

    def resume(self, path: Path) -> None:
        """Goes on from a saved epoch, if there is one."""
        if path.exists():
            held = torch.load(path)
            self.epoch = held["epoch"]
            self.network.load_state_dict(held["network"])
            self.optimizer.load_state_dict(held["optimizer"])


if __name__ == "__main__":
    main()
