"""Names that nothing in jaxnets, configs or benchmarks uses, and that stay. Each group says who uses them."""

# Read from a configuration file by name (jaxnets/config/find.py).
EXPECTED
PARAMETERS

# Called by Linen: `setup` of a module; a field of Linen's norms that ours give another default.
_.setup
_.use_fast_variance

# Called by a task through `method="infer"` (jaxnets/tasks/variational.py).
_.infer

# Called by Jupyter (jaxnets/theory/picture_style.py, jaxnets/preflight/finding.py).
_._repr_png_
_._repr_html_

# Called by Python or a library: the import system's protocol, hooks of a class, the warnings module, JAX's decorators, and an
# attribute of another library's tokenizer.
_.find_spec
_.create_module
_.exec_module
_.showwarning
_.pre_tokenizer
owner
bases
eager

# Read by name, in a loop over the flags of an added token (jaxnets/data/text/added_tokens.py).
_.single_word
_.normalized

# For users and tests (jaxnets/theory): the rule of a derivative, an automaton by its definition, the diagram of a computation.
_step_jvp
_.accepts
_.mermaid
_.derivative

# For users and tests: constructions of the course, the plain reference of a fast operation, a checkpoint's newest step.
_.latest
_.explain
_.baseline
_.fire
energy
hebbian
recall
plain_linear_recurrence

# Called by Lightning (benchmarks/peers/lightning_trainer.py).
_.training_step
_.configure_optimizers

# Events of a callback, called by name (jaxnets/callbacks/as_hooks.py).
_.started
_.failed

# Called by http.server (jaxnets/cli/ui.py).
_.do_GET
_.log_message

# Read by ONNX Runtime (jaxnets/interop/onnx.py).
_.log_severity_level

# Axes of a mesh, read by name (jaxnets/parallel/mesh.py).
_.sequence
_.replica
_.pipeline

# Fields that a template is filled from (jaxnets/accelerators/gpu.py).
_.cores

# What a user may read beside the unbiased parts (jaxnets/evidence/error_parts.py).
_.of_mean
