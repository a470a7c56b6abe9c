"""The pytest plugin, in the suite of somebody who only installed the package."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

SUITE = """
    import pytest
    {marks}

    async def test_client_and_server_speak_of_one_basiq(fake_basiq, basiq_client, basiq_server):
        import aiohttp
        fake_basiq.add_webhook()
        assert len(await basiq_client.webhooks.list().collect()) == 1
        async with aiohttp.ClientSession() as session, session.get(basiq_server + "/events") as answer:
            assert answer.status == 401

    async def test_every_test_has_a_basiq_of_its_own(basiq_client):
        assert await basiq_client.webhooks.list().collect() == []
"""
ANYIO = """
    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend():
        return "{backend}"
"""


def run(pytester: pytest.Pytester, suite: str, *options: str) -> pytest.RunResult:
    pytester.makepyfile(suite)
    return pytester.runpytest_subprocess("-p", "no:randomly", "-p", "no:cacheprovider", *options)


@pytest.mark.parametrize(
    ("marks", "options"),
    [
        ("", ["--asyncio-mode=auto"]),
        ("pytestmark = pytest.mark.asyncio", ["--asyncio-mode=strict"]),
        (ANYIO.format(backend="asyncio"), ["--asyncio-mode=strict"]),
        (ANYIO.format(backend="asyncio"), ["-p", "no:asyncio"]),
    ],
)
def test_the_fixtures_work_in_each_way_to_run_an_async_test(
    pytester: pytest.Pytester, marks: str, options: list[str]
) -> None:
    run(pytester, SUITE.format(marks=marks), *options).assert_outcomes(passed=2)


def test_without_pytest_asyncio_a_test_is_told_what_it_needs(pytester: pytest.Pytester) -> None:
    result = run(pytester, "def test_it(basiq_client): pass", "--asyncio-mode=strict")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*basiq_client needs an async test*"])


def test_another_loop_than_asyncio_is_refused_in_words(pytester: pytest.Pytester) -> None:
    suite = SUITE.format(marks=ANYIO.format(backend="trio"))
    result = run(pytester, suite, "--asyncio-mode=strict")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["*needs asyncio*"])


def test_two_plugins_for_one_test_are_refused_in_words(pytester: pytest.Pytester) -> None:
    suite = SUITE.format(marks=ANYIO.format(backend="asyncio"))
    result = run(pytester, suite, "--asyncio-mode=auto")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["*set asyncio_mode to strict*"])


def test_a_strict_basiq_fails_the_test_that_misused_it(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        from basiq_async import Request

        def test_good(basiq_strict):
            pass

        def test_bad(basiq_strict):
            headers = {"authorization": "Bearer " + basiq_strict.api_key}
            basiq_strict.handle(Request("GET", "https://au-api.basiq.io/events", headers))
        """,
        "--asyncio-mode=strict",
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*key-on-operation*"])


def test_the_plugin_costs_a_run_nothing_until_it_is_used(pytester: pytest.Pytester) -> None:
    run(
        pytester,
        """
        import sys

        def test_it():
            assert "basiq_async.testing.fake" not in sys.modules
            assert "aiohttp" not in sys.modules
        """,
        "--asyncio-mode=strict",
    ).assert_outcomes(passed=1)
