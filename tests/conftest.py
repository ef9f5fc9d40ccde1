"""What every test shares: no window, no network, and the place of the repository."""

import os
import socket
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("PYVISTA_OFF_SCREEN", "true")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")


# The suite tries the same few inputs each time; `make fuzz` draws others for as long as it is told.
anything = dict(deadline=None, suppress_health_check=list(HealthCheck), database=None)
settings.register_profile("few", max_examples=50, derandomize=True, **anything)
settings.register_profile("many", max_examples=3000, print_blob=True, **anything)
settings.load_profile("few")

SHARED = Path(__file__).resolve().parents[2] / "shared"  # real assets and golden files, which are not ours to ship


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture
def no_network(monkeypatch):
    """A machine that finds no other one, so that a download fails at once wherever the tests run."""

    def fail(*address, **options):
        raise socket.gaierror("there is no network")

    monkeypatch.setattr(socket, "getaddrinfo", fail)


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> str:
    """A folder of a tiny model, as `from_pretrained` takes it."""
    from tiny_model import tiny_model

    folder = tmp_path_factory.mktemp("weights") / "tiny"
    tiny_model().save_pretrained(folder)
    return str(folder)
