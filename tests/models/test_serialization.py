"""Files that earlier versions wrote keep loading."""

import json

import pytest
from conftest import REFERENCES, run_process

CODE = """
import json, sys
import numpy as np
from tagger import models
model = models.load_model(sys.argv[1])
x = np.random.RandomState(0).uniform(-0.3, 0.3, (2, 80000)).astype(np.float32)
info = models.model_info(model)
print(json.dumps([model.predict_on_batch(x).tolist(), info.as_dict()]))
"""
# Printed by the version of 2026-11-21, narrow and with the weights of seed 0.
SCORES = [[0.81927896, 0.63428193, 0.71437466], [0.8149334, 0.5966679, 0.7275723]]


@pytest.mark.slow
def test_a_model_of_an_earlier_version_loads_and_scores_the_same():
    """In a process that has imported nothing else of ours.

    The file names a class by its old module, and its input layer by its old name.
    """
    done = run_process("-c", CODE, REFERENCES / "earlier_harmonic_cnn.keras")
    assert done.returncode == 0, done.stderr
    scores, info = json.loads(done.stdout)
    for ours, theirs in zip(sum(scores, []), sum(SCORES, []), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    assert (info["sample_rate"], info["num_samples"]) == (16000, 80000)
    assert (info["remainder"], info["tags"]) == ("pad", ["a", "b", "c"])
