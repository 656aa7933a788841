"""Whole detectors as people keep, copy and send them. tests/test_systems.py pickles the model of every system."""

import copy
import io
import multiprocessing
import pickle
from pathlib import Path

import pytest
import torch
from test_predictor import picture, predictor_at, same

from litedetr.inference.predictor import Predictor
from litedetr.structures import Detections


def saved_and_loaded(value: object) -> object:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = {
    "torch.save": saved_and_loaded,
    "protocol 2": lambda value: pickle.loads(pickle.dumps(value, 2)),
    "protocol 5": lambda value: pickle.loads(pickle.dumps(value, 5)),
    "deepcopy": copy.deepcopy,
}


def detections(predictor: Predictor) -> Detections:
    return predictor.predict(picture(), threshold=0)[0]


@pytest.mark.parametrize("way", WAYS)
def test_a_predictor_travels_whole(cache: Path, way: str):
    predictor = predictor_at(cache)
    expected = detections(predictor)  # whatever a first call keeps comes along
    travelled = WAYS[way](predictor)
    assert travelled.names == predictor.names
    assert same(detections(travelled), expected)
    assert same(detections(predictor), expected)


@pytest.mark.slow  # a new process imports everything
def test_a_predictor_reaches_a_process_that_shares_nothing(cache: Path):
    predictor = predictor_at(cache)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert same(pool.apply(detections, (predictor,)), detections(predictor))
