"""Tests that `make test` leaves out and `make test-thorough` runs.

Each repeats a check of `make test` for a further model, option or number of devices, and takes
seconds to a minute. Removing a line adds its tests to `make test`.
"""

PATTERNS = (
    # Further models against PyTorch; ResNet-20 and ResNet-50 stay.
    r"models/test_against_torch\.py::test_logits_and_a_step\[(resnext|vgg|resnet-18|densenet)",
    r"models/test_repvgg\.py::test_logits_are_those_of_timm",
    r"models/test_activations\.py::test_images_stay_different_through_55_layers",
    # Very deep models.
    r"training/test_deep_plain_networks\.py",
    r"models/test_scan\.py::test_gradients_through_1202_layers",
    r"models/test_layer_counts\.py::test_totals_of_the_paper\[resnet-1202",
    r"models/test_registry\.py::test_counts_on_cifar\[preact-1001",
    r"models/test_registry\.py::test_counts_.*\[resnet-(101|152)",
    r"models/test_resnet\.py::test_params_of_options_a_and_b\[(44|56|110)",
    # Further families and options.
    r"models/test_scan\.py::test_variables_values_and_gradients_are_equal\[(none|A-fields1)",
    r"models/test_remat\.py::test_variables_values_and_gradients_are_equal\[(none|B)",
    r"models/test_remat\.py::test_the_compiled_program_needs_less_memory\[False",
    r"models/test_remat\.py::test_vmap_over_two_seeds",
    r"models/test_blocks\.py::test_zero_init_leaves_only_the_shortcut\[(basic-True|bottleneck-False)",
    r"models/test_resnet\.py::test_any_image_size_and_channel_count\[image_shape1-[^A]",
    r"models/test_resnet\.py::test_every_norm_trains\[(none|instance)",
    r"models/test_sizes\.py::.*\[(densenet|preact|resnet-50|resnext)",
    r"training/test_every_model\.py::test_small_models_train\[(vgg|resnetrs|resnext|preact|lenet)",
    r"training/test_every_model\.py::test_small_models_train\[(dirac|repvgg)",
    r"training/test_every_model\.py::test_small_models_train_alike_.*\[(stargan|sepreact)",
    r"training/test_gradients\.py::test_micro_batches_drop_.*\[batch",
    r"pretrained/test_timm\.py::test_logits_.*\[(seresnet-10|resnetaa)",
    r"pretrained/test_timm\.py::test_parameters_.*\[(seresnext|resnetaa)",
    r"training/test_every_model\.py::test_small_models_train\[(skipinit|convnext|resnet-8)",
    r"training/test_without_norms\.py",
    r"training/test_fine_tuning\.py::test_a_frozen_backbone_.*\[(vgg|densenet|resnet-14-B|preact)",
    r"training/test_fine_tuning\.py::test_only_frozen_layers_keep_their_weights\[frozen[12]",
    r"training/test_optimizer_runs\.py::test_a_run_resumes_bit_for_bit\[(every|lars)",
    r"training/test_optimizer_runs\.py::test_(a_run_on_two_devices|replicas)",
    r"training/test_compiled_steps\.py::test_no_array_.*\[(resnet-8-C|plain|densenet|stargan|vgg)",
    r"training/test_compiled_steps\.py::test_no_array_.*\[(preact|resnext|lenet)",
    r"experiments/analyses/test_identity_init\.py::test_outputs_equal_.*, (32|44)\)-plain",
    # Further devices and dispatches.
    r"training/test_gradients\.py::test_sam_and_averages_on_devices_equal_those_on_one_device",
    r"training/test_weight_average\.py::test_the_average_begins_with_pretrained_weights\[True",
    r"training/test_input_pipeline\.py::test_a_streamed_run_on_two_devices_.*\[pmap",
    r"training/test_loop\.py::test_the_next_dispatch_is_launched_.*\[1-1",
    # Augmentation recipes with further numbers of devices and replicas.
    r"training/test_augmented_batch\.py::test_(two_devices_equal_one\[pmap|replicas_equal)",
    r"data/test_mixing\.py::test_mixing_does_not_depend_.*\[3",
    r"data/test_policies\.py::test_draws_do_not_depend_.*\[(trivial|autoaugment)",
    # Other instruction sets than AVX2 and that of this machine; further shapes.
    r"cpu/test_instruction_sets\.py::test_values_and_gradients\[(x86-64|avx512)-",
    r"cpu/test_bfloat16\.py::test_convolution_and_its_gradients\[\((33|12|8, 8, 64)",
    # PyTorch's programs of the benchmarks.
    r"benchmarks/test_torch_train\.py::test_killed_run_resumes_to_the_same_metrics",
    r"benchmarks/test_torch_(peer|graphs)\.py::test_(logits_from_the_same_weights|losses_of_training)",
    r"benchmarks/test_device_check\.py::test_bfloat16_and_tf32_are_noticed",
    # Waits for a time limit; continuous integration builds the site by its own command.
    r"experiments/test_reproduction\.py::test_time_limit_and_pytorch_runs",
    r"tools/docs/test_pages\.py::test_the_site_is_built_without_warnings",
    # The tool; tests of sweeps and of checkpoints kill and damage runs too.
    r"tools/test_kill_runs\.py::test_a_killed_and_damaged_run",
)
