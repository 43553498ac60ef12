# The kernel tests for a device: sources of emu_test, compiled by nvcc into kernel_test, which
# needs a driver and no compiler (tools/gpu_check).
set(device_tests
  attention_cells_test.cc
  attention_direct_test.cc
  attention_test.cc
  choose_clusters_test.cc
  dequant_weights_test.cc
  device_test.cc
  embed_codes_test.cc
  expert_sort_test.cc
  experts_test.cc
  head_test.cc
  kv_encode_test.cc
  kv_blocks_test.cc
  move_rows_test.cc
  norms_test.cc
  p_linear_test.cc
  pick_among_test.cc
  pick_test.cc
  qkv_post_test.cc
  rope_table_test.cc
  route_test.cc
  router_logits_test.cc
  row_ops_test.cc
  samples_test.cc
  verify_test.cc
  w_linear_clusters_test.cc
  w_linear_codes_test.cc
  w_linear_test.cc
  wrappers_test.cc)

tandem_cuda_library(kernel_test_sources ${device_tests})
tandem_cuda_objects(main device_main.cu)
add_executable(kernel_test managed_heap.cc ${host_sampler} ${main})
set_target_properties(kernel_test PROPERTIES
  RUNTIME_OUTPUT_DIRECTORY "${TANDEM_GPU_CHECK_DIR}")
target_link_libraries(kernel_test PRIVATE "$<LINK_LIBRARY:WHOLE_ARCHIVE,kernel_test_sources>"
  tandem_emu_test_device tandem_cuda tandem_kernels absl::flat_hash_map GTest::gmock)
target_include_directories(kernel_test PRIVATE "${PROJECT_SOURCE_DIR}")
# What compute-sanitizer runs.
file(WRITE "${TANDEM_GPU_CHECK_DIR}/kernel_test.small" "${tandem_small_tests}\n")
add_dependencies(gpu_check kernel_test)
