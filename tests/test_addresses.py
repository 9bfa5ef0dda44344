"""What is shown of an address, and where a password is found."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cisray.addresses import holds_password, move_login, redacted, refuse_passwords
from cisray.errors import InputError

SECRETS = [
    ("postgresql+psycopg2://me:s3cr3t@host:5432/mlflow", "postgresql+psycopg2://host:5432/mlflow"),
    ("postgresql://me:s3cr3t/with/slash@host/db", "postgresql://host/db"),
    ("http://me:s3cr3t@127.0.0.1:5000", "http://127.0.0.1:5000"),
    ("s3://key:s3cr3t@bucket/folder/x", "s3://bucket/folder/x"),
    ("postgresql://host/db?password=s3cr3t&sslmode=require", "postgresql://host/db?password=...&sslmode=require"),
    ("s3://bucket/x?secret_key=s3cr3t", "s3://bucket/x?secret_key=..."),
    ("https://b.host/x?X-Amz-Signature=s3cr3t&v=1", "https://b.host/x?X-Amz-Signature=...&v=1"),
]
PLAIN = [
    "sqlite:////data/runs/mlflow.db",
    "http://127.0.0.1:5000",
    "models:/yeast@champion",
    "s3://bucket/folder/file.bw?versionId=3",
    "http://mlflow:5000/api/2.0",
    "chr1:5-90",
]


@pytest.mark.parametrize(("address", "shown"), SECRETS)
def test_no_password_is_shown_and_the_rest_is(address, shown):
    assert redacted(address) == shown
    assert redacted(f"API request to {address} failed (twice)") == f"API request to {shown} failed (twice)"
    assert redacted(f"{address}, {address}").count("s3cr3t") == 0


@pytest.mark.parametrize("text", PLAIN)
def test_an_address_without_one_stays_as_it_is(text):
    assert redacted(text) == text
    assert not holds_password(text)


@pytest.mark.parametrize("address", [address for address, _ in SECRETS])
def test_a_setting_that_holds_a_password_is_refused_by_its_key_and_without_the_password(address):
    settings = {"name": "x", "model": {"start": None}, "tracks": [{"file": "a.bw"}, {"file": address}], "n": 3}
    with pytest.raises(
        InputError, match=r"^job\.toml: tracks\.1\.file is an address that holds a password.*AWS_"
    ) as told:
        refuse_passwords(settings, source="job.toml")
    assert "s3cr3t" not in str(told.value)
    refuse_passwords({"tracks": ("a", "b"), "addresses": PLAIN, "learning_rate": 0.1}, source="job.toml")


@given(
    st.text(
        st.characters(exclude_characters="@ \n\t\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0", categories=["L", "N", "P"]),
        min_size=1,
    )
)
def test_any_password_is_found_and_never_shown(password):
    address = f"postgresql://somebody:{password}@database.example/mlflow"
    assert holds_password(address)
    assert redacted(address) == "postgresql://database.example/mlflow"


def test_the_login_of_a_server_moves_to_where_mlflow_looks_for_it():
    environment = {}
    assert move_login("https://me:p%40ss@host:5000/path", environment) == "https://host:5000/path"
    assert environment == {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "p@ss"}
    # what is set already is the user's own choice
    assert move_login("https://other:word@host", environment) == "https://host"
    assert environment["MLFLOW_TRACKING_USERNAME"] == "me"
    for address in (*PLAIN, "postgresql://me:word@host/db"):
        assert move_login(address, environment) == address
