"""Models as values: what a copy and a pickle of them hold."""

from __future__ import annotations

import copy
import pickle

import pytest

from basiq_async import Secret, Webhook

TEXT = "whsec_S3CRETsigning"


def webhook() -> Webhook:
    return Webhook("w", "https://example.com", secret=Secret(TEXT), raw={"id": "w", "secret": Secret(TEXT)})


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_of_a_webhook_hides_its_secret(protocol: int) -> None:
    pickled = pickle.dumps(webhook(), protocol)
    assert b"S3CRET" not in pickled
    sent = pickle.loads(pickled)
    assert sent == webhook()
    assert {sent.secret} == {Secret(TEXT)}
    assert sent.secret != Secret("whsec_another")
    with pytest.raises(ValueError, match="a pickle does not hold the secret"):
        sent.secret.reveal()


def test_a_copy_of_a_webhook_keeps_its_secret() -> None:
    for made in (copy.copy(webhook()), copy.deepcopy(webhook())):
        assert made.secret is not None
        assert made.secret.reveal() == TEXT
