"""Eight CPU devices for every test, ranks never promoted by accident, nothing read from the network."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_NUM_CPU_DEVICES"] = "8"

import atexit
import contextlib
import dataclasses
import functools
import gc
import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# One compilation cache for the whole session, subprocesses included: most of the suite's time is compiling, and many
# tests compile the same program.
# The workers of a parallel run share the cache of the process that started them.
CACHE = os.environ.get("JAXNETS_TEST_CACHE", "")
if not CACHE:
    CACHE = os.environ["JAXNETS_TEST_CACHE"] = tempfile.mkdtemp(prefix="jaxnets-tests-")
    atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets.cli import main as cli
from jaxnets.config.experiment import Experiment
from jaxnets.data import InMemory, from_arrays
from jaxnets.models import MLP
from jaxnets.optim import AdamW
from jaxnets.parallel import MeshShape, make_mesh
from jaxnets.report import plots
from jaxnets.tasks import Classification

jax.config.update("jax_numpy_rank_promotion", "raise")

# A process that runs thousands of tests holds millions of objects, compiled programs among them. By default the collector
# looks through them so often that it takes a tenth of the time, and more towards the end.
gc.set_threshold(20_000, 20, 50)

ROOT = Path(__file__).resolve().parents[1]


# Tests whose cases are many and alike: those named run by default, the others among the sweeps (`-m slow`).
KEPT = {
    "test_curvature.test_the_trace_is_within_its_error": (),
    "test_find_rate.test_the_pick_trains_and_what_is_given_stays_as_it_is": (),
    "test_other_libraries_data.test_files_of_h5py_and_zarr": ("small",),
    "test_byol.test_the_target_is_the_average_in_closed_form": (),
    "test_eight_bit.test_second_moments_follow_gradients_that_grow_and_shrink": (),
    "test_chat.test_ids_and_mask_are_those_of_transformers": (),
    "test_hybrid.test_generation_is_what_the_whole_model_says_step_by_step": (),
    "test_hybrid.test_bfloat16_and_shapes": (),
    "test_beyond_promise.test_without_primitives_products_are_plain": (),
    "test_semi_supervised.test_the_loss_is_that_of_the_paper": (),
    "test_explain.test_influence_over_the_checkpoints_of_a_run_is_the_product_by_hand": (),
    "test_summary.test_summary_compiles_where_it_is_asked_to": (),
    "test_padded_batches.test_batch_statistics_and_players_need_whole_batches": (),
    "test_shard.test_on_this_machine_it_takes_the_devices_there_are": (),
    "test_labels_and_series.test_a_series_is_foretold_better_than_by_repeating_it": (),
    "test_indexed.test_of_many_rows_a_sample_is_read_and_a_class_outside_it_is_an_error": (),
    "test_functions.test_a_pair_of_functions_is_a_model": (),
    "test_field_weights.test_keys_that_nobody_knows_are_noted_and_harmless_ones_are_not": (),
    "test_three_splits.test_a_run_that_began_without_validation_goes_on_without": (),
    "test_in_the_hand.test_labels_have_names_too_and_numbers_have_none": (),
    "test_loop.test_streamed_batches_give_the_same_bits_as_resident_ones": (),
    "test_callbacks.test_a_time_limit_counts_all_stretches": (),
    "test_loggers.test_a_logger_that_fails_is_left_out_with_a_note": (),
    "test_layered.test_drop_connect_is_the_model_with_a_part_of_its_weights_and_off_in_evaluation": (),
    "test_mup.test_models_that_differ_in_more_than_widths_and_unknown_parameters_are_refused": (),
    "test_initialisers.test_a_run_begins_as_it_says_on_one_device_and_on_eight": (),
    "test_masked.test_what_jepa_predicts_are_normalised_features": (),
    "test_mixing.test_mixup_and_cutmix_together_take_one_of_them": (),
    "test_mixing.test_values_of_a_table_are_dropped_and_swapped_within_their_column": (),
    "test_curvature.test_the_range_is_that_of_the_dense_hessian": (),
    "test_onnx.test_an_operation_that_has_no_form_is_named": (),
    "test_selective.test_eight_devices_choose_as_one": (),
    "test_find_rate.test_a_transformation_gets_a_multiple_of_its_own_rate": (),
    "test_averaging.test_the_averaged_model_measures_its_own_batch_statistics": (),
    "test_curvature.test_products_are_those_of_the_dense_hessian": (),
    "test_signals.test_two_runs_never_share_a_directory": (),
    "test_checkpoints.test_damage_is_found_on_resuming_and_the_result_is_that_of_the_unharmed_run": (),
    "test_run.test_a_directory_with_another_run_or_other_files_is_refused": (),
    "test_field_training_draws.test_every_batch_says_which_rows_it_holds_and_augments_by_them": (),
    "test_report_page.test_the_page_has_a_picture_for_each_curve_and_its_numbers_as_csv": (),
    "test_three_splits.test_keep_best_without_early_stopping_trains_to_the_end": (),
    "test_mixing.test_cutmix_counts_the_pixels_that_are_kept": (),
    "test_data.test_augmentation_depends_on_key_and_position_only": (),
    "test_gradients.test_gradients_vanish_through_twenty_layers_of_sigmoids": (),
    "test_interop.test_a_trained_llama_gives_its_reference_logits_and_text": (),
    "test_estimate.test_the_command_says_what_is_exchanged_and_what_fits": (),
    "test_by_depth.test_it_equals_a_hand_written_loop_and_opens_again": (),
    "test_field_roads.test_the_rows_of_a_table_by_file_frame_and_array": (),
    "test_mup.test_the_coordinate_check_steps_are_as_large_in_a_wide_model_as_in_its_base": (),
    "test_augment_images.test_a_resized_crop_equals_pils_and_its_box_is_in_the_image": (),
    "test_eight_bit.test_codes_are_right_on_average": (),
    "test_graphs.test_only_counted_nodes_have_a_loss_and_the_penalty_is_of_all_matrices": (),
    "test_group_policy.test_the_divergence_is_0_at_the_reference_and_its_estimate_elsewhere": (),
    "test_local_sgd.test_a_lost_replica_has_no_part_and_goes_on_with_the_others": (),
    "test_local_sgd.test_int8_is_near_float32": (),
    "test_ramp.test_a_run_says_its_stages_and_logs_their_speed": (),
    "test_ramp.test_a_ramp_until_the_end_trains_no_step_at_the_full_size_and_evaluation_has_it": (),
    "test_onnx.test_the_command_and_its_mistakes": (),
    "test_eight_bit.test_what_a_code_loses": (),
    "test_eight_bit.test_eight_devices_store_what_one_stores": (),
    "test_masked.test_every_patch_comes_back_to_its_place": (),
    "test_selective.test_a_masked_row_is_never_chosen_before_a_real_one": (),
    "test_mixing.test_batches_are_the_same_on_one_and_on_eight_devices": (),
    "test_mixing.test_the_cross_entropy_of_distributions": (),
    "test_mixing.test_data_may_have_soft_targets": (),
    "test_techniques_benchmark.test_runs_are_measured_once_and_again_after_a_change": (),
    "test_airbench.test_outputs_and_gradients_equal_those_of_a_plain_implementation": (),
    "test_airbench.test_the_first_training_batch_measures_the_whitening_and_it_stays": (),
    "test_older_runs.test_a_hook_that_an_older_run_left_for_later_is_still_run": (),
    "test_imbalanced.test_the_loss_goes_with_any_classifier_by_name_of_its_class": (),
    "test_find_rate.test_the_command_prints_a_rate_as_data_and_as_a_picture": (),
    "test_workers.test_rows_are_read_in_other_processes_in_order": (),
    "test_field_numbers.test_attention_in_float16_is_that_in_float32_rounded": (),
    "test_contrastive.test_views_are_pure_keep_the_shape_and_do_what_they_say": (),
    "test_indexed.test_a_report_of_a_run_on_rows": (),
    "test_small_models.test_a_neural_ode_equals_a_numpy_reference_forward_and_gradient": (),
    "test_augment_others.test_changes_of_series_are_those_that_they_say": (),
    "test_run.test_cutting_changes_nothing_with_everything_on": (),
    "test_padded_batches.test_eight_devices_give_the_result_of_one": (),
    "test_masked.test_the_follower_moves_by_its_momentum_and_gets_no_gradient": (),
    "test_masked.test_the_loss_is_of_hidden_patches_alone_and_the_encoder_sees_the_others_alone": (),
    "test_group_policy.test_the_first_update_is_that_of_the_policy_gradient": (),
    "test_group_policy.test_a_reward_of_ones_own_is_asked": (),
    "test_group_policy.test_mistakes_are_named": (),
    "test_masked.test_mistakes_are_named": (),
    "test_local_sgd.test_the_outer_update_is_that_of_the_paper": (),
    "test_health.test_norms_are_those_of_the_states_and_of_the_gradient": (),
    "test_gradient_changes.test_clipping_and_noise_are_the_same_on_one_device_on_eight_and_after_a_cut": (),
    "test_ramp.test_sequences_are_cut": (),
    "test_ramp.test_the_batches_of_a_stage_have_its_sizes": (),
    "test_ramp.test_eight_devices_equal_one": (),
    "test_plan.test_where_nothing_fits_the_smallest_way_is_named": (),
    "test_plan.test_what_is_split_takes_less_and_what_is_computed_again_takes_longer": (),
    "test_in_the_hand.test_a_run_that_goes_on_without_its_callbacks_says_so": (),
    "test_preference.test_the_loss_is_its_formula_and_log_2_where_policy_and_reference_are_equal": (),
    "test_curvature.test_products_through_our_own_gradients_are_those_of_finite_differences": (),
    "test_curriculum.test_a_step_is_that_of_the_easy_examples_alone": (),
    "test_gradient_changes.test_a_users_own_optimizer_gets_the_changed_gradient": (),
    "test_averaging.test_training_does_not_notice_and_micro_batches_are_taken": (),
    "test_pipeline.test_each_stage_holds_its_layers_and_only_activations_travel": (),
    "test_explain.test_embeddings_neighbours_and_inputs_of_units": (),
    "test_onnx.test_onnx_runtime_gives_the_outputs_of_the_run": (),
    "test_tensor.test_layers_split_over_devices_train_as_on_one": ("[mlp]",),
    "test_ramp.test_each_stage_compiles_once_and_a_cut_changes_no_bit": ("device",),
    "test_pipeline.test_forward_and_gradient_are_those_of_one_device": ("mesh0",),
    "test_planted_bugs.test_a_look_ahead_is_found": (),
    "test_older_runs.test_an_older_run_opens_and_scores_what_it_scored": (),
    "test_plan.test_the_best_way_fits_and_no_other_that_fits_is_faster": (),
    "test_offload.test_the_state_waits_on_the_host_and_the_result_is_the_same": (),
    "test_eight_bit.test_no_step_explodes": (),
    "test_damage.test_a_network_degrades_gracefully_and_learns_again_with_what_is_left": (),
    "test_own_optimizers.test_any_optax_transformation_equals_a_hand_written_loop": ("MultiSteps",),
    "test_public_examples.test_a_public_example_equals_its_hand_written_loop": (),
    "test_config.test_a_shipped_configuration_assembles_for_data_of_its_shape": (
        "digits_cnn",
        "shakespeare_char",
        "cora_gcn",
        "ring_gan",
    ),
    "test_summary.test_the_size_a_configuration_states_is_its_own": (
        "digits_cnn",
        "shakespeare_char",
        "cora_gcn",
        "gpt2_124m",
    ),
    "test_torch.test_outputs_and_gradients_equal_those_of_torch": ("lstm", "gru", "experts"),
    "test_huggingface.test_out_and_in_again_gives_the_same_logits": ("gpt2", "qwen3"),
    "test_huggingface.test_their_loader_reads_ours_and_gives_the_same_logits": ("llama",),
    "test_huggingface.test_theirs_is_read_and_gives_the_same_logits": ("gpt2",),
    "test_field_weights.test_a_head_beside_a_tied_embedding_is_what_transformers_takes_it_for": ("other-llama",),
    "test_seeded_digests.test_a_seeded_run_gives_the_recorded_weights": ("digits_cnn",),
    "test_language.test_the_cache_gives_the_logits_of_the_whole_text": ("gpt2", "scanned"),
    "test_hybrid.test_the_cache_gives_the_logits_of_the_whole_text_and_does_not_grow": (),
    "test_mixture.test_in_a_model_with_cache_scan_remat_and_bfloat16": (),
    "test_language.test_logits_and_gradients_equal_those_of_a_plain_implementation": ("llama",),
    "test_graphs.test_equals_a_dense_matrix_reference_forward_and_gradient": ("[gcn]", "[gin]"),
    "test_graphs.test_shapes_dtypes_and_a_gradient_for_every_parameter": ("[gcn]",),
    "test_graphs.test_renumbering_the_nodes_renumbers_the_outputs_and_padding_changes_nothing": ("[gcn]", "[sage]"),
    "test_recurrent.test_padding_changes_nothing": ("lstm",),
    "test_recurrent.test_shapes_dtypes_and_precision": ("[lstm]", "[both_ways]"),
    "test_recurrent.test_a_gradient_reaches_every_parameter": ("[lstm]",),
    "test_recurrent.test_cells_equal_a_numpy_reference_forward_and_gradient": (
        "gru-projected inside",
        "lstm-projected before",
    ),
    "test_convolutional.test_outputs_and_gradients_equal_those_of_a_plain_implementation": ("lenet",),
    "test_transformer.test_padding_changes_nothing": ("pre",),
    "test_transformer.test_the_cache_gives_the_logits_of_the_whole_target": ("rotary",),
    "test_ops.test_max_pool_equals_its_reference": ("shape0",),
    "test_callbacks.test_what_a_callback_raises_names_it_and_the_state_is_saved_first": ("stepped", "started"),
    "test_own.test_a_module_as_its_author_wrote_it_trains_and_draws_in_training_alone": (
        "[Field]",
        "[Boxed]",
    ),
    "test_guards.test_a_spike_goes_back_and_ends_as_if_the_batch_had_never_been": ("[6-0]",),
    "test_guards.test_a_spike_before_a_nan_is_what_is_blamed_however_the_steps_come": ("[16]",),
    "test_mixture.test_all_roads_give_the_same_where_nothing_is_dropped": ("[1-1-5]",),
    "test_mixture.test_gradients_equal_finite_differences_and_reach_router_and_chosen_experts": ("[gshard]",),
    "test_mixture.test_values_and_what_is_told_equal_a_loop_over_tokens": ("[gshard]",),
    "test_lora.test_it_starts_as_the_model_and_ends_as_the_merged_one": (
        "[our dense]",
        "[a dense layer itself]",
    ),
    "test_loop.test_steps_per_call_gives_the_same_bits": ("[accumulated]",),
    "test_signals.test_a_signal_in_an_evaluation_leaves_it_pending_and_it_is_run": ("[at the end]",),
    "test_any_module.test_sown_losses_are_added_to_the_loss_and_logged": ("[{'micro_batches': 2}]",),
    "test_field_reports.test_nodes_without_edges_have_finite_outputs": ("[GraphSAGE]",),
    "test_vision.test_outputs_and_gradients_equal_those_of_a_plain_implementation": ("[vit]",),
    "test_field_text_training.test_models_without_a_table_of_positions_go_on_past_the_window": (
        "[alibi-unrolled]",
        "[sinusoidal-scanned]",
    ),
    "test_split_attention.test_outputs_and_gradients_equal_those_of_one_device": ("37-ring-2-causal",),
    "test_remat.test_outputs_gradients_and_parameters_are_those_without": (),
    "test_eight_bit.test_a_run_that_was_cut_ends_with_the_same_bits": (),
    "test_eight_bit.test_a_run_on_eight_devices_is_that_of_one": (),
    "test_estimate.test_flops_are_those_of_all_devices_and_count_what_is_computed_again": (),
    "test_strangers_folder.test_a_run_does_not_write_through_links_in_its_directory": (
        "[checkpoints]",
        "[plots/curves.png]",
    ),
    "test_interop.test_out_and_in_again_is_the_same_through_a_file": (
        "[qwen2]",
        "[qwen3]",
    ),
    "test_diffusion.test_sampling_with_the_best_model_gives_the_data_back": ("[40-0.0]",),
    "test_autoencoder.test_shapes_dtypes_counts_and_precision": (
        "[vae]",
        "[vqvae]",
    ),
}


# Sweeps of 20 to 140 seconds that a shorter test stands for in `.ci/run`; they run before a release (`-m nightly`).
NIGHTLY = (
    "test_docs.test_the_blocks_of_your_own_run",
    "test_documents.test_by_the_command[packed",
    "test_documents.test_packed_documents_are_computed_as_each_alone[rotary-scanned",
    "test_documents.test_a_text_goes_on_as_if_the_document_were_alone",
    "test_sweep.test_runs_on_several_devices_are_those_on_one",
    "test_field_machines.test_a_run_is_the_same_under_any_condition[without assertions",
    "test_checkpoints.test_warm_start_takes_what_fits_and_only_what_is_allowed_to_differ",
    "test_huggingface.test_their_loader_reads_ours_and_gives_the_same_logits[gpt2",
    "test_local_sgd.test_a_run_is_cut_and_goes_on_with_other_devices",
    "test_local_sgd.test_the_result_does_not_depend_on_the_mesh[float32",
    "test_loop.test_the_loss_in_bfloat16_follows_that_in_float32[language",
    "test_axes.test_the_result_is_that_of_one_device[zero 2",
    "test_axes.test_the_result_is_that_of_one_device[sequence, heads",
    "test_field_text_training.test_the_command_line_goes_past_the_window_and_says_it",
    "test_curvature_products.test_products_through_attention_on_eight_devices_are_those_of_one",
    "test_plateau.test_a_run_follows_its_evaluations_and_a_cut_changes_no_bit",
    "test_curves.test_runs_alone_are_those_in_one_program",
    "test_remat.test_less_is_stored_and_more_is_computed[ResNet",
    "test_in_the_hand.test_what_changes_in_the_schedule_is_said",
    "test_own.test_a_run_directory_takes_modules_with_dtypes_and_functions_in_their_fields",
    "test_axes.test_the_result_is_that_of_one_device[sequence, ring",
    "test_report_page.test_the_page_has_a_picture_for_each_curve_and_its_numbers_as_csv",
    "test_three_splits.test_keep_best_without_early_stopping_trains_to_the_end",
    "test_eight_bit.test_codes_are_right_on_average",
    "test_by_depth.test_it_equals_a_hand_written_loop_and_opens_again",
    "test_health.test_norms_are_those_of_the_states_and_of_the_gradient",
    "test_documents.test_packed_documents_are_computed_as_each_alone[alibi",
    "test_pictures.test_what_cannot_be_drawn_is_said_before_anything_is_written",
    "test_padded_batches.test_a_language_model_too_and_fsdp",
    "test_health.test_a_run_that_was_cut_has_the_records_of_one_that_was_not",
    "test_eight_bit.test_a_language_model_on_eight_devices_is_that_of_one",
    "test_eight_bit.test_what_a_code_loses",
    "test_eight_bit.test_eight_devices_store_what_one_stores",
    "test_onnx.test_a_family_that_cannot_be_converted_is_refused",
    "test_onnx.test_the_command_and_its_mistakes",
    "test_sweep.test_images_that_are_changed_at_random_are_those_of_the_run_alone",
    "test_signals.test_a_signal_while_saving_waits_for_the_save",
    "test_field_machines.test_a_full_and_a_read_only_disk_are_named_and_the_same_command_goes_on_later",
    "test_preference.test_the_reference_is_the_policy_that_the_run_began_with",
    "test_pipeline.test_a_run_is_that_of_one_device[with fsdp and tensor",
    "test_config.test_a_shipped_configuration_assembles_for_data_of_its_shape[vit_l16",
    "test_documents.test_a_run_takes_the_separator_from_the_data_and_keeps_it",
    "test_mixture.test_micro_batches_give_the_gradient_of_the_whole_batch",
    "test_plan.test_what_is_split_takes_less_and_what_is_computed_again_takes_longer",
    "test_plan.test_where_nothing_fits_the_smallest_way_is_named",
    "test_profile.test_by_the_command",
    "test_profile.test_a_run_that_stops_between_ends_its_trace",
    "test_parallel.test_eight_devices_equal_one[mlp",
    "test_callbacks.test_through_a_kill_each_step_is_seen_once_on_one_and_eight_devices",
    "test_theory_docs.test_every_block_of_the_page_prints_what_is_under_it",
    "test_tokenizers.test_a_run_with_a_tokenizer_file_writes_text_and_notices_when_the_file_changes",
    "test_group_policy.test_the_divergence_is_0_at_the_reference_and_its_estimate_elsewhere",
    "test_group_policy.test_a_reward_of_ones_own_is_asked",
    "test_group_policy.test_mistakes_are_named",
    "test_masked.test_every_patch_comes_back_to_its_place",
    "test_masked.test_mistakes_are_named",
    "test_airbench.test_outputs_and_gradients_equal_those_of_a_plain_implementation[mirrored",
    "test_techniques_benchmark.test_runs_are_measured_once_and_again_after_a_change",
    "test_older_runs.test_a_hook_that_an_older_run_left_for_later_is_still_run",
    "test_axes.test_the_result_is_that_of_one_device[zero 3",
    "test_docs.test_the_blocks_of_the_techniques_run",
    "test_masked.test_the_loss_on_held_out_digits_falls_and_the_run_opens_again",
    "test_contrastive.test_embeddings_learn_the_classes_without_labels_and_the_run_opens_again",
    "test_group_policy.test_rewards_rise_and_the_run_opens_again",
    "test_mup.test_the_best_learning_rate_of_a_narrow_model_is_right_for_a_wide_one",
    "test_find_batch.",
    "test_loss_surface.test_matching_and_a_curve_lower_the_barrier_between_two_trained_networks",
    "test_loss_surface.test_training_on_the_whole_batch_comes_to_the_edge_of_stability",
    "test_health.test_measuring_leaves_the_bits_of_the_training_alone",
    "test_choice_by_name.test_two_players_have_all_of_it",
    "test_stochastic_rounding.test_a_run_with_weights_in_bfloat16_gets_further_than_with_nearest_rounding",
    "test_diagnosing_docs.test_every_block_of_the_page_prints_what_is_under_it",
    "test_offload.test_the_state_waits_on_the_host_and_the_result_is_the_same",
    "test_plan.test_the_best_way_fits_and_no_other_that_fits_is_faster",
    "test_eight_bit.test_no_step_explodes",
    "test_masked.test_the_follower_moves_by_its_momentum_and_gets_no_gradient",
    "test_planted_bugs.test_a_look_ahead_is_found",
    "test_sweep.test_halving_goes_on_from_where_runs_are",
    "test_sweep.test_the_blocks_of_the_page",
    "test_notebooks.test_a_notebook_runs_to_its_last_assertion[sharding_and_tpu",
    "test_eight_bit.test_digits_end_as_with_float32",
    "test_signals.test_killed_at_random_instants_it_ends_like_the_unharmed_run",
    "test_pictures.test_a_class_can_be_asked_for_and_gone_beyond",
    "test_transformer.test_bleu_is_measured_over_the_whole_split",
    "test_axes.test_the_result_is_that_of_one_device[sequence, scanned",
    "test_axes.test_the_result_is_that_of_one_device[expert, capacity",
    "test_padded_batches.test_a_shipped_configuration_starts_on_eight_devices[shakespeare_char",
    "test_toys.test_a_student_becomes_its_teacher_and_a_network_reads_the_glyphs",
    "test_convolutional.test_outputs_and_gradients_equal_those_of_a_plain_implementation[coatnet",
    "test_pipeline.test_a_run_is_that_of_one_device[documents, rematerialised",
    "test_field_roads.test_texts_by_every_road",
    "test_eight_bit.test_a_run_that_was_cut_ends_with_the_same_bits[8-bit",
    "test_field_roads.test_arrays_of_any_format_by_every_road",
    "test_field_roads.test_arrays_by_the_command_line",
    "test_export.test_a_stranger_predicts_and_trains_with_every_family",
    "test_transformer.test_it_learns_to_reverse_and_says_how",
    "test_transformer.test_logits_and_gradients_equal_those_of_a_plain_implementation[rotary]",
    "test_hybrid.test_it_trains_and_writes_from_the_command_line",
    "test_hybrid.test_logits_and_gradients_equal_those_of_a_plain_implementation[most_biases]",
    "test_hybrid.test_logits_and_gradients_equal_those_of_a_plain_implementation[swiglu]",
    "test_saves_on_several_devices.test_a_run_with_saves_and_evaluations_ends_and_goes_on[batch_statistics]",
    "test_saves_on_several_devices.test_a_run_with_saves_and_evaluations_ends_and_goes_on[average]",
    "test_field_tables_property.test_many_tables",
    "test_parallel.test_eight_devices_equal_one[cnn]",
    "test_lora.test_a_language_model_in_a_task_from_base_to_adapted_run",
    "test_huggingface.test_a_run_leaves_with_its_tokenizer",
    "test_language.test_generate_and_predict_from_a_run_directory",
    "test_large.test_a_sparse_file_of_ten_gigabytes_opens_trains_and_goes_on",
    "test_mixture.test_experts_come_to_be_used_alike",
    "test_interop.test_a_trained_resnet_has_its_published_accuracy_on_the_whole_test_set",
    "test_loop.test_steps_per_call_gives_the_same_bits[resnet]",
    "test_diffusion.test_diffusion_trains_and_the_report_shows_samples",
    "test_graphs.test_chords_are_told_apart",
    "test_documents.test_packed_documents_are_computed_as_each_alone[sinusoidal",
    "test_documents.test_packed_documents_are_computed_as_each_alone[learned-unrolled]",
    "test_tensor.test_layers_split_over_devices_train_as_on_one[hybrid]",
    "test_tensor.test_layers_split_over_devices_train_as_on_one[experts]",
    "test_tensor.test_layers_split_over_devices_train_as_on_one[vision transformer]",
    "test_documents.test_packed_documents_are_computed_as_each_alone[rotary-unrolled]",
    "test_documents.test_the_first_token_of_a_document_does_not_count",
    "test_offload.test_a_run_is_cut_and_goes_on_with_its_state_elsewhere",
    "test_remat.test_outputs_gradients_and_parameters_are_those_without[ConvNeXt",
    "test_eight_bit.test_digits_end_as_with_float32[bfloat16]",
    "test_eight_bit.test_a_language_model_ends_as_with_float32",
    "test_hosts.test_streamed_batches_of_two_processes_are_those_of_data_on_the_devices",
    "test_saves_on_several_devices.test_a_run_with_saves_and_evaluations_ends_and_goes_on[language]",
    "test_tensor.test_a_checkpoint_goes_to_another_mesh_bit_for_bit",
    "test_field_training_rules.test_scanned_and_unrolled_layers_train_alike_with_decay",
    "test_documents.test_packed_documents_are_computed_as_each_alone[learned-scanned]",
    "test_convolutional.test_outputs_and_gradients_equal_those_of_a_plain_implementation[convnext]",
    "test_axes.test_the_result_is_that_of_one_device[sequence, rematerialised]",
    "test_axes.test_what_each_stage_of_zero_splits",
    "test_chat.test_a_folder_is_fine_tuned_by_one_command",
    "test_pipeline.test_a_run_is_that_of_one_device[4 stages]",
    "test_pipeline.test_a_run_is_that_of_one_device[2 rounds]",
    "test_vision.test_outputs_and_gradients_equal_those_of_a_plain_implementation[resnet50]",
    "test_saves_on_several_devices.test_a_run_with_saves_and_evaluations_ends_and_goes_on[gan]",
    "test_axes.test_a_run_is_saved_on_one_mesh_and_goes_on_on_another",
    "test_axes.test_the_result_is_that_of_one_device[expert, dropless]",
    "test_axes.test_the_result_is_that_of_one_device[sequence, documents]",
    "test_remat.test_outputs_gradients_and_parameters_are_those_without[UNet",
    "test_remat.test_outputs_gradients_and_parameters_are_those_without[ResNet",
    "test_remat.test_outputs_gradients_and_parameters_are_those_without[Seq2Seq",
    "test_tensor.test_layers_split_over_devices_train_as_on_one[llama, scanned]",
    "test_small_models.test_a_neural_ode_tells_two_spirals_apart",
    "test_run.test_cutting_changes_nothing_with_everything_on[stops2]",
    "test_axes.test_the_result_is_that_of_one_device[expert, tensor]",
    "test_axes.test_the_result_is_that_of_one_device[zero 1]",
    "test_curvature_products.test_the_other_instruments_on_eight_devices_are_those_of_one",
    "test_curvature_products.test_products_through_a_small_language_model_are_those_of_finite_differences[ours",
)


# Sweeps of which CI runs the cases named here; the others run before a release.
SAMPLED = {
    "test_planted_bugs.test_a_planted_bug_is_found_and_named": ("label", "loss", "softmax", "frozen", "rate", "dead"),
    "test_activation_choices.test_the_choice_reaches_the_units_of_every_model": ("CNN", "ViT", "GCN"),
    "test_find_rate.test_an_update_at_rate_one_times_the_rate_is_the_update_at_that_rate": (
        "SGD",
        "sgd",
        "AdamW",
        "adamw",
    ),
    "test_tensor.test_layers_split_over_devices_train_as_on_one": ("[gpt]",),
    "test_pipeline.test_forward_and_gradient_are_those_of_one_device": ("mesh3",),
    "test_remat.test_outputs_gradients_and_parameters_are_those_without": (
        "LanguageModel, scanned",
        "CifarResNet-blocks",
    ),
    "test_remat.test_less_is_stored_and_more_is_computed": ("[LanguageModel]", "[ResNet]"),
    "test_torch.test_outputs_and_gradients_equal_those_of_torch": ("mlp", "cnn", "cifar resnet", "unet]", "simple"),
    "test_split_attention.test_outputs_and_gradients_equal_those_of_one_device": (
        "37-ring-8",
        "16-heads-8",
        "100-ring-2",
    ),
    "test_public_examples.test_a_public_example_equals_its_hand_written_loop": ("mnist_cnn", "lm1b", "ogbg"),
    "test_own_optimizers.test_any_optax_transformation_equals_a_hand_written_loop": (
        "chain",
        "SAM]",
        "L-BFGS",
        "lookahead",
    ),
    "test_onnx.test_onnx_runtime_gives_the_outputs_of_other_families": ("dense", "attention", "residual"),
    "test_field_machines.test_a_run_is_the_same_under_any_condition": ("locale", "home", "comma", "assertions"),
    "test_language.test_the_cache_gives_the_logits_of_the_whole_text": ("llama", "alibi", "post]"),
    "test_hybrid.test_the_cache_gives_the_logits_of_the_whole_text_and_does_not_grow": ("griffin", "recurrent"),
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark the cases that `KEPT` does not name as slow, those of `NIGHTLY`, and of `SAMPLED` the rest, as nightly."""
    for item in items:
        if f"{item.module.__name__}.{item.name}".startswith(NIGHTLY):
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.nightly)
        name, case = item.originalname, item.name.removeprefix(item.originalname or "")
        kept = KEPT.get(f"{item.module.__name__}.{name}")
        if kept is not None and not any(part in case for part in kept):
            item.add_marker(pytest.mark.slow)
        sampled = SAMPLED.get(f"{item.module.__name__}.{name}")
        if sampled and item.get_closest_marker("slow") and not any(part in case for part in sampled):
            item.add_marker(pytest.mark.nightly)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch, tmp_path):
    """No test may reach the network or the user's cache."""
    monkeypatch.setenv("JAXNETS_CACHE", str(tmp_path / "cache"))


