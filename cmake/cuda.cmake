# CUDA sources, compiled twice: by nvcc where the toolkit is installed, and always as host C++
# against kernels/emu.

set(TANDEM_CUDA AUTO CACHE STRING "Compile CUDA kernels with nvcc: AUTO (if it is found), ON or OFF")
set_property(CACHE TANDEM_CUDA PROPERTY STRINGS AUTO ON OFF)
set(TANDEM_WITH_CUDA OFF)

# Sets `problem` to what keeps nvcc from being used, or to nothing.
function(tandem_find_nvcc problem)
  find_program(TANDEM_NVCC nvcc HINTS "$ENV{CUDA_HOME}/bin" /usr/local/cuda/bin)
  find_program(TANDEM_PYTHON python3)
  if(NOT TANDEM_NVCC)
    set(${problem} "nvcc was not found (CUDA_HOME, PATH, /usr/local/cuda)" PARENT_SCOPE)
    return()
  endif()
  if(NOT TANDEM_PYTHON)
    set(${problem} "python3, which compiles them, was not found" PARENT_SCOPE)
    return()
  endif()
  execute_process(COMMAND "${TANDEM_NVCC}" --version OUTPUT_VARIABLE text ERROR_QUIET)
  string(REGEX MATCH "release ([0-9]+\\.[0-9]+)" found "${text}")
  if(NOT found OR CMAKE_MATCH_1 VERSION_LESS 12.8)
    set(${problem} "${TANDEM_NVCC} is older than 12.8, the first for sm_120" PARENT_SCOPE)
    return()
  endif()
  get_filename_component(root "${TANDEM_NVCC}" DIRECTORY)
  get_filename_component(root "${root}" DIRECTORY)
  find_library(TANDEM_CUDART cudart_static
    HINTS "${root}/lib64" "${root}/lib" "${root}/targets/x86_64-linux/lib")
  if(NOT TANDEM_CUDART)
    set(${problem} "${root} has no libcudart_static.a" PARENT_SCOPE)
    return()
  endif()
  set(${problem} "" PARENT_SCOPE)
endfunction()

if(TANDEM_CUDA STREQUAL "OFF")
  message(STATUS "CUDA kernels: not compiled for devices (TANDEM_CUDA=OFF); emulation only")
else()
  tandem_find_nvcc(problem)
  if(problem STREQUAL "")
    set(TANDEM_WITH_CUDA ON)
    message(STATUS "CUDA kernels: compiled by ${TANDEM_NVCC}")
  elseif(TANDEM_CUDA STREQUAL "ON")
    message(FATAL_ERROR "TANDEM_CUDA=ON, but ${problem}")
  else()
    message(STATUS "CUDA kernels: not compiled for devices, ${problem}; emulation only")
  endif()
endif()

if(TANDEM_WITH_CUDA)
  # The CUDA runtime, linked in: it finds the driver when the program runs.
  get_filename_component(root "${TANDEM_NVCC}" DIRECTORY)
  add_library(tandem_cudart INTERFACE)
  target_include_directories(tandem_cudart SYSTEM INTERFACE "${root}/../include")
  target_link_libraries(tandem_cudart INTERFACE "${TANDEM_CUDART}" Threads::Threads
    ${CMAKE_DL_LIBS} rt)
endif()

set(TANDEM_CUDA_ARCHITECTURES "" CACHE STRING
  "What nvcc compiles for, such as 80;90a, beside PTX of 8.0 (empty: all of compile_cu.py)")

# tandem_cuda_objects(variable a.cu ...): sets the variable to objects with device code for every
# architecture, their kernels within the register budgets of budget.txt in the same folder
# (kernels/cuda/compile_cu.py). Only where TANDEM_WITH_CUDA is on.
function(tandem_cuda_objects variable)
  set(script "${PROJECT_SOURCE_DIR}/kernels/cuda/compile_cu.py")
  set(budget "${CMAKE_CURRENT_SOURCE_DIR}/budget.txt")
  set(options "--nvcc" "${TANDEM_NVCC}" "--launcher=${CMAKE_CXX_COMPILER_LAUNCHER}"
    "--root" "${PROJECT_SOURCE_DIR}")
  if(TANDEM_CUDA_ARCHITECTURES)
    string(REPLACE ";" "," architectures "${TANDEM_CUDA_ARCHITECTURES}")
    list(APPEND options "--architectures" "${architectures}")
  endif()
  set(objects)
  foreach(source ${ARGN})
    set(object "${CMAKE_CURRENT_BINARY_DIR}/${source}.o")
    add_custom_command(OUTPUT "${object}"
      COMMAND "${TANDEM_PYTHON}" "${script}" ${options}
        --budget "${budget}" --object "${object}" --depfile "${object}.d"
        "${CMAKE_CURRENT_SOURCE_DIR}/${source}"
      DEPENDS "${source}" "${script}" "${budget}"
      DEPFILE "${object}.d"
      COMMENT "nvcc ${source}"
      VERBATIM)
    list(APPEND objects "${object}")
  endforeach()
  set_source_files_properties(${objects} PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
  set(${variable} ${objects} PARENT_SCOPE)
endfunction()

# tandem_cuda_library(name a.cu ...): the same as a library, with the CUDA runtime. Defines nothing
# where TANDEM_WITH_CUDA is off.
function(tandem_cuda_library name)
  if(NOT TANDEM_WITH_CUDA)
    return()
  endif()
  tandem_cuda_objects(objects ${ARGN})
  add_library(${name} STATIC ${objects})
  set_target_properties(${name} PROPERTIES LINKER_LANGUAGE CXX)
  target_link_libraries(${name} INTERFACE tandem_cudart)
endfunction()

# tandem_emulated_sources(target a.cu ...): the same files as host C++, part of `target`.
function(tandem_emulated_sources target)
  target_sources(${target} PRIVATE ${ARGN})
  set_source_files_properties(${ARGN} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-xc++")
  target_link_libraries(${target} PUBLIC tandem_emu)
endfunction()
