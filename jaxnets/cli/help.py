"""Help texts: the list of commands, and each in detail."""

HELP = """jaxnets: train neural networks in JAX

  jaxnets train CONFIG [--FIELD VALUE ...]   train a configuration, or continue it where it stopped
  jaxnets check CONFIG [--FIELD VALUE ...]   find problems before training: 24 checks in seconds
  jaxnets finetune FOLDER FILE [--FLAGS]     a Hugging Face language model on a text or conversations, whole or with adapters
  jaxnets evaluate RUN_DIRECTORY             measure a trained run on its test split
  jaxnets diagnose RUN_DIRECTORY             curvature, robustness and explanations of a trained run, into its report
  jaxnets predict RUN_DIRECTORY FILE         predictions of a trained run for new examples (.npz, .npy, .csv, .txt)
  jaxnets generate RUN_DIRECTORY             text, images or frames, by a run that makes them (`... generate RUN --help`)
  jaxnets export RUN_DIRECTORY FOLDER        for other programs: Hugging Face folders, StableHLO, ONNX
  jaxnets runs [DIRECTORY]                   the runs in a folder (`runs`), sorted and filtered by any setting or metric
  jaxnets compare RUN RUN ...                settings that differ, results side by side, curves in one plot
  jaxnets compare A [B] --seeds N            two configurations trained with the same seeds: is one better, or is it chance
  jaxnets sweep CONFIG --FIELD V1 V2 ...     train with several values of flags, many runs in one program; the best first
  jaxnets curve CONFIG --examples N1 N2 ...  the error over the number of examples or over a field: bias, variance, a law
  jaxnets ui [DIRECTORY]                     a local web page: all runs, curves in one plot, live
  jaxnets clean RUN_OR_DIRECTORY             checkpoints and files that are not needed; removed with --yes
  jaxnets copy RUN DIRECTORY                 copy a run; an incomplete copy is never taken for a run
  jaxnets ckpt ls|verify|digest|diff|export  look at checkpoints, without the model's code (`jaxnets ckpt --help`)
  jaxnets doctor                             platform, devices, memory, versions; problems and remedies
  jaxnets summary CONFIG [--FIELD VALUE ...] layers, shapes, parameters and FLOPs of a configuration's model
  jaxnets shard CONFIG [--mesh.fsdp N ...]   where each leaf of the state goes on a mesh, also without its devices
  jaxnets estimate CONFIG --on v5e:2x4       memory, communication and time on accelerators that need not be present
  jaxnets plan CONFIG --chips v5e:16         the best mesh, micro-batches and rematerialisation on them
  jaxnets find-lr CONFIG [--output F.png]    the learning rate to train with, by range tests that write no files
  jaxnets find-batch CONFIG [--on h100:8]    the largest batch size that fits, the fastest one, the gradient noise scale
  jaxnets list                               the configurations by name
  jaxnets completion bash|zsh|fish           a script that completes commands, configurations, runs and flags
  jaxnets --version
  jaxnets -v COMMAND ...                     errors with their traceback

CONFIG is the name of a shipped configuration (see `jaxnets list`) or a path to a Python file that defines
`def config() -> Experiment`. `jaxnets train CONFIG --help` shows every field with its type and value.

  jaxnets train digits_cnn
  jaxnets train mnist_mlp --optimizer.learning-rate 3e-3 --task.model.widths 256 256
  jaxnets train digits_cnn --optimizer lion --optimizer.schedule wsd --optimizer.schedule.warmup 2ep
  jaxnets train tabular --data.path my.csv --data.target price
"""
DETAILS = {
    "evaluate": """jaxnets evaluate RUN_DIRECTORY

Evaluates the newest undamaged checkpoint on the run's test split: a line for each metric. It has no flags.""",
    "diagnose": """jaxnets diagnose RUN_DIRECTORY [--only SECTION ...] [--skip SECTION ...] [--examples N] [--json]

Measures and draws, on at most --examples examples of the training and of the test split:
  curvature     eigenvalues, trace and spectrum of the Hessian of the loss, its sharpness, a slice around the weights
  robustness    the score with weights, units and bits damaged; attacks, corruptions, calibration, foreign inputs
  explanation   maps of inputs, nearest and most influential training examples, an input for each class
Prints the numbers, writes the pictures to plots/ and all of it into the run's report.html. What does not suit the run is left
out, with the reason.

  jaxnets diagnose runs/digits_cnn
  jaxnets diagnose runs/digits_cnn --only curvature --examples 1000 --json""",
    "predict": """jaxnets predict RUN_DIRECTORY FILE [--output FILE] [--top-k K] [--raw]

Predictions of a trained run for new examples, one a line. FILE is one of
  .npz   arrays by the names they had in training: inputs, and for graphs edges, node_mask, edge_mask
  .npy   the inputs
  .csv   rows of a table, under the header of the one it was trained on
  .txt   a text to a line, for a run on sentences or pairs of sequences
--output writes a file instead: .csv and .jsonl with names and probabilities, .npz with the predictions as an array. --top-k
gives the most probable classes; --raw the model's own outputs (logits, say).

  jaxnets predict runs/digits_cnn images.npy --top-k 3
  jaxnets predict runs/tabular new_rows.csv --output predictions.csv""",
    "finetune": """jaxnets finetune FOLDER FILE [--lora RANK] [--train-only REGEX] [--FIELD VALUE ...]

Trains a GPT-2, Llama or Qwen from its folder (config.json, safetensors, tokenizer) on a text, or on conversations: a .jsonl
with {"messages": [{"role": "user", "content": "..."}, ...]} or {"prompt": "...", "completion": "..."} a line, of which the
assistant's turns are learned. --lora trains low-rank adapters beside frozen weights. All fields of an experiment are flags.

  jaxnets finetune gpt2/ shakespeare.txt --steps 500 --optimizer.learning-rate 1e-4
  jaxnets finetune qwen/ chats.jsonl --lora 8 --data.length 512""",
    "runs": """jaxnets runs [DIRECTORY] [--sort FIELD] [--reverse] [--where CONDITION ...] [--columns FIELD ...]

The runs below a folder (by default `runs`), the newest last. A field is a metric, or a setting by its dotted name.

  jaxnets runs
  jaxnets runs --sort accuracy --reverse --where "accuracy>0.9" "state=complete"
  jaxnets runs sweeps --columns optimizer.learning_rate batch_size accuracy""",
    "compare": """jaxnets compare RUN RUN ... [--output FILE.png]
jaxnets compare A [B] --seeds N [--FIELD VALUE ...] [--a.FIELD VALUE ...] [--b.FIELD VALUE ...]

Of runs: the settings that differ, the newest results side by side, and with --output the curves of all over each other. Where
they are two sets that differ by their seeds, also the paired differences with their intervals.

With --seeds A and B are configurations. Both are trained with the same N seeds; the difference of the headline has its 95 %
interval, and neither is called better where that contains 0. Flags go to both, --a.FIELD and --b.FIELD to one of them. Without
a second name B is A with its own flags. --metric, --directory (to keep and resume), --output FILE.png, --json.

  jaxnets compare runs/digits_cnn runs/digits_cnn-1f2e3d4c --output curves.png
  jaxnets compare digits_cnn --seeds 5 --steps 300 --b.optimizer.learning-rate 0.01
  jaxnets compare runs/a_* runs/b_*""",
    "sweep": """jaxnets sweep CONFIG --FIELD VALUE VALUE ... [--random N] [--halving N] [--metric NAME] [--directory DIR]

Trains a configuration with every combination of the values of the flags that have several, and prints the settings, the best
first: mean and 95 % interval over the values of --seed. A value that is a list has commas between its parts (64,64). Runs that
differ in the seed and in numbers of the optimizer are trained in one program (at most --at-once).
--random N draws N settings; a flag may have a range then, log:1e-4:1e-1 or linear:0:0.5 (--draws is the root of the drawing).
--halving N keeps one setting of N after each part of the steps.
Results are kept in --directory (sweeps/CONFIG), a line of JSON for each run, with a picture; what is there is not run again.
--part 3/16 trains the third of sixteen parts of the runs, for machines that share the directory; without it, all are listed.

  jaxnets sweep digits_softmax --optimizer.learning-rate 1e-3 3e-3 1e-2 --seed 0 1 2
  jaxnets sweep digits_softmax --random 20 --optimizer.learning-rate log:1e-4:1e-1 --seed 0 1 --halving 3
  jaxnets sweep mnist_mlp --task.model.widths 64 64,64 256 --validation.share 0.1""",
    "curve": """jaxnets curve CONFIG --examples N N ... [--seeds N] [--metric NAME] [--directory DIR] [--output FILE.png]
jaxnets curve CONFIG --FIELD VALUE VALUE ... [--examples N]

Trains a configuration with several numbers of training examples, or with several values of a flag, each with --seeds seeds (5)
and the same number of steps, and prints the loss on the examples that a run saw and on held-out ones, with its 95 % interval.
The seed draws the examples. The squared error of the predictions is split into squared bias and variance over the seeds, and
over three sizes or more a law, loss = floor + scale * size ** -exponent, says what more would give.
Results are kept in --directory (curves/CONFIG), with a picture; runs that are there are not run again. --json.

  jaxnets curve digits_softmax --examples 100 300 1000 --seeds 5
  jaxnets curve mnist_mlp --task.model.widths 4 16 64,64 --examples 1000""",
    "ui": """jaxnets ui [DIRECTORY] [--port N] [--no-browser]

Serves a page at 127.0.0.1 that lists the runs below a folder (by default `runs`), plots the curves of chosen runs in one
picture, shows the settings that differ, and is updated while runs train. It loads nothing from other hosts.""",
    "clean": """jaxnets clean RUN_OR_DIRECTORY [--keep N] [--yes]

Lists what runs do not need: all checkpoints but the newest N and the best, damaged ones, unfinished files. With
--yes they are removed. Runs that are being trained are left alone.""",
    "copy": """jaxnets copy RUN DIRECTORY

Copies a run. The configuration, which makes a directory a run, is written last: a copy that was cut is no run.""",
    "completion": """jaxnets completion bash|zsh|fish

Prints a script for the shell. For bash:  eval "$(jaxnets completion bash)"  in ~/.bashrc; zsh the same in ~/.zshrc; for fish:
jaxnets completion fish > ~/.config/fish/completions/jaxnets.fish""",
    "generate": """jaxnets generate RUN_DIRECTORY [FLAGS]

What a run makes. `jaxnets generate RUN_DIRECTORY --help` shows the flags of that run, which are
  text          --prompt --tokens --samples --temperature --top-k --top-p --seed
  translations  --prompt --beam
  images        --samples --seed --label --guidance --output
  films         --samples --frames --output""",
    "export": """jaxnets export RUN_DIRECTORY FOLDER [--format huggingface|stablehlo|onnx|safetensors]

huggingface (the default) leaves a trained language model as the Hugging Face library reads it: config.json, safetensors, its
tokenizer. The model must be one that the library has: GPT-2, Llama, Qwen2 or Qwen3 in its choices; what is not so is named.
stablehlo writes the predictor and the training step as programs for JAX alone (--platforms cpu cuda tpu; --no-train-step).
onnx writes the predictor as predict.onnx, for ONNX Runtime, and compares it with the run first.
safetensors writes the weights of any model, by name.

  jaxnets export runs/digits_cnn served --format stablehlo
  python served/example.py""",
}
VERBS = (
    *(
        "train",
        "check",
        "finetune",
        "evaluate",
        "diagnose",
        "summary",
        "list",
        "predict",
        "generate",
        "export",
        "shard",
        "estimate",
        "plan",
    ),
    *("find-lr", "find-batch"),
    *("runs", "compare", "sweep", "curve", "ui", "clean", "copy", "ckpt", "doctor", "completion"),
)
