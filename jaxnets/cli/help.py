"""Help texts: the list of commands, and each in detail."""

HELP = """jaxnets: train neural networks in JAX

  jaxnets train CONFIG [--FIELD VALUE ...]   train a configuration, or continue it where it stopped
  jaxnets evaluate RUN_DIRECTORY             measure a trained run on its test split
  jaxnets predict RUN_DIRECTORY FILE         predictions of a trained run for new examples (.npz, .npy, .csv, .txt)
  jaxnets generate RUN_DIRECTORY             text, images or frames, by a run that makes them (`... generate RUN --help`)
  jaxnets export RUN_DIRECTORY FOLDER        a trained language model for the Hugging Face library: config, safetensors
  jaxnets ckpt ls|verify|digest|diff|export  look at checkpoints, without the model's code (`jaxnets ckpt --help`)
  jaxnets doctor                             platform, devices, memory, versions; what is wrong and what to do
  jaxnets summary CONFIG [--FIELD VALUE ...] layers, shapes, parameters and FLOPs of a configuration's model
  jaxnets list                               the configurations by name
  jaxnets --version

CONFIG is the name of a shipped configuration (see `jaxnets list`) or a path to a Python file that defines
`def config() -> Experiment`. `jaxnets train CONFIG --help` shows every field with its type and value.

  jaxnets train digits_cnn
  jaxnets train mnist_mlp --optimizer.learning-rate 3e-3 --task.model.widths 256 256
  jaxnets train tabular --data.path my.csv --data.target price
"""
DETAILS = {
    "evaluate": """jaxnets evaluate RUN_DIRECTORY

Measures the newest checkpoint that verifies on the run's test split: a line for each metric. It has no flags.""",
    "predict": """jaxnets predict RUN_DIRECTORY FILE [--output FILE.npz] [--raw]

Predictions of a trained run for new examples, one a line. FILE is one of
  .npz   arrays by the names they had in training: inputs, and for graphs edges, node_mask, edge_mask
  .npy   the inputs
  .csv   rows of a table, under the header of the one it was trained on
  .txt   a text to a line, for a run on sentences or pairs of sequences
--output writes the predictions as an array instead; --raw gives the model's own outputs (logits, say).""",
    "generate": """jaxnets generate RUN_DIRECTORY [FLAGS]

What a run makes. `jaxnets generate RUN_DIRECTORY --help` shows the flags of that run, which are
  text          --prompt --tokens --samples --temperature --top-k --top-p --seed
  translations  --prompt --beam
  images        --samples --seed --label --guidance --output
  films         --samples --frames --output""",
    "export": """jaxnets export RUN_DIRECTORY FOLDER

Leaves a trained language model as the Hugging Face library reads it: config.json, safetensors, its tokenizer. The model must
be one that the library has: GPT-2, Llama, Qwen2 or Qwen3 in its choices; what is not so is named. It has no flags.""",
}
VERBS = ("train", "evaluate", "summary", "list", "predict", "generate", "export", "ckpt", "doctor")