# What these files hold concerns the programs as users run them; elsewhere compiling fast matters more.
OPTIMIZED = ("test_ops", "test_torch", "test_loop", "test_parallel", "test_run", "test_cli", "test_docs")


@pytest.fixture(autouse=True, scope="module")
def _compile_fast(request):
    """Half of a test's time is the compiler's optimisation, which most tests have no use for."""
    fast = request.module.__name__ not in OPTIMIZED
    jax.config.update("jax_disable_most_optimizations", fast)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(fast)  # for the processes that tests start
    yield
    jax.config.update("jax_disable_most_optimizations", False)


# Where the sharpness of pictures matters.
SHARP = ("test_field_reports", "test_field_machines_parts", "test_many_runs")


@pytest.fixture(autouse=True)
def _coarse_pictures(request, monkeypatch):
    """Most of the time of a report is drawing; elsewhere its pictures may be small."""
    if request.module.__name__ not in SHARP:
        monkeypatch.setattr(plots, "to_png", functools.partial(plots.to_png, dpi=20))


@pytest.fixture(scope="session")
def blobs():
    """Four noisy classes in 12 dims: 203 training examples (which nothing divides) and 61 for the test."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, 12)) * 1.5
    y = rng.integers(0, 4, 264)
    x = (centres[y] + rng.normal(size=(264, 12))).astype(np.float32)
    return from_arrays(x[:203], y[:203], test=(x[203:], y[203:]), name="blobs")


@pytest.fixture(scope="session")
def pictures():
    """Images 8x8 of four classes, uint8, the class told by a bright quadrant."""
    rng = np.random.default_rng(1)
    y = rng.integers(0, 4, 200)
    x = rng.integers(0, 100, (200, 8, 8, 1)).astype(np.uint8)
    for image, label in zip(x, y, strict=True):
        row, column = divmod(int(label), 2)
        image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 120
    return from_arrays(x[:160], y[:160], test=(x[160:], y[160:]), name="pictures")


@pytest.fixture(scope="session")
def experiment():
    """A small classification with dropout, a schedule and clipping: everything that depends on the step."""
    return Experiment(
        task=Classification(model=MLP(widths=(32, 16), dropout=0.2)),
        data=InMemory("blobs"),
        optimizer=AdamW(learning_rate=1e-2, clip_norm=1.0),
        steps=20,
        batch_size=24,
        log_every=7,
        eval_every=10,
        save_every=10,
    )


@pytest.fixture(scope="session")
def one_device():
    """A mesh of one device."""
    return make_mesh(MeshShape(), devices=jax.devices()[:1])


def whole_batch(run):
    """The inputs of a run whose batch is its whole data, in their own order, as the model gets them."""
    batch = run.parts.feed.batch(run.parts.feed.load(0, 1, 1), 0, jnp.int32(0))
    return jnp.asarray(np.asarray(batch["inputs"])[np.argsort(np.asarray(batch["index"]))])


def leaves(tree):
    """The leaves of a tree as numpy arrays, by path."""
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def assert_same_bits(a, b):
    """Two trees have the same structure and every leaf the same bits."""
    a, b = leaves(a), leaves(b)
    assert a.keys() == b.keys()
    different = [path for path in a if a[path].dtype != b[path].dtype or a[path].tobytes() != b[path].tobytes()]
    assert not different, f"leaves differ: {different[:5]}"


def assert_close(a, b, *, rtol=0.0, atol=0.0):
    """Two trees have the same structure and nearly equal leaves."""
    a, b = leaves(a), leaves(b)
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_allclose(a[path], b[path], rtol=rtol, atol=atol, err_msg=path)


def drawn(model, *inputs):
    """Variables of the model's shapes with every number away from where it starts; drawn by numpy, so nothing compiles."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        x = rng.normal(size=leaf.shape)
        if leaf.ndim > 1:
            return jnp.asarray(x / np.sqrt(np.prod(leaf.shape[:-1])), leaf.dtype)
        return jnp.asarray((path[-1].key in ("scale", "var")) + 0.2 * abs(x), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(model.init, jax.random.key(0), *inputs))


def output_and_gradient(apply, variables):
    """What `apply(variables)` gives and the gradient of the sum of its squared sines, by one compiled program; in numpy, where
    looking at each array compiles nothing."""

    def score(variables):
        y = apply(variables)
        return (jnp.sin(y) ** 2).sum(), y

    gradient, y = jax.device_get(jax.jit(jax.grad(score, has_aux=True))(variables))
    return y, gradient


def run_cli(*arguments, cwd=None, env=None, devices=1, timeout=240):
    """`python -m jaxnets ...` as a user runs it; returns the finished process."""
    full = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices), "COLUMNS": "120"}
    full.update(env or {})
    full["PYTHONPATH"] = os.pathsep.join(filter(None, [full.get("PYTHONPATH"), str(ROOT)]))
    command = [sys.executable, "-m", "jaxnets", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=full, capture_output=True, text=True, timeout=timeout)


def run_here(*arguments, cwd):
    """The same command without a process of its own, which costs seconds: for the second and later look at one run."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.run(list(map(str, arguments)))
        except SystemExit as exit_:  # a flag that cannot be read
            code = exit_.code
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def replace(experiment, **changes):
    """The experiment with fields replaced."""
    return dataclasses.replace(experiment, **changes)
