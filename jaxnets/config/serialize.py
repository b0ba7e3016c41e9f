"""An experiment as data, and back.

It is saved as `config.json`, in which every object has the name of its class. When this file is loaded, names are looked up
only in a table of built-in classes, so no code is run.
"""

import dataclasses
import functools
import hashlib
import importlib
import json
import numbers
from collections.abc import Sequence
from typing import Any

from jaxnets.checkpoints.retention import Keep
from jaxnets.checkpoints.warm_start import WarmStart
from jaxnets.config.check import check_values, is_linens_own
from jaxnets.config.code_digest import CODE, code_digest, described, without_code
from jaxnets.config.experiment import Experiment
from jaxnets.core.errors import UsageError, did_you_mean, note
from jaxnets.core.renames import FIELDS, renamed
from jaxnets.data.augment.for_images import FIRST, Augment
from jaxnets.data.preparation import CLASSES
from jaxnets.data.validation import Validation
from jaxnets.models.layered import Layers
from jaxnets.ops.initialisers import Initialiser
from jaxnets.optim.averaging import EMA
from jaxnets.optim.given import is_transformation
from jaxnets.optim.gradient import Gradient
from jaxnets.optim.local_sgd import LocalSGD
from jaxnets.optim.penalty import Penalty
from jaxnets.parallel.mesh import MeshShape
from jaxnets.steps.health import Health
from jaxnets.steps.precision import Precision
from jaxnets.training.early_stop import EarlyStop
from jaxnets.training.guards import Guard
from jaxnets.training.ramp import Ramp

# The modules whose classes a saved configuration may name.
BUILT_IN = ("jaxnets.models", "jaxnets.tasks", "jaxnets.data", "jaxnets.optim")

# Fields that were added to a class after runs were named by it, each with the value of its old behaviour: with this value they
# have no part in the name of a run's directory.
DEEP = ("TransformerEncoder", "Seq2SeqTransformer")
YOUNGER: dict[str, dict[str, Any]] = {
    "AdamW": {"moments": "float32"},
    "GPT2Tokens": {"documents": "joined"},
    "Augment": {field.name: field.default for field in dataclasses.fields(Augment) if field.name not in FIRST},
    "LanguageModel": {"attention": "plain", "split_attention": "ring", "pipeline_rounds": 1},
    "Experiment": {
        "local": {"type": "LocalSGD"} | dataclasses.asdict(LocalSGD()),
        "selective": 1.0,
        "ramp": {"type": "Ramp", "until": 0.5, "batch_size": [], "resolution": [], "length": []},
        "gradient": {"type": "Gradient"} | dataclasses.asdict(Gradient()),
        "penalty": {"type": "Penalty"} | dataclasses.asdict(Penalty()) | {"on": []},
        "layers": {"type": "Layers"} | dataclasses.asdict(Layers()),
        "initialiser": {"type": "Initialiser"} | dataclasses.asdict(Initialiser()),
        "peak_flops": 0.0,
    },
    "Precision": {"weights": "float32"},
    "Lookahead": {"last_share": None},
    "MeshShape": {"expert": 1, "sequence": 1, "replica": 1, "zero": 3, "pipeline": 1, "offload": "none"},
    **{model: {"attention": "plain", "remat": "none"} for model in DEEP},
    "HybridLanguageModel": {"attention": "plain"},
    "CNN": {"activation": "relu"},
    "ConvAutoencoder": {"activation": "relu"},
    "ResNet9": {"activation": "relu"},
    "ResNet": {"remat": "none", "activation": "relu"},
    "CifarResNet": {"remat": "none", "activation": "relu", "stochastic_depth": 0.0},
    "CoAtNet": {"remat": "none", "activation": "gelu", "stochastic_depth": 0.0},
    "ConvNeXt": {"remat": "none", "activation": "gelu_exact"},
    "ViT": {"attention": "plain", "remat": "none", "mlp": "gelu_exact", "stochastic_depth": 0.0},
    "UNet": {"remat": "none", "activation": "silu"},
    **{model: {"activation": "relu"} for model in ("GCN", "GraphSAGE", "GIN")},
    "GAT": {"activation": "elu"},
}


