"""What `benchmarks.techniques` measures, as data: techniques that each change one thing of a recipe of `techniques_recipes`.

To add a technique, add one line to its group below. Its change is a function from an experiment to an experiment; the helpers
there make the usual ones. `recipes` says where it applies, and `against` names the technique that it is compared with,
where that is not the recipe as it is.
"""

from benchmarks.techniques_recipes import (
    BASELINE,
    IMAGES,
    RECIPES,
    TABLE,
    TEXT,
    VECTORS,
    Recipe,
    Technique,
    around,
    augment,
    batch,
    both,
    dropout,
    instead,
    learning_rate,
    longer,
    model,
    normed,
    optimizer,
    run,
    smaller_batches_first,
    task,
    unchanged,
)
from jaxnets.models.layered import Layers
from jaxnets.ops.initialisers import Initialiser
from jaxnets.optim import (
    EMA,
    SAM,
    SGD,
    SWA,
    WSD,
    Adam,
    Constant,
    Gradient,
    InverseSquareRoot,
    Lookahead,
    Named,
    OneCycle,
    Penalty,
    Restarts,
    ScheduleFree,
    WarmupLinear,
)  # fmt: skip
from jaxnets.steps.precision import Precision
from jaxnets.training.ramp import Ramp

# Not techniques: how far the result moves by what anyone can do, to compare the others with.
YARDSTICKS = (
    Technique(BASELINE, unchanged),
    Technique("twice the steps", longer(2)),
    Technique("half the steps", longer(0.5)),
    Technique("learning rate x 3", learning_rate(3)),
    Technique("learning rate / 3", learning_rate(1 / 3)),
)

OPTIMIZERS = (
    Technique("schedule: constant", optimizer(schedule=Constant())),
    Technique("schedule: linear", optimizer(schedule=WarmupLinear())),
    Technique("Adam", lambda one: instead(Adam(one.optimizer.learning_rate, schedule=one.optimizer.schedule))(one)),
    Technique("8-bit moments", optimizer(moments="8-bit")),
    Technique("bfloat16 moments", optimizer(moments="bfloat16")),
    Technique("SGD", instead(SGD(0.05))),
    Technique("SGD: no momentum", instead(SGD(0.05, momentum=0.0)), against="SGD"),
    Technique("SGD: Nesterov", instead(SGD(0.05, nesterov=True)), against="SGD"),
    Technique("Lion", instead(Named("lion"))),
    Technique("RMSProp", instead(Named("rmsprop"))),
    Technique("Adafactor", instead(Named("adafactor"))),
    Technique("Muon", instead(Named("muon"))),
    Technique("LAMB", instead(Named("lamb"))),
    Technique("schedule: warm-up, stable, decay", optimizer(schedule=WSD())),
    Technique("schedule: one cycle", optimizer(schedule=OneCycle())),
    Technique("schedule: restarts", optimizer(schedule=Restarts())),
    Technique("schedule: inverse square root", optimizer(schedule=InverseSquareRoot())),
    Technique("SAM", around(SAM)),
    Technique("SAM, each 5th step", around(SAM, every=5)),
    Technique("lookahead", around(Lookahead)),
    Technique("schedule-free", around(ScheduleFree, schedule=WSD(decay=0.0))),
)

GRADIENTS = (
    Technique("no weight decay", optimizer(weight_decay=0.0)),
    Technique("weight decay 0.1", optimizer(weight_decay=0.1)),
    Technique("weight decay 1", optimizer(weight_decay=1.0)),
    Technique("clip norm 1", optimizer(clip_norm=1.0)),
    Technique("clip norm 0.1", optimizer(clip_norm=0.1)),
    Technique("clip value 0.01", run(gradient=Gradient(clip_value=0.01))),
    Technique("adaptive clipping 0.01", run(gradient=Gradient(clip_adaptive=0.01))),
    Technique("centralised gradients", run(gradient=Gradient(centralize=True))),
    Technique("gradient noise 1e-4", run(gradient=Gradient(noise=1e-4))),
    Technique("L1 1e-4", run(penalty=Penalty(l1=1e-4))),
    Technique("L2 1e-4", run(penalty=Penalty(l2=1e-4))),
    Technique("weight noise 0.01", run(penalty=Penalty(weight_noise=0.01))),
)

AVERAGES = (
    Technique("EMA 0.99", run(average=EMA(decay=0.99))),
    Technique(
        "constant rate, EMA 0.99",
        both(optimizer(schedule=Constant()), run(average=EMA(decay=0.99))),
        against="schedule: constant",
    ),
    Technique("SWA, last half", run(average=SWA(start=0.5))),
    Technique(
        "constant rate, SWA of the last half",
        both(optimizer(schedule=Constant()), run(average=SWA(start=0.5))),
        against="schedule: constant",
    ),
)

BATCHES = (
    Technique("batch x 2", batch(2)),
    Technique("batch / 2", batch(0.5)),
    Technique("4 micro-batches", run(micro_batches=4)),
    Technique("ramp of batch sizes to the half", smaller_batches_first),
    Technique("ramp of lengths to the half", run(ramp=Ramp(length=(16, 32))), TEXT),
    Technique("selective backpropagation 1/2", run(selective=0.5)),
)

