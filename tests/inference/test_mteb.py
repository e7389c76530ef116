"""The interface of MTEB: its own evaluation accepts our encoder, without its data."""

import numpy as np
import pytest

mteb = pytest.importorskip("mteb")
datasets = pytest.importorskip("datasets")

from mteb.abstasks.classification import AbsTaskClassification  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402

from tagger.inference.embeddings import Embedder  # noqa: E402
from tagger.mteb import Encoder  # noqa: E402


def tone(hertz, seconds=3.2, rate=16000):
    times = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(int(hertz)).normal(0, 0.01, len(times))
    return (0.3 * np.sin(2 * np.pi * hertz * times) + noise).astype(np.float32)


class Tones(AbsTaskClassification):
    metadata = TaskMetadata(
        name="Tones", description="low or high", reference=None,
        dataset={"path": "none", "revision": "1"}, type="AudioClassification",
        category="a2t", modalities=["audio"], eval_splits=["test"],
        eval_langs=["eng-Latn"], main_score="accuracy", date=None, domains=None,
        task_subtypes=None, license=None, annotations_creators=None, dialect=None,
        sample_creation=None, bibtex_citation="",
    )  # fmt: skip
    input_column_name = "audio"
    samples_per_label = 4
    n_experiments = 2

    def load_data(self, **kwargs):
        def split(offset):
            heights = [110 + offset + n for n in range(6)] + [
                3520 + offset + n for n in range(6)
            ]
            sounds = [{"array": tone(hz), "sampling_rate": 16000} for hz in heights]
            labels = [0] * 6 + [1] * 6
            held = {"audio": sounds, "label": labels}
            table = datasets.table.InMemoryTable.from_pydict(held)
            return datasets.Dataset(table, fingerprint=f"tones {offset}")

        self.dataset = {"train": split(0), "test": split(40)}
        self.data_loaded = True


@pytest.mark.filterwarnings("ignore")  # of the libraries beneath MTEB
def test_mteb_evaluates_our_encoder(tmp_path):
    encoder = Encoder("student")
    assert isinstance(encoder, mteb.models.EncoderProtocol)
    result = mteb.evaluate(encoder, Tones(), cache=None)
    assert result.task_results[0].get_score() == 1.0
    assert encoder.mteb_model_meta.name == "tagger/student"


def test_embeddings_are_those_of_the_embedder():
    encoder, waveform = Encoder("student"), tone(440)
    stereo = np.stack([waveform, waveform])
    batches = [
        {"audio": [{"array": waveform, "sampling_rate": 16000}]},
        {"audio": [{"array": stereo, "sampling_rate": 16000}]},
    ]
    found = encoder.encode(batches, task_metadata=None, hf_split="", hf_subset="")
    expected = Embedder("student").embed((waveform, 16000))
    np.testing.assert_allclose(found, [expected, expected], atol=1e-6)
    with pytest.raises(ValueError, match="the task gives text. Choose"):
        encoder.encode([{"text": ["a"]}])
