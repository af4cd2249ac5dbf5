#!/usr/bin/python3
"""Stand-ins for Keystone, Glance and Neutron, with the calls that Nova uses.

A token is the name of a project, and gives every role in it. The images are fixed and empty. There are no networks.
"""
import json
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

IMAGE_SIZE = 1 << 20
# Properties of the images, by name.
IMAGES = {
    "plain": {},
    "pc": {"hw_machine_type": "pc"},
    "hw-intel": {"hw_viommu_model": "intel"},
    "hw-virtio": {"hw_viommu_model": "virtio"},
}
PORTS = {"identity": 5000, "image": 9292, "network": 9696, "placement": 8778, "compute": 8774}
PATHS = {"identity": "/v3", "compute": "/v2.1"}


def image_id(name):
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


class Service(BaseHTTPRequestHandler):
    """Common code of the three; self.path is without the query and the slash at its end."""

    protocol_version = "HTTP/1.1"

    def reply(self, document, status=200, **headers):
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream" if data is document else "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def handle_request(self):
        self.sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.path = self.path.partition("?")[0].rstrip("/")
        self.answer()

    do_GET = do_POST = do_HEAD = handle_request

    def log_message(self, *_):
        print(type(self).__name__, self.command, self.path, flush=True)


class Keystone(Service):
    def answer(self):
        if self.path.endswith("/auth/tokens"):
            project = self.headers.get("X-Subject-Token") or "admin"
            if self.command == "POST":
                return self.reply(self.token(project), 201, X_Subject_Token=project)
            return self.reply(self.token(project), X_Subject_Token=project)
        version = {"id": "v3.14", "status": "stable", "links": [{"rel": "self", "href": "http://127.0.0.1:5000/v3/"}]}
        if self.path == "/v3":
            return self.reply({"version": version})
        if not self.path:
            return self.reply({"versions": {"values": [version]}}, 300)
        return self.reply({self.path.rpartition("/")[2]: []})

    @staticmethod
    def token(project):
        def endpoints(kind):
            url = f"http://127.0.0.1:{PORTS[kind]}{PATHS.get(kind, '')}"
            common = {"region": "RegionOne", "region_id": "RegionOne", "url": url}
            return [{"id": kind + face, "interface": face, **common} for face in ("public", "internal", "admin")]

        domain = {"id": "default", "name": "Default"}
        return {
            "token": {
                "methods": ["password"],
                "user": {"id": "user", "name": "user", "domain": domain, "password_expires_at": None},
                "project": {"id": project, "name": project, "domain": domain},
                "roles": [{"id": role, "name": role} for role in ("admin", "manager", "member", "reader", "service")],
                "catalog": [{"id": kind, "type": kind, "name": kind, "endpoints": endpoints(kind)} for kind in PORTS],
                "is_domain": False,
                "audit_ids": ["lab"],
                "issued_at": "2026-01-01T00:00:00.000000Z",
                "expires_at": "2099-01-01T00:00:00.000000Z",
            }
        }


class Glance(Service):
    # glanceclient builds its objects with this schema.
    FIELDS = "id name status size min_ram min_disk checksum owner protected tags created_at updated_at container_format"
    FIELDS += " disk_format visibility file schema self locations direct_url virtual_size os_hash_algo os_hash_value os_hidden"

    def answer(self):
        if "/schemas/" in self.path:
            fields = {field: {} for field in self.FIELDS.split()}
            return self.reply({"name": "image", "properties": fields, "additionalProperties": {"type": "string"}, "links": []})
        if not self.path or self.path.endswith("versions"):
            links = [{"rel": "self", "href": "http://127.0.0.1:9292/v2/"}]
            return self.reply({"versions": [{"id": "v2.17", "status": "CURRENT", "links": links}]}, 300)
        images = [self.image(name) for name in IMAGES]
        found = [image for image in images if f"/{image['id']}" in self.path]
        if self.path.endswith("/images"):
            return self.reply({"images": images})
        if not found:
            return self.reply({}, 404)
        return self.reply(bytes(IMAGE_SIZE) if self.path.endswith("/file") else found[0])

    @staticmethod
    def image(name):
        times = {"created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"}
        formats = {"disk_format": "raw", "container_format": "bare", "visibility": "public", "schema": "/v2/schemas/image"}
        size = {"size": IMAGE_SIZE, "min_ram": 0, "min_disk": 0, "checksum": None, "tags": [], "protected": False}
        known = {"id": image_id(name), "name": name, "status": "active", "owner": "admin"}
        return {**known, **size, **formats, **times, **IMAGES[name]}


class Neutron(Service):
    def answer(self):
        last = self.path.rpartition("/")[2].removesuffix(".json")
        if last in ("", "v2.0"):
            return self.reply({"versions": [{"id": "v2.0", "status": "CURRENT", "links": []}]})
        if "/quotas/" in self.path:
            return self.reply({"quota": {"port": -1, "network": -1}})
        return self.reply({last.replace("-", "_"): []})


if __name__ == "__main__":
    for kind, service in (("identity", Keystone), ("image", Glance), ("network", Neutron)):
        server = ThreadingHTTPServer(("127.0.0.1", PORTS[kind]), service)
        threading.Thread(target=server.serve_forever).start()