AUGMENTATION = (
    Technique("flip", augment(flip=True), IMAGES),
    Technique("shift 2", augment(shift=2), IMAGES),
    Technique("flip and shift 1", augment(flip=True, shift=1), IMAGES),
    Technique("cutout 8", augment(cutout=8), IMAGES),
    Technique("input noise 0.1", augment(noise=0.1), IMAGES),
    Technique("random erasing 1/4", augment(erase=0.25), IMAGES),
    Technique("random resized crop", augment(crop=0.7), IMAGES),
    Technique("rotation 10", augment(rotate=10.0), IMAGES),
    Technique("ColOut 0.15", augment(colout=0.15), IMAGES),
    Technique("brightness and contrast", augment(brightness=0.3, contrast=0.3), IMAGES),
    Technique("TrivialAugment", augment(policy="trivial"), IMAGES),
    Technique("RandAugment", augment(policy="randaugment"), IMAGES),
    Technique("AugMix", augment(policy="augmix"), IMAGES),
    Technique("mixup 0.2", augment(mixup=0.2), IMAGES),
    Technique("CutMix 1", augment(cutmix=1.0), IMAGES),
)

LAYERS = (
    Technique("dropout 0.1", model(dropout=0.1)),
    Technique("dropout 0.3", model(dropout=0.3)),
    Technique("input dropout 0.1", model(input_dropout=0.1), TABLE),
    Technique("batch norm", model(batch_norm=True), IMAGES),
    Technique("batch norm", model(norm="batch"), TABLE),
    Technique("layer norm", model(norm="layer"), TABLE),
    Technique("GELU", model(activation="gelu"), TABLE),
    Technique("SiLU", model(activation="silu"), TABLE),
    Technique("tanh", model(activation="tanh"), TABLE),
    Technique("leaky ReLU", model(activation="leaky_relu"), TABLE),
    Technique("PReLU", model(activation="prelu"), TABLE),
    Technique("learned positions", model(positions="learned"), TEXT),
    Technique("no positions", model(positions="none"), TEXT),
    Technique("RMSNorm", model(norm="rms"), TEXT),
    Technique("norm after the sum", model(norm_place="post"), TEXT),
    Technique("query and key norm", model(qk_norm="rms"), TEXT),
    Technique("SwiGLU, as large", model(mlp="swiglu", mlp_dim=171), TEXT),
    Technique("no biases", model(biases="none"), TEXT),
    Technique("untied embedding", model(embedding="untied"), TEXT),
    Technique("GELU", model(activation="gelu"), IMAGES),
    Technique("Mish", model(activation="mish"), IMAGES),
    Technique("squared ReLU", model(mlp="squared_relu"), TEXT),
    Technique("He", run(initialiser=Initialiser("he")), VECTORS),
    Technique("Glorot", run(initialiser=Initialiser("glorot")), VECTORS),
    Technique("orthogonal", run(initialiser=Initialiser("orthogonal"))),
    Technique("last layer at 0", run(initialiser=Initialiser("lecun_normal", last_gain=0.0)), VECTORS),
    Technique("DropConnect 0.1", run(layers=Layers(drop_connect=0.1)), VECTORS),
    Technique("whole channels dropped", dropout("channels"), IMAGES, "dropout 0.1"),
    Technique("gyro dropout", dropout("gyro"), against="dropout 0.1"),
    Technique("ghost batch norm 16", normed(ghost=16), IMAGES, "batch norm"),
    Technique("weight standardisation", normed(kernels="standardized"), IMAGES, "batch norm"),
    Technique("squeeze-and-excitation 4", run(layers=Layers(squeeze=4)), IMAGES),
    Technique("factors of rank 16", run(layers=Layers(rank=16))),
    Technique("lazy: outputs x 10", run(layers=Layers(output_scale=10.0)), VECTORS),
)

REGIMES = (
    Technique("label smoothing 0.1", task(label_smoothing=0.1), IMAGES),
    Technique("Huber loss", task(error="huber"), TABLE),
    Technique("bfloat16", run(precision=Precision("bfloat16"))),
    Technique("float16", run(precision=Precision("float16"))),
)

# By the sections of docs/techniques.md.
GROUPS = {
    "Yardsticks": YARDSTICKS,
    "Optimizers and schedules": OPTIMIZERS,
    "Gradients and penalties": GRADIENTS,
    "Averages of weights": AVERAGES,
    "Batches, sizes and lengths": BATCHES,
    "Augmentation and mixing": AUGMENTATION,
    "Activations, initialisers and layers": LAYERS,
    "Regimes": REGIMES,
}


def pairs() -> list[tuple[Recipe, Technique]]:
    """All recipes, each with the techniques that apply to it."""
    listed = [technique for group in GROUPS.values() for technique in group]
    return [(recipe, technique) for recipe in RECIPES for technique in listed if recipe.name in technique.recipes]
