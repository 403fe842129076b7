"""One lab for each form, shared by all statements of a file: booting a guest takes seconds."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.conformance.lab import FORMS, Lab, lab


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep each form's tests together: they share its instances, whichever processes run side by side."""
    for item in items:
        form = getattr(item, "callspec", None) and item.callspec.params.get("on")  # type: ignore[attr-defined]
        if form:
            item.add_marker(pytest.mark.xdist_group(form))


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
