"""Weights of the published code: read from its files, loaded into our detector."""

from litedetr.weights.errors import PublishedWeightsError
from litedetr.weights.files import read_published
from litedetr.weights.load import load_published
