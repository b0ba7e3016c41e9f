"""Theory that runs: each theorem is a small constructor that returns ordinary variables of an ordinary model."""

from typing import TYPE_CHECKING

from jaxnets.core.lazy import lazy

if TYPE_CHECKING:
    from jaxnets.theory.associative import binary_energy as binary_energy
    from jaxnets.theory.associative import recalled_fraction as recalled_fraction
    from jaxnets.theory.automata import PARITY as PARITY
    from jaxnets.theory.automata import Automaton as Automaton
    from jaxnets.theory.automata import AutomatonNet as AutomatonNet
    from jaxnets.theory.automata import automaton_net as automaton_net
    from jaxnets.theory.backprop import Node as Node
    from jaxnets.theory.backprop import node as node
    from jaxnets.theory.boolean import bits as bits
    from jaxnets.theory.boolean import boolean_function as boolean_function
    from jaxnets.theory.boolean import lookup as lookup
    from jaxnets.theory.boolean import parity as parity
    from jaxnets.theory.boolean import xor as xor
    from jaxnets.theory.construction import Construction as Construction
    from jaxnets.theory.construction import layers_of as layers_of
    from jaxnets.theory.construction import of_layers as of_layers
    from jaxnets.theory.curse import cells_needed as cells_needed
    from jaxnets.theory.curse import nearest_distance as nearest_distance
    from jaxnets.theory.curves import approximation_error as approximation_error
    from jaxnets.theory.curves import cover_curve as cover_curve
    from jaxnets.theory.curves import double_descent_curve as double_descent_curve
    from jaxnets.theory.curves import largest_error as largest_error
    from jaxnets.theory.curves import tape as tape
    from jaxnets.theory.depth import least_error as least_error
    from jaxnets.theory.depth import shallow_fit as shallow_fit
    from jaxnets.theory.depth import tent as tent
    from jaxnets.theory.depth import tent_values as tent_values
    from jaxnets.theory.descent import descend as descend
    from jaxnets.theory.descent import gradient_variance as gradient_variance
    from jaxnets.theory.descent import largest_rate as largest_rate
    from jaxnets.theory.digraph import Digraph as Digraph
    from jaxnets.theory.digraph import Ended as Ended
    from jaxnets.theory.digraph import from_mlp as from_mlp
    from jaxnets.theory.digraph import run as run
    from jaxnets.theory.digraph import run_exactly as run_exactly
    from jaxnets.theory.double_descent import double_descent_errors as double_descent_errors
    from jaxnets.theory.interpolation import interpolation_bound as interpolation_bound
    from jaxnets.theory.interpolation import open_set as open_set
    from jaxnets.theory.interpolation import relu_interpolation as relu_interpolation
    from jaxnets.theory.interpolation import ridge as ridge
    from jaxnets.theory.landscape import CriticalPoint as CriticalPoint
    from jaxnets.theory.landscape import above_chord as above_chord
    from jaxnets.theory.landscape import critical_point as critical_point
    from jaxnets.theory.landscape import kind_of as kind_of
    from jaxnets.theory.landscape import least_curvature as least_curvature
    from jaxnets.theory.landscape import midpoint as midpoint
    from jaxnets.theory.landscape import permuted as permuted
    from jaxnets.theory.learnability import Trained as Trained
    from jaxnets.theory.learnability import scaled_training as scaled_training
    from jaxnets.theory.learnability import xor_learned as xor_learned
    from jaxnets.theory.neurons import at_least as at_least
    from jaxnets.theory.neurons import fold_bias as fold_bias
    from jaxnets.theory.neurons import gate as gate
    from jaxnets.theory.neurons import neuron as neuron
    from jaxnets.theory.neurons import recoded as recoded
    from jaxnets.theory.neurons import tanh_half as tanh_half
    from jaxnets.theory.picture_style import Panels as Panels
    from jaxnets.theory.picture_style import save as save
    from jaxnets.theory.pictures import bent_space as bent_space
    from jaxnets.theory.pictures import decision_boundary as decision_boundary
    from jaxnets.theory.pictures import folding as folding
    from jaxnets.theory.pictures import polygon as polygon
    from jaxnets.theory.pictures import regions_in_the_plane as regions_in_the_plane
    from jaxnets.theory.region_counts import arrangement_regions as arrangement_regions
    from jaxnets.theory.region_counts import initialised as initialised
    from jaxnets.theory.region_counts import most_regions as most_regions
    from jaxnets.theory.region_counts import reached_regions as reached_regions
    from jaxnets.theory.regions import Region as Region
    from jaxnets.theory.regions import largest_ball as largest_ball
    from jaxnets.theory.regions import linear_regions as linear_regions
    from jaxnets.theory.regions import pieces_1d as pieces_1d
    from jaxnets.theory.separability import perceptron as perceptron
    from jaxnets.theory.separability import perceptron_bound as perceptron_bound
    from jaxnets.theory.separability import separable_fraction as separable_fraction
    from jaxnets.theory.separability import separable_labellings as separable_labellings
    from jaxnets.theory.separability import separating_plane as separating_plane
    from jaxnets.theory.sets import ball as ball
    from jaxnets.theory.sets import cells as cells
    from jaxnets.theory.sets import cube_cover as cube_cover
    from jaxnets.theory.sets import half_space as half_space
    from jaxnets.theory.sets import polytope as polytope
    from jaxnets.theory.sets import union as union
    from jaxnets.theory.sigmoids import random_features as random_features
    from jaxnets.theory.sigmoids import sigmoid_staircase as sigmoid_staircase
    from jaxnets.theory.sigmoids import staircase_bound as staircase_bound
    from jaxnets.theory.turing import BUSY_BEAVERS as BUSY_BEAVERS
    from jaxnets.theory.turing import TuringMachine as TuringMachine
    from jaxnets.theory.turing import TuringNet as TuringNet
    from jaxnets.theory.turing import ones as ones
    from jaxnets.theory.turing import turing_net as turing_net
    from jaxnets.theory.words import binary_code as binary_code
    from jaxnets.theory.words import cantor_code as cantor_code
    from jaxnets.theory.words import from_binary_code as from_binary_code
    from jaxnets.theory.words import from_cantor_code as from_cantor_code

