"""A small Hopsworks on the loopback, over TLS: what its client asks for in the tests, answered as the server answers.

Paths that are not there, uploads in chunks and the codes of errors follow the open sources of the server,
https://github.com/logicalclocks/hopsworks (DatasetResource, DatasetHelper, UploadController, RESTCodes).
"""

import base64
import contextlib
import datetime
import ipaddress
import json
import re
import shutil
import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

KEY = "secret"
PROJECTS = {"lab": 119, "other": 120}


def certificate(folder: Path) -> Path:
    """A PEM file of a key and of its own signature, for 127.0.0.1."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now, hour = datetime.datetime.now(datetime.UTC), datetime.timedelta(hours=1)
    built = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    built = built.not_valid_before(now - hour).not_valid_after(now + 24 * hour).add_extension(here, critical=False)
    pem, kind = folder / "localhost.pem", serialization.Encoding.PEM
    secret = key.private_bytes(kind, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pem.write_bytes(secret + built.sign(key, hashes.SHA256()).public_bytes(kind))
    return pem


class Refusal(Exception):
    """An HTTP status, with a code of RESTCodes.java and its message."""

    def __init__(self, status: int, code: int | None = None, message: str = ""):
        self.status, self.body = status, {"errorCode": code, "errorMsg": message} if code else None


NO_PATH = Refusal(400, 110018, "Path not found")
EXISTS = Refusal(400, 110012, "Destination already exists.")


class Hopsworks:
    """Datasets are folders below `root`/PROJECT; `log` has the method and path of each request."""

    def __init__(self, root: Path):
        self.root, self.log, self.faults = root, [], []
        self.uploads, self.models, self.groups = {}, {}, []
        self.kafka, self.ran = None, []  # the address of its broker, the jobs that were started
        self.lock = threading.RLock()
        for name in PROJECTS:
            for dataset in ("Resources", "Models"):
                (root / name / dataset).mkdir(parents=True)
        self.pem = certificate(root)
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hopsworks": self}))
        self.http.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.pem)
        self.http.socket = context.wrap_socket(self.http.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        return {
            "HOPSWORKS_HOST": "127.0.0.1",
            "HOPSWORKS_PORT": str(self.http.server_port),
            "HOPSWORKS_API_KEY": KEY,
            "HOPSWORKS_TRUST_STORE_PATH": str(self.pem),
            "HOPSWORKS_CERT_FOLDER": str(self.root / "certificates"),
        }

    def fail(self, what, request: str, times: int = 1) -> None:
        """Answer the next `times` requests that match ("POST .*upload") with `what`: a Refusal, a status, "cut"
        instead of an answer, "late cut" after doing it, "half" of the body, or "silence" for a second."""
        self.faults.append([what, re.compile(request), times])

    def fault(self, request: str):
        with self.lock:
            for fault in self.faults:
                if fault[2] and fault[1].search(request):
                    fault[2] -= 1
                    return Refusal(fault[0]) if isinstance(fault[0], int) else fault[0]

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def answer(self, method: str, path: str, query: dict, form: dict, body: bytes):
        """The status, and a JSON value or bytes."""
        if path == "variables/versions":
            return 200, [{"software": "hopsworks", "version": "5.2.0"}]
        if path == "project":
            return 200, [{"user": {"uid": 1, "username": "meb1"}, "project": {"name": name}} for name in PROJECTS]
        if found := re.fullmatch("project/getProjectInfo/(.+)", path):
            if found[1] not in PROJECTS:
                raise Refusal(404, 150004, "No project found with that name.")
            return 200, {"projectId": PROJECTS[found[1]], "projectName": found[1]}
        number, _, rest = path.removeprefix("project/").partition("/")
        project = {str(one): name for name, one in PROJECTS.items()}[number]
        if rest == "credentials":
            store = base64.b64encode(b"store").decode()
            pem = dict.fromkeys(("caChain", "clientCert", "clientKey"), "pem")
            return 200, {"kStore": store, "tStore": store, "password": "p", **pem}
        if rest.startswith("dataset/upload/"):
            return self.upload(self.path(project, rest.removeprefix("dataset/upload/")), form)
        if rest.startswith("dataset/download/with_auth/"):
            return 200, self.there(project, rest.removeprefix("dataset/download/with_auth/")).read_bytes()
        if rest.startswith("dataset/"):
            return self.dataset(method, project, rest.removeprefix("dataset/"), query)
        if rest.startswith("modelregistries/"):
            return self.model(method, rest.rpartition("/")[2], body)
        if found := re.fullmatch("jobs/([^/]+)(/executions)?", rest):  # the one that writes a group's rows into it
            if found[2]:
                self.ran += [found[1]] * (method == "POST")
                return 200, {"id": 1, "state": "RUNNING"} if method == "POST" else {"count": 0, "items": []}
            about = {"creationTime": "2026-11-01T00:00:00Z", "config": {}, "jobType": "SPARK", "creator": {}}
            return 200, {"id": 1, "name": found[1], **about}
        if rest.startswith("featurestores/"):
            return self.feature_store(method, project, rest, body)
        raise Refusal(404)

    def path(self, project: str, name: str) -> Path:
        name = name.removeprefix(f"/Projects/{project}/")
        if not (self.root / project / name.split("/")[0]).is_dir():
            raise Refusal(400, 110011, "DataSet not found.")
        return self.root / project / name

    def there(self, project: str, name: str) -> Path:
        path = self.path(project, name)
        if not path.exists():
            raise NO_PATH
        return path

    def dataset(self, method: str, project: str, name: str, query: dict):
        def attributes(path: Path) -> dict:
            where = f"/Projects/{path.relative_to(self.root)}"
            return {"name": path.name, "path": where, "dir": path.is_dir(), "size": path.stat().st_size}

        if method == "POST" and query["action"] == "create":
            path = self.path(project, name)
            if path.exists():
                raise Refusal(400, 110047, "A sub-directory with the same name already exists.")
            path.mkdir()
            return 201, {"attributes": attributes(path)}
        path = self.there(project, name)
        if method == "DELETE":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            return 204, b""
        if query.get("action") != "listing":
            return 200, {"attributes": attributes(path)}
        kids, start = sorted(path.iterdir(), reverse="desc" in query["sort_by"]), int(query["offset"])
        page = kids[start : start + int(query["limit"])]
        return 200, {"count": len(kids), "items": [{"attributes": attributes(kid)} for kid in page]}

    def upload(self, folder: Path, form: dict):
        """As UploadController does it: an empty file holds the place, the chunks lie beside it until all are there."""
        number, total = int(form["flowChunkNumber"]), int(form["flowTotalSize"])
        target, staging = folder / form["flowFilename"], folder / f"{form['flowFilename']}.temp"
        with self.lock:
            if target.exists() and (number == 1 or not staging.exists()):
                raise EXISTS
            staging.mkdir(exist_ok=True)
            if number == 1:
                target.touch()
            (staging / str(number)).write_bytes(form["file"])
            sizes = self.uploads.setdefault((folder, form["flowIdentifier"]), {})  # outlives what is removed on disk
            sizes.setdefault(number, int(form["flowCurrentChunkSize"]))
            if sum(sizes.values()) == total:
                del self.uploads[folder, form["flowIdentifier"]]
                chunks = [staging / str(one) for one in range(1, int(form["flowTotalChunks"]) + 1)]
                if not all(chunk.exists() for chunk in chunks):
                    raise Refusal(500, 110043, "Could not find chunk")
                target.write_bytes(b"".join(chunk.read_bytes() for chunk in chunks))
                shutil.rmtree(staging)
        return 200, b""

    def model(self, method: str, key: str, body: bytes):
        if method == "PUT":
            self.models[key] = json.loads(body)
        elif key not in self.models:
            raise Refusal(404, 360000, "Model not found")
        return 200, self.models[key]

    def feature_store(self, method: str, project: str, rest: str, body: bytes):
        if rest in (f"featurestores/{project}_featurestore", "featurestores/67"):
            names = {
                "featurestoreName": f"{project}_featurestore",
                "offlineFeaturestoreName": f"{project}_featurestore",
            }
            about = {"created": "2026-11-01T00:00:00Z", "projectName": project, "projectId": PROJECTS[project]}
            return 200, {"featurestoreId": 67, "onlineEnabled": False, **names, **about}
        if method == "POST" and rest == "featurestores/67/featuregroups":
            group = json.loads(body)
            self.groups.append(group | {"id": len(self.groups) + 1, "onlineTopicName": f"{group['name']}_topic"})
            return 201, self.groups[-1]
        if rest.endswith("/expectationsuite"):
            return 200, {"count": 0}
        if rest == "featurestores/67/storageconnectors/kafka_connector/byok":
            kind = {"type": "featurestoreKafkaConnectorDTO", "storageConnectorType": "KAFKA", "externalKafka": True}
            reach = {"bootstrapServers": self.kafka, "securityProtocol": "PLAINTEXT", "options": []}
            reach["sslEndpointIdentificationAlgorithm"] = "none"
            return 200, {"id": 1, "featurestoreId": 67, "name": "kafka_connector", **kind, **reach}
        if "/kafka/subjects/" in rest:
            kinds = {feature["name"]: feature["type"] for feature in self.groups[-1]["features"]}
            fields = [{"name": name, "type": ["null", kind]} for name, kind in kinds.items()]
            schema = {"type": "record", "name": "row", "fields": fields}
            return 200, {"id": 1, "subject": rest.split("/")[-3], "version": 1, "schema": json.dumps(schema)}
        if found := [group for group in self.groups if rest == f"featurestores/67/featuregroups/{group['name']}"]:
            return 200, found
        raise Refusal(404, 270009, "Featuregroup wasn't found.")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # 40 ms an answer
    hopsworks: Hopsworks

    def handle_any(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path).removeprefix("/hopsworks-api/api/")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        request = f"{self.command} {path}" + (f" {query['action']}" if "action" in query else "")
        self.hopsworks.log.append(request)
        fault = self.hopsworks.fault(request)
        try:
            if fault == "silence":
                time.sleep(1)
            if fault == "cut":
                return self.cut()
            if isinstance(fault, Refusal):
                raise fault
            if self.headers["Authorization"] != f"ApiKey {KEY}":
                raise Refusal(401, 320002, "Api key not found")
            status, answer = self.hopsworks.answer(self.command, path, query, _form(self.headers, body), body)
        except Refusal as refusal:
            status, answer = refusal.status, refusal.body or b""
        if fault == "late cut":
            return self.cut()
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if fault == "half" else data)
        if fault == "half":
            self.cut()

    def cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_):
        pass

    do_GET = do_POST = do_PUT = do_DELETE = handle_any


@contextlib.contextmanager
def broker():
    """librdkafka's own mock of a Kafka broker: its address, and a function that gives the values sent to a topic."""
    from confluent_kafka import Consumer, Producer

    kafka = Producer({"test.mock.num.brokers": "1", "bootstrap.servers": "none", "log_level": 2})
    [found] = kafka.list_topics(timeout=10).brokers.values()
    address = f"{found.host}:{found.port}"

    def values(topic: str, count: int) -> list[bytes]:
        options = {"bootstrap.servers": address, "group.id": "tests", "auto.offset.reset": "earliest", "log_level": 2}
        consumer = Consumer(options)
        consumer.subscribe([topic])
        try:
            return [message.value() for message in consumer.consume(count, timeout=20) if not message.error()]
        finally:
            consumer.close()

    yield address, values


def _form(headers, body: bytes) -> dict:
    """The fields of multipart/form-data: bytes of the file, text of the others."""
    fields, kind = {}, headers.get("Content-Type", "")
    if kind.startswith("multipart/"):
        for part in body.split(b"--" + kind.partition("boundary=")[2].encode())[1:-1]:
            head, _, value = part.partition(b"\r\n\r\n")
            name = re.search(rb'name="(\w+)"', head)[1].decode()
            fields[name] = value[:-2] if name == "file" else value[:-2].decode()
    return fields
