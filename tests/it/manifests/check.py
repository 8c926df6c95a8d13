"""Checks Kubernetes manifests against the schemas of their kinds; unknown fields are refused.

    check.py judge TOOLS < MANIFESTS
    check.py data CONFIG_MAP KEY < MANIFESTS    prints what the ConfigMap has under the key
    check.py json < DOCUMENT                    prints the one YAML document as JSON

Kubernetes' own kinds are checked with the schemas of `kubernetes-validate`, those of Istio,
prometheus-operator and cert-manager with those of the npm packages `@kubernetes-models/…`, which lie
in the folder that is given. For the others, Envoy Gateway's above all, no package has schemas:
`tables.yaml` has the fields that our examples use. A kind that none of them knows is an error.
"""

import json
import pathlib
import re
import sys

import jsonschema
import kubernetes_validate
import yaml
from envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2  # noqa: F401
from envoy.extensions.filters.network.http_connection_manager.v3 import (  # noqa: F401
    http_connection_manager_pb2,
)
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import (  # noqa: F401
    header_mutation_pb2,
)
from google.protobuf import any_pb2, json_format

# From the oldest that the chart takes (`kubeVersion`) to the newest that there is.
KUBERNETES = ("1.31", "1.33", "1.35", "1.37")
# Whose schemas hold for the kinds of an API group, by how its name ends.
MODELS = {
    "istio.io": "istio",
    "monitoring.coreos.com": "prometheus-operator",
    "cert-manager.io": "cert-manager",
}
TABLES = yaml.safe_load(pathlib.Path(__file__).with_name("tables.yaml").read_text())


class Unique(yaml.SafeLoader):
    """A loader that refuses a key that stands twice, where YAML would take the last."""


def mapping(loader, node):
    merge = "tag:yaml.org,2002:merge"
    keys = [loader.construct_object(key) for key, _ in node.value if key.tag != merge]
    for key in keys:
        if keys.count(key) > 1:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: {key} stands twice")
    return loader.construct_mapping(node, deep=True)


Unique.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)


def strict(schema):
    """The schema with every object closed that lists its properties."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items() if key != "properties"}
    # Below `properties` a key is a field's name and no keyword.
    if properties := schema.get("properties"):
        made["properties"] = {name: strict(field) for name, field in properties.items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
    if made.pop("nullable", False) and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
        if "enum" in made:
            made["enum"] = [*made["enum"], None]
    return made


def models(tools, api_version, kind):
    """The schema of a kind, which stands as a literal in a package's code, and whose it is."""
    group = api_version.split("/")[0]
    package = next((it for end, it in MODELS.items() if f".{group}".endswith(f".{end}")), None)
    path = pathlib.Path(tools, str(package), "package", api_version, f"{kind}.js")
    if not package or not path.is_file():
        return None, "nothing"
    literal = re.search(r"^const schema = (\{.*?^\});$", path.read_text(), re.S | re.M)
    if literal is None:
        sys.exit(f"{path} holds no schema: is it another version of @kubernetes-models/{package}?")
    schema = strict(json.loads(literal[1]))
    schema["properties"]["metadata"] = TABLES["$metadata"]
    return schema, f"{package}'s schema"


def table(api_version, kind):
    fields = TABLES.get(f"{api_version}/{kind}")
    if fields is None:
        return None
    head = {"apiVersion": {"const": api_version}, "kind": {"const": kind}}
    return strict(
        {
            "type": "object",
            "required": ["apiVersion", "kind", "metadata", "spec"],
            "properties": {**head, "metadata": TABLES["$metadata"], "spec": fields},
        }
    )


def judge(document, tools):
    """The errors of one document, and what it was held against."""
    api_version, kind = document.get("apiVersion", ""), document.get("kind", "")
    # One that only has `metadata.name` must not pass for one that has no kind.
    if not api_version or not kind:
        return ["it has no apiVersion or no kind"], "nothing"
    if not document.get("metadata", {}).get("name"):
        return ["it has no metadata.name"], "nothing"
    schema, source = table(api_version, kind), "our table"
    if schema is None:
        schema, source = models(tools, api_version, kind)
    if schema is not None:
        validator = jsonschema.Draft202012Validator(schema)
        found = jsonschema.exceptions.best_match(validator.iter_errors(document))
        return [said(found)] if found else patches(document), source
    errors = []
    for version in KUBERNETES:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            errors.append(f"{said(error)} (Kubernetes {version})")
        except kubernetes_validate.SchemaNotFoundError:
            return ["nothing here knows this kind"], "nothing"
    return errors, "Kubernetes' schema"


def patches(document):
    """What Envoy would refuse of an EnvoyFilter's patches, whose values have no schema."""
    for patch in document["spec"].get("configPatches", []):
        try:
            json_format.ParseDict(patch["patch"]["value"]["typed_config"], any_pb2.Any())
        except json_format.ParseError as error:
            return [str(error)]
    return []


def said(error):
    return f"{'.'.join(map(str, error.absolute_path)) or 'the document'}: {error.message}"


def judged(documents, tools):
    bad = 0 if documents else 1
    for document in documents:
        errors, source = judge(document, tools)
        name = document.get("metadata", {}).get("name")
        print(f"{document.get('kind')}/{name}: held against {source}")
        for error in errors:
            print(f"  {error}")
        bad += bool(errors)
    sys.exit(1 if bad else 0)


def main(arguments):
    try:
        documents = [it for it in yaml.load_all(sys.stdin, Loader=Unique) if it is not None]
    except yaml.YAMLError as error:
        sys.exit(f"it is no YAML: {error}")
    match arguments:
        case ["judge", tools]:
            judged(documents, tools)
        case ["json"]:
            json.dump(documents[0], sys.stdout)
        case ["data", name, key]:
            maps = [it for it in documents if it["kind"] == "ConfigMap"]
            [found] = [it for it in maps if it["metadata"]["name"] == name]
            sys.stdout.write(found["data"][key])
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