# Public name to file; see `jaxnets.core.lazy`.
FILES = {
    "Construction": "construction",
    "layers_of": "construction",
    "of_layers": "construction",
    "at_least": "neurons",
    "fold_bias": "neurons",
    "gate": "neurons",
    "neuron": "neurons",
    "recoded": "neurons",
    "tanh_half": "neurons",
    "bits": "boolean",
    "boolean_function": "boolean",
    "lookup": "boolean",
    "parity": "boolean",
    "xor": "boolean",
    "ball": "sets",
    "cells": "sets",
    "cube_cover": "sets",
    "half_space": "sets",
    "polytope": "sets",
    "union": "sets",
    "interpolation_bound": "interpolation",
    "open_set": "interpolation",
    "relu_interpolation": "interpolation",
    "ridge": "interpolation",
    "random_features": "sigmoids",
    "sigmoid_staircase": "sigmoids",
    "staircase_bound": "sigmoids",
    "least_error": "depth",
    "shallow_fit": "depth",
    "tent": "depth",
    "tent_values": "depth",
    "Region": "regions",
    "largest_ball": "regions",
    "linear_regions": "regions",
    "pieces_1d": "regions",
    "arrangement_regions": "region_counts",
    "initialised": "region_counts",
    "most_regions": "region_counts",
    "reached_regions": "region_counts",
    "perceptron": "separability",
    "perceptron_bound": "separability",
    "separable_fraction": "separability",
    "separable_labellings": "separability",
    "separating_plane": "separability",
    "cells_needed": "curse",
    "nearest_distance": "curse",
    "Digraph": "digraph",
    "Ended": "digraph",
    "from_mlp": "digraph",
    "run": "digraph",
    "run_exactly": "digraph",
    "binary_code": "words",
    "cantor_code": "words",
    "from_binary_code": "words",
    "from_cantor_code": "words",
    "PARITY": "automata",
    "Automaton": "automata",
    "AutomatonNet": "automata",
    "automaton_net": "automata",
    "BUSY_BEAVERS": "turing",
    "TuringMachine": "turing",
    "TuringNet": "turing",
    "ones": "turing",
    "turing_net": "turing",
    "binary_energy": "associative",
    "recalled_fraction": "associative",
    "CriticalPoint": "landscape",
    "above_chord": "landscape",
    "critical_point": "landscape",
    "kind_of": "landscape",
    "least_curvature": "landscape",
    "midpoint": "landscape",
    "permuted": "landscape",
    "descend": "descent",
    "gradient_variance": "descent",
    "largest_rate": "descent",
    "Trained": "learnability",
    "scaled_training": "learnability",
    "xor_learned": "learnability",
    "double_descent_errors": "double_descent",
    "Node": "backprop",
    "node": "backprop",
    "bent_space": "pictures",
    "decision_boundary": "pictures",
    "folding": "pictures",
    "polygon": "pictures",
    "regions_in_the_plane": "pictures",
    "approximation_error": "curves",
    "cover_curve": "curves",
    "double_descent_curve": "curves",
    "largest_error": "curves",
    "tape": "curves",
    "Panels": "picture_style",
    "save": "picture_style",
}


__getattr__, __dir__ = lazy(__name__, FILES)

__all__ = [
    "BUSY_BEAVERS",
    "PARITY",
    "Automaton",
    "AutomatonNet",
    "Construction",
    "CriticalPoint",
    "Digraph",
    "Ended",
    "Node",
    "Panels",
    "Region",
    "Trained",
    "TuringMachine",
    "TuringNet",
    "above_chord",
    "approximation_error",
    "arrangement_regions",
    "at_least",
    "automaton_net",
    "ball",
    "bent_space",
    "binary_code",
    "binary_energy",
    "bits",
    "boolean_function",
    "cantor_code",
    "cells",
    "cells_needed",
    "cover_curve",
    "critical_point",
    "cube_cover",
    "decision_boundary",
    "descend",
    "double_descent_curve",
    "double_descent_errors",
    "fold_bias",
    "folding",
    "from_binary_code",
    "from_cantor_code",
    "from_mlp",
    "gate",
    "gradient_variance",
    "half_space",
    "initialised",
    "interpolation_bound",
    "kind_of",
    "largest_ball",
    "largest_error",
    "largest_rate",
    "layers_of",
    "least_curvature",
    "least_error",
    "linear_regions",
    "lookup",
    "midpoint",
    "most_regions",
    "nearest_distance",
    "neuron",
    "node",
    "of_layers",
    "ones",
    "open_set",
    "parity",
    "perceptron",
    "perceptron_bound",
    "permuted",
    "pieces_1d",
    "polygon",
    "polytope",
    "random_features",
    "reached_regions",
    "recalled_fraction",
    "recoded",
    "regions_in_the_plane",
    "relu_interpolation",
    "ridge",
    "run",
    "run_exactly",
    "save",
    "scaled_training",
    "separable_fraction",
    "separable_labellings",
    "separating_plane",
    "shallow_fit",
    "sigmoid_staircase",
    "staircase_bound",
    "tanh_half",
    "tape",
    "tent",
    "tent_values",
    "turing_net",
    "union",
    "xor",
    "xor_learned",
]
