"""One lab for each form, shared by all statements of a file: booting a guest takes seconds."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.conformance.lab import FORMS, Lab, lab


@pytest_asyncio.fixture(
    scope="module", loop_scope="module",
    params=[pytest.param(name, marks=() if name == "container" else pytest.mark.guest) for name in FORMS],
)
async def on(request: pytest.FixtureRequest) -> AsyncIterator[Lab]:
    async with lab(request.param) as one:
        lacks = await one.form.missing()
        if lacks:
            pytest.skip(f"{request.param}: {lacks[0].what} ({lacks[0].why})")
        yield one
