"""Tokens are known by their looks, and names that merely begin alike are not taken for any."""

import time

import pytest

from vlm2rec_hf.hub.tokens import HIDDEN, holds_token, redact

WEB = "eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.ab-cd_efgh"
TOKENS = [
    "hf_" + "aB3" * 11,
    "api_org_" + "aB3" * 11,
    f"hf_oauth_{WEB}",
    f"hf_jwt_{WEB}",
    "hf_jwt_eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCJ9.abc",
    "hf_oauth_q8R-x2_Lw9Zk-3pT_vB6n-Yd1c",
]
NAMES = [
    "hf_hub_download", "hf_hub_download.py", "hf_oauth_callback_handler", "hf_oauth_redirect_path_and_state.json",
    "hf_jwt_verification_helpers_v2.py", "hf_jwt_2024-01-31.backup.of.yesterday", "HF_OAUTH_CLIENT_SECRET_NAME_2",
    "hf_oauth_Client.Settings.Of.Many.Words", "hf_jwt_eyJ", "hf_transfer", "hf_xet", "tokenizer_config.json",
    "hf_oauth_", "self.hf_device_map", "hf_quantizer.is_trainable",
]  # fmt: skip


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("around", ["{}", "see {}, there", "?token={}&x=1", 'key: "{}"\n', "https://user:{}@host/x"])
def test_a_token_is_known_and_goes_wholly(token, around):
    text = around.format(token)
    assert holds_token(text)
    assert redact(text) == around.format(HIDDEN)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_no_token(name):
    assert not holds_token(name) and redact(f"from x import {name}") == f"from x import {name}"


def test_known_secrets_and_the_one_in_use_go_whatever_they_look_like(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "of-another-kind")
    assert redact("of-another-kind and mine-1234", "mine-1234") == f"{HIDDEN} and {HIDDEN}"
    assert holds_token("xof-another-kindx") and holds_token("a mine-1234", "mine-1234", None)
    # One that holds another goes first; one of a few letters would match anything.
    assert redact("mine-1234-5", "mine-1234", "mine-1234-5") == HIDDEN
    assert not holds_token("an abc", "abc") and redact("an abc", "abc", "") == "an abc"


def test_a_long_hostile_text_takes_no_time():
    text = "-hf_jwt_" * 50_000
    start = time.perf_counter()
    assert not holds_token(text)
    assert time.perf_counter() - start < 5
