"""The names here for the arguments of other libraries' training functions."""

# Arguments of other libraries' training functions -> what to use here.
ELSEWHERE = {
    "accelerator": "jaxnets trains on the devices that JAX has; `JAX_PLATFORMS=cpu` and `mesh=MeshShape(...)` choose them",
    "accumulate_grad_batches": "use micro_batches=, which splits a batch, or optimizer=optax.MultiSteps(...)",
    "callbacks": "use hooks=[...], with objects of subclasses of jaxnets.Callback; also stop=EarlyStop(...) and keep=",
    "devices": "use mesh=MeshShape(...); by default all devices are used",
    "gradient_clip_val": "use optimizer=AdamW(clip_norm=...), or optax.clip_by_global_norm in your chain",
    "lr": "give the rate to the optimizer: optimizer=AdamW(learning_rate=...) or optax.adam(...)",
    "learning_rate": "give it to the optimizer: optimizer=AdamW(learning_rate=...) or optax.adam(...)",
    "max_epochs": "use epochs=",
    "max_steps": "use steps=",
    "sample_weight": "give the weights with the data: (inputs, targets, weights)",
    "shuffle": "the order is shuffled anew in every epoch, by seed=",
    "early_stopping_rounds": "use stop=EarlyStop(metric, patience=...)",
    "restore_best_weights": "stop=EarlyStop(...) gives the weights of the best evaluation",
    "val_check_interval": "use eval_every=, in steps",
    "validation_data": "use validation=(inputs, targets)",
    "validation_split": "use validation=, a share of the training examples",
    "verbose": "use progress='bar', 'lines' or 'none'",
}