def to_data(value: Any) -> Any:
    """A configuration object as JSON data; "type" is the class: its bare name, or `module:name` and a digest of its code."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field for field in dataclasses.fields(value) if field.init and not is_linens_own(value, field.name)]
        own = {} if built_ins().get(type(value).__name__) is type(value) else described(type(value))
        name = {"type": type(value).__name__, **own}
        return name | {field.name: to_data(getattr(value, field.name)) for field in fields}
    if is_transformation(value):
        return described(value.update) | {CODE: code_digest(value)}
    if isinstance(value, tuple | list):
        return [to_data(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, numbers.Real):  # numpy's
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    if callable(value):
        return described(value)
    # Any other object (a dtype, a dict, a library's configuration object) is saved as a name with a digest, to compare it
    # later.
    return described(type(value)) | {CODE: code_digest(value)}


def from_data(data: Any, given: Sequence[Any] = ()) -> Any:
    """The inverse of `to_data`. Never runs code.

    Args:
        data: a configuration as data.
        given: the user's objects (models, functions, transformations) that `data` names.

    Raises:
        UsageError: an unknown class or field, a wrong type, or an object of the user's that is not given.
    """
    if isinstance(data, list):
        return tuple(from_data(item, given) for item in data)
    if not isinstance(data, dict):
        return data
    known = built_ins()
    name = data.get("type")
    if isinstance(name, str) and ":" in name:
        return _among(given, name, data)
    if not isinstance(name, str) or name not in known:
        raise UsageError(f"the configuration names {name!r}, which is not built in. {did_you_mean(str(name), known)}")
    cls = known[name]
    fields = {field.name for field in dataclasses.fields(cls) if field.init and not is_linens_own(cls, field.name)}
    fields_given = renamed({key: value for key, value in data.items() if key != "type"}, FIELDS.get(name, {}))
    for key in fields_given:
        if key not in fields:
            raise UsageError(f"{name} has no field {key!r}. {did_you_mean(key, fields)}")
    values = {key: from_data(value, given) for key, value in fields_given.items()}
    check_values(cls, values)
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name}: {error}") from error


def _among(given: Sequence[Any], name: str, data: Any) -> Any:
    """The user's object that a saved configuration names; raises `UsageError` if none is given, or a different one."""
    candidates = [(item, to_data(item)) for item in given]
    same = [(item, mine) for item, mine in candidates if isinstance(mine, dict) and mine.get("type") == name]
    for item, mine in same:
        if mine == data:
            return item
    if not same:
        raise UsageError(
            f"{name!r} is a class of your own, which the saved configuration only names, never runs. Give the object: "
            f"open_run(directory, model=...), also task=, optimizer=, loss= and metrics=; or the file that defines it: "
            f"`jaxnets train FILE.py --run-dir ...` goes on with the run, or shows it if it is complete"
        )
    item, mine = same[0]
    changed = differences(without_code(data), without_code(mine))
    if changed:
        shown = "; ".join(changed[:6])
        raise UsageError(f"the {name.split(':')[-1]} that is given is not that of the run; it differs in {shown}")
    note(f"the code of {name} was edited since the run was made, so its weights may mean something else now")
    return item


@functools.cache
def built_ins() -> dict[str, type]:
    """The classes a saved configuration may name."""
    found: dict[str, type] = {
        cls.__name__: cls
        for cls in (
            Experiment,
            EMA,
            MeshShape,
            Precision,
            Initialiser,
            Keep,
            WarmStart,
            Guard,
            EarlyStop,
            Ramp,
            Validation,
            Health,
            *CLASSES,
        )
    }
    for module_name in BUILT_IN:
        module = importlib.import_module(module_name)
        for name in module.__all__:
            item = getattr(module, name)
            if isinstance(item, type) and dataclasses.is_dataclass(item):
                found[name] = item
    return found


# Fields that decide where and how a run is executed and shown, but not its result: a run may resume with other values.
INCIDENTAL = (
    *("mesh", "log_every", "eval_every", "eval_batch_size", "save_every", "keep", "steps_per_call", "placement"),
    *("health", "sample_every", "peak_flops"),
)


def apart(data: Any, prefix: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of a saved configuration by dotted names: those that were set, and those that have their defaults.

    The class of an object is the value of its own name. A field without a default was chosen.
    """
    chosen: dict[str, Any] = {}
    default: dict[str, Any] = {}
    cls = built_ins().get(str(data.get("type")))
    fields = {field.name: field for field in dataclasses.fields(cls)} if cls and dataclasses.is_dataclass(cls) else {}
    for key, value in data.items():
        name = f"{prefix}.{key}" if prefix else key
        if key == "type":
            continue
        field = fields.get(key)
        same = field is not None and field.default is not dataclasses.MISSING and to_data(field.default) == value
        if isinstance(value, dict):
            (default if same else chosen)[name] = value.get("type", "")
            for part, into in zip(apart(value, name), (default if same else chosen, default), strict=True):
                into |= part
        else:
            (default if same else chosen)[name] = value
    return chosen, default


def essential(data: dict[str, Any]) -> dict[str, Any]:
    """An experiment's data without the fields that do not change its result."""
    return {key: value for key, value in data.items() if key not in INCIDENTAL}


def digest(experiment: Experiment) -> str:
    """Eight hex digits that differ between experiments that compute different things."""
    data = essential(to_data(experiment))
    # Fields younger than the names of run directories: at their defaults they have no part in the name.
    younger = {"stop": EarlyStop(patience=0), "validation": Validation()}
    data = {key: value for key, value in data.items() if key not in younger or value != to_data(younger[key])}
    text = json.dumps(_without_younger(without_code(data)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _without_younger(data: Any) -> Any:
    """The same without the fields in `YOUNGER` that have the value of the old behaviour."""
    if isinstance(data, list):
        return [_without_younger(item) for item in data]
    if not isinstance(data, dict):
        return data
    kind = data.get("type")
    younger = YOUNGER.get(kind, {}) if isinstance(kind, str) else {}
    return {key: _without_younger(v) for key, v in data.items() if key not in younger or v != younger[key]}


def differences(saved: Any, wanted: Any, prefix: str = "") -> list[str]:
    """The differences between two configurations as data, one line for each field."""
    if isinstance(saved, dict) and isinstance(wanted, dict):
        lines = []
        for key in sorted(saved.keys() | wanted.keys()):
            lines += differences(saved.get(key), wanted.get(key), f"{prefix}.{key}" if prefix else key)
        return lines
    return [] if saved == wanted else [f"{prefix}: {saved!r} there, {wanted!r} here"]
