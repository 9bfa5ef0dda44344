"""An S3 server on loopback, in this process, and a web server that a test looks into."""

import contextlib
import logging
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

BUCKET = "bucket"


class Store:
    """A bucket, as its owner sees it."""

    def __init__(self, address):
        self.address = address
        self._client = boto3.client("s3", endpoint_url=address, region_name="us-east-1")
        self._client.create_bucket(Bucket=BUCKET)

    def put(self, key, content):
        self._client.put_object(Bucket=BUCKET, Key=key, Body=content)
        return f"s3://{BUCKET}/{key}"

    def put_folder(self, folder, key):
        for path in folder.rglob("*"):
            if path.is_file():
                self.put(f"{key}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return f"s3://{BUCKET}/{key}"

    def names(self, key):
        listed = self._client.list_objects_v2(Bucket=BUCKET, Prefix=f"{key}/").get("Contents", [])
        return {each["Key"].removeprefix(f"{key}/") for each in listed} - {""}  # pyarrow leaves an empty "folder"

    def get(self, key):
        return self._client.get_object(Bucket=BUCKET, Key=key)["Body"].read()

    def delete(self, key):
        self._client.delete_object(Bucket=BUCKET, Key=key)


@contextlib.contextmanager
def served_bucket(patch):
    """Serve an empty bucket that the environment names."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    credentials = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}
    for name, value in credentials.items():
        patch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        patch.delenv(name, raising=False)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].reset()
        yield Store(os.environ["AWS_ENDPOINT_URL"])
    finally:
        server.stop()


@contextlib.contextmanager
def served(answer):
    """Serve the web by `answer(handler)`, which is called for every request; yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            with contextlib.suppress(ConnectionError):
                answer(self)

        do_HEAD = do_GET  # noqa: N815  by the name of the method

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def send(handler, content, **headers):
    """Answer a request with bytes."""
    handler.send_response(200)
    for name, value in ({"Content-Length": str(len(content))} | headers).items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(content)
