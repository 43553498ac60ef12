# Programs for machines that have glibc and a driver and nothing else (preset gpu-check): abseil,
# OpenSSL and libstdc++ are linked in.

option(TANDEM_GPU_CHECK "Build the device tests and benchmarks that tools/gpu_check runs" OFF)
set(TANDEM_GPU_CHECK_DIR "${PROJECT_BINARY_DIR}/gpu_check")
set(TANDEM_TEST_ROOT "${PROJECT_SOURCE_DIR}")  # whose tests/golden tests read
if(NOT TANDEM_GPU_CHECK)
  return()
endif()
set(TANDEM_TEST_ROOT ".")  # the checkout that a program runs in
if(NOT TANDEM_WITH_CUDA)
  message(FATAL_ERROR "TANDEM_GPU_CHECK needs nvcc")
endif()

add_custom_target(gpu_check)
set(OPENSSL_USE_STATIC_LIBS TRUE)
add_link_options(-static-libstdc++ -static-libgcc -s)

# The packaged targets name shared libraries; the archives lie beside them.
get_property(targets DIRECTORY "${PROJECT_SOURCE_DIR}" PROPERTY IMPORTED_TARGETS)
list(FILTER targets INCLUDE REGEX "^absl::")
foreach(target ${targets})
  get_target_property(configurations ${target} IMPORTED_CONFIGURATIONS)
  foreach(configuration ${configurations})
    get_target_property(shared ${target} IMPORTED_LOCATION_${configuration})
    string(REGEX REPLACE "\\.so.*" ".a" archive "${shared}")
    if(EXISTS "${archive}")
      set_target_properties(${target} PROPERTIES IMPORTED_LOCATION_${configuration} "${archive}")
    endif()
  endforeach()
endforeach()
