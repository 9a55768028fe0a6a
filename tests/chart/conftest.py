"""The chart, rendered once for each kind of values."""

import pytest

from tests.support.helm import render
from tests.support.rendered import CASES, arguments


@pytest.fixture(scope="session", params=CASES)
def objects(request):
    return render(*arguments(request.param))


@pytest.fixture(scope="session")
def laptop():
    return render(*arguments("laptop"))
