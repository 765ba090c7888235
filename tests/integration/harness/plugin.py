"""pytest plugin: fixtures every test may use, and the rule on skips.

A skip is allowed only with TANDEM_OFFLINE=1; anywhere else it fails the run. A run in which everything was
skipped exits with 77, which ctest shows as skipped.
"""

import pytest

from . import rpc
from .paths import TRAINED, offline
from .processes import Stack
from .subjects import make_subject, subject_names

_SKIPPED = 77


@pytest.fixture(scope="module")
def trained():
    """Gateway and verifier on the small trained model, with default flags."""
    with Stack(TRAINED) as stack:
        yield stack


@pytest.fixture(scope="module", params=subject_names())
def subject(request, tmp_path_factory):
    """Each model of harness/subjects.py in turn."""
    return make_subject(request.param, tmp_path_factory.mktemp("subject"))


@pytest.fixture(scope="session")
def protos(tmp_path_factory):
    """The Python modules of proto/, generated now: see rpc.Protos."""
    return rpc.Protos(tmp_path_factory.mktemp("protos"))


def pytest_sessionfinish(session, exitstatus):
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = len(reporter.stats.get("skipped", []))
    if skipped and not offline():
        reporter.write_line("a test was skipped without TANDEM_OFFLINE=1: failed")
        session.exitstatus = 1
    elif skipped and exitstatus == 0 and not reporter.stats.get("passed"):
        session.exitstatus = _SKIPPED
