"""Renders and lints the chart with Helm's own engine, and tells of its values as a table.

    helm.py render CHART [upgrade | as RELEASE] < VALUES
                                              prints {"notes", "text", "documents"} as JSON
    helm.py lint CHART < VALUES               prints what Helm has to say; exits with 1 if any of it
                                              is a warning or an error
    helm.py table CHART                       prints the rows of README.md from values.yaml
    helm.py leaves CHART                      prints the paths of all values, and those that have a row
"""

import json
import pathlib
import re
import sys

import helm_python
import yaml

RELEASE, NAMESPACE = "latchkey", "tokens"
# Helm's severities: 1 is a recommendation, 2 a warning, 3 an error.
WARNING = 2


def render(chart, values, upgrade=False, release=RELEASE):
    with helm_python.Chart.load(chart) as loaded:
        # As `helm install` does before it renders.
        loaded.validate_schema(values)
        files = loaded.render(values, name=release, namespace=NAMESPACE, is_upgrade=upgrade, is_install=not upgrade)
    notes = "".join(text for path, text in files.items() if path.endswith("NOTES.txt"))
    manifests = [text for path, text in sorted(files.items()) if path.endswith(".yaml")]
    text = "\n---\n".join(manifests)
    documents = [it for it in yaml.safe_load_all(text) if it]
    json.dump({"notes": notes, "text": text, "documents": documents}, sys.stdout)


def lint(chart, values):
    report = helm_python.lint(chart, values, namespace=NAMESPACE)
    for message in report["messages"]:
        print(f"{message['severity']} {message['path']}: {message['error']}")
    bad = [it for it in report["messages"] if it["severity"] >= WARNING] or report["errors"]
    print(*report["errors"], sep="\n")
    if report["total_charts_linted"] != 1:
        sys.exit("nothing was linted")
    sys.exit(1 if bad else 0)


def rows(chart):
    """The path of each value with a comment `# -- …`, and the comment."""
    path, found, comment = [], [], None
    for line in pathlib.Path(chart, "values.yaml").read_text().splitlines():
        indent = len(line) - len(line.lstrip())
        said, key = line.strip(), re.match(r"\s*([A-Za-z0-9]+):", line)
        if said.startswith("# -- "):
            comment = [said[5:]]
        elif said.startswith("#"):
            if comment is not None:
                comment.append(said[2:])
        elif key:
            path = [*path[: indent // 2], key[1]]
            if comment is not None:
                found.append((".".join(path), " ".join(comment)))
            comment = None
    return found


def at(values, path):
    for name in path.split("."):
        values = values[name]
    return values


def table(chart):
    values = yaml.safe_load(pathlib.Path(chart, "values.yaml").read_text())
    print("| Value | Default | Meaning |")
    print("| --- | --- | --- |")
    for path, comment in rows(chart):
        print(f"| `{path}` | `{json.dumps(at(values, path))}` | {comment} |")


def leaves(chart):
    values = yaml.safe_load(pathlib.Path(chart, "values.yaml").read_text())

    def below(path, value):
        if isinstance(value, dict) and value:
            return [it for key, inner in value.items() for it in below(f"{path}.{key}" if path else key, inner)]
        return [path]

    json.dump({"leaves": below("", values), "rows": [path for path, _ in rows(chart)]}, sys.stdout)


def main(arguments):
    try:
        match arguments:
            case ["render", chart]:
                render(chart, yaml.safe_load(sys.stdin) or {})
            case ["render", chart, "upgrade"]:
                render(chart, yaml.safe_load(sys.stdin) or {}, upgrade=True)
            case ["render", chart, "as", release]:
                render(chart, yaml.safe_load(sys.stdin) or {}, release=release)
            case ["lint", chart]:
                lint(chart, yaml.safe_load(sys.stdin) or {})
            case ["table", chart]:
                table(chart)
            case ["leaves", chart]:
                leaves(chart)
            case _:
                sys.exit(__doc__)
    except helm_python.HelmError as error:
        sys.exit(f"Helm: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
