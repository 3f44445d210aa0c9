"""Validates compose files and Kubernetes manifests against their schemas; prints one JSON object per container."""

import json
import sys

import compose_spec
import kubernetes_validate
import yaml

KUBERNETES = "1.29"


def show(name, container, ports):
    words = (container.get("command") or []) + (container.get("args") or [])
    print(json.dumps({"name": name, "image": container["image"], "words": words, "ports": ports}))


def kubernetes(path):
    with open(path, encoding="utf-8") as file:
        documents = list(yaml.safe_load_all(file))
    for document in documents:
        if document["apiVersion"].startswith("kustomize."):
            continue
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
        template = document.get("spec", {}).get("template")
        if template is None:
            continue
        spec = template["spec"]
        for container in spec.get("initContainers", []) + spec["containers"]:
            ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                action = container.get(probe, {})
                port = (action.get("httpGet") or action.get("tcpSocket") or {}).get("port")
                if port is not None and port not in ports:
                    sys.exit(f"{path}: the {probe} of {container['name']} uses port {port}, which it does not declare")
            show(container["name"], container, ports)


def compose(path):
    with open(path, encoding="utf-8") as file:
        document = yaml.safe_load(file)
    compose_spec.PyCompose.from_json(json.dumps(document)).validate()
    for name, service in document["services"].items():
        for other in service.get("depends_on", {}):
            if other not in document["services"]:
                sys.exit(f"{path}: {name} depends on {other}, which is not a service")
        ports = {}
        for mapping in service.get("ports", []):
            outside, inside = mapping.rsplit(":", 1)
            # An address of the host may come first.
            ports[outside.rsplit(":", 1)[-1]] = int(inside)
        show(name, service, ports)
        if not service["healthcheck"].get("disable"):
            healthcheck = service["healthcheck"]["test"]
            show(f"{name} healthcheck", {"image": service["image"], "command": healthcheck[1:]}, {})


for argument in sys.argv[1:]:
    try:
        (compose if argument.endswith("compose.yaml") else kubernetes)(argument)
    except (ValueError, kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        sys.exit(f"{argument}: {error}")
