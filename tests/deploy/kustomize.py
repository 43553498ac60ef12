"""As much of Kustomize as deploy/kubernetes uses, for machines without a recent kubectl.

`resources` and strategic-merge `patches` by path; anything else is refused.
tests/deploy/kubernetes_test.py compares with the real one where that is installed.
"""

import yaml


def render(directory):
    """All objects of a kustomization, patched; list of dicts."""
    kustomization = yaml.safe_load((directory / "kustomization.yaml").read_text())
    unknown = set(kustomization) - {"apiVersion", "kind", "resources", "patches"}
    assert not unknown, f"{directory}: kustomize.py does not know {unknown}"
    objects = []
    for resource in kustomization["resources"]:
        path = directory / resource
        if path.is_dir():
            objects += render(path)
        else:
            objects += yaml.safe_load_all(path.read_text())
    for patch in kustomization.get("patches", []):
        changes = yaml.safe_load((directory / patch["path"]).read_text())
        targets = [o for o in objects if identity(o) == identity(changes)]
        assert len(targets) == 1, f"{patch['path']} patches {len(targets)} objects"
        merge(targets[0], changes)
    return objects


def identity(thing):
    return thing["apiVersion"], thing["kind"], thing["metadata"]["name"]


def merge(target, changes):
    """Maps key by key, lists of named things name by name, the rest replaced."""
    for key, change in changes.items():
        old = target.get(key)
        if isinstance(change, dict) and isinstance(old, dict):
            merge(old, change)
        elif isinstance(change, list) and isinstance(old, list) and "name" in change[0]:
            by_name = {item["name"]: item for item in old}
            for item in change:
                if item["name"] in by_name:
                    merge(by_name[item["name"]], item)
                else:
                    old.append(item)
        else:
            target[key] = change
